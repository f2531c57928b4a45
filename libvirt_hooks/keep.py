# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entry point of a keeper (see ``keeper``): `/usr/bin/python3 -IS keep.py UUID`.

The hook starts it, nobody else; it needs nothing but the standard library.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    from libvirt_hooks.linux.keeper import main

    sys.exit(main(sys.argv[1]))
