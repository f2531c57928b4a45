# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset show`: all that is known of one controller."""

import json
from argparse import Namespace

from ..document import document
from ..host import Host
from ..known import find_out
from ..show import lines
from .names import find
from .output import emit
from .policies import lenient


def run(arguments: Namespace, host: Host) -> int:
    """Print it.

    :raises HookError: there is no such controller, or the kernel did not let us look.
    """
    bdf = find(host, arguments.bdf)
    # Worded where it is found out, in a worker, from which only text comes back.
    both = find_out(
        host,
        lenient(host),
        bdf,
        lambda known: json.dumps([document(known), list(lines(known))]),
    )
    found, worded = json.loads(both)
    emit(arguments, {"controller": found}, worded)
    return 0
