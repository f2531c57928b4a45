# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset watch`: what list shows, drawn again and again until ctrl-C."""

import sys
import time
from argparse import Namespace

from ..errors import HookError
from ..host import Host
from .listing import entries, known_guests, table
from .policies import lenient
from .terminal import size

HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
"""ECMA-48: CUP, EL, ED. What is drawn over does not flicker, as what is cleared before would."""


def run(arguments: Namespace, host: Host) -> int:
    """Draw it.

    :raises HookError: there is no terminal to draw on.
    """
    if not sys.stdout.isatty():
        raise HookError(
            "watch: standard output is no terminal", hint="virt-nvme-reset list prints it once"
        )
    policy = lenient(host)
    try:
        print(HOME + REST_OF_SCREEN, end="")
        while True:
            columns, height = size()
            head = f"every {arguments.interval:g} s, now {time.strftime('%H:%M:%S')}; ctrl-C ends"
            found = entries(host, policy, known_guests(host))
            shown = [head[:columns], "", *table(found, columns)]
            drawn = "".join(f"{line}{REST_OF_LINE}\n" for line in shown[: height - 1])
            print(f"{HOME}{drawn}{REST_OF_SCREEN}", end="", flush=True)
            host.sleep(arguments.interval)
    except KeyboardInterrupt:
        return 0
