# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset recover`: one controller, or all that hooks have left behind."""

from argparse import Namespace

from .. import policy, recovery
from ..errors import HookError
from ..host import Host
from .names import find
from .output import complain


def run(arguments: Namespace, host: Host) -> int:
    """Do it.

    :raises HookError: that one is in use, or nothing brought it back.
    """
    known = policy.load(host)
    if arguments.bdf is not None:
        print(recovery.recover_one(host, known, find(host, arguments.bdf)))
        return 0
    status, idle = 0, True
    for told in recovery.recover_all(host, known):
        idle = False
        if isinstance(told, HookError):
            complain(told)
            status = told.exit_status
        else:
            print(told)
    if idle:
        print("nothing is left over")
    return status
