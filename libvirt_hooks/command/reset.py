# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset reset`: disable and reset an idle controller."""

from argparse import Namespace

from .. import admission, custody, metrics, policy
from ..bdf import Bdf
from ..errors import DeviceBusy
from ..host import Host
from ..observe import VFIO_PCI
from ..operation import Operation, raise_first
from ..policy import Policy
from ..survey import survey
from .names import find


def run(arguments: Namespace, host: Host) -> int:
    """Do it.

    :raises HookError: it is in use, or no allowed reset helped.
    """
    print(reset(host, find(host, arguments.bdf)))
    return 0


def reset(host: Host, bdf: Bdf) -> str:
    """Bring an idle controller to pristine.

    :raises HookError: it is in use, or no allowed reset helped.
    """
    known = policy.load(host)
    with metrics.measured(host, "reset", known):
        return _reset(host, known, bdf)


def _reset(host: Host, known: Policy, bdf: Bdf) -> str:
    operation = Operation.patient(host, known, [bdf])
    (facts,) = survey(operation, "", [bdf])
    refused = admission.refusal(facts, "be reset")
    if refused is not None:
        raise refused
    if facts.owner is not None:
        raise DeviceBusy(f"{bdf}: may not be reset: the guest with uuid {facts.owner} has it")
    if facts.driver not in (None, VFIO_PCI):
        raise DeviceBusy(
            f"{bdf}: may not be reset: driver is {facts.driver}, expected {VFIO_PCI} or none",
            hint=f"virsh nodedev-detach {bdf.nodedev}",
        )
    results = operation.each([bdf], custody.clean)
    raise_first(results)
    return f"{bdf}: {results[bdf]}"
