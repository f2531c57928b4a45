# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset recover`: one controller, or all that hooks have left behind."""

from argparse import Namespace

from .. import policy, recovery
from ..errors import HookError
from ..host import Host
from .names import find
from .output import complain
from .waiting import each_told, told


def run(arguments: Namespace, host: Host) -> int:
    """Do it.

    :raises HookError: that one is in use, or nothing brought it back.
    """
    known = policy.load(host)
    if arguments.bdf is not None:
        bdf = find(host, arguments.bdf)
        with told(host):
            result = recovery.recover_one(host, known, bdf)
        print(result)
        return 0
    status, idle = 0, True
    for said in each_told(host, recovery.recover_all(host, known)):
        idle = False
        if isinstance(said, HookError):
            complain(said)
            status = said.exit_status
        else:
            print(said)
    if idle:
        print("nothing is left over")
    return status
