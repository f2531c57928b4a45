# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset recover`: one controller, or all that hooks have left behind."""

from argparse import Namespace

from .. import metrics, policy, recovery
from ..errors import HookError
from ..host import Host
from ..policy import Policy
from .names import find
from .output import complain
from .waiting import each_told, told


def run(arguments: Namespace, host: Host) -> int:
    """Do it.

    :raises HookError: that one is in use, or nothing brought it back.
    """
    known = policy.load(host)
    bdf = find(host, arguments.bdf) if arguments.bdf is not None else None
    with metrics.measured(host, "recover", known):
        if bdf is None:
            return _all(host, known)
        with told(host):
            result = recovery.recover_one(host, known, bdf)
        print(result)
        return 0


def _all(host: Host, known: Policy) -> int:
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
