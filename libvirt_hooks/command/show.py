# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset show`: all that is known of one controller."""

from argparse import Namespace

from .. import show
from ..host import Host
from .names import find
from .policies import lenient


def run(arguments: Namespace, host: Host) -> int:
    """Print it.

    :raises HookError: there is no such controller, or the kernel did not let us look.
    """
    print(show.show(host, lenient(host), find(host, arguments.bdf)))
    return 0
