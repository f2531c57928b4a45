# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset reset`: disable and reset an idle controller."""

from argparse import Namespace

from .. import admission, custody, metrics, policy
from ..bdf import Bdf
from ..errors import DeviceBusy, HookError
from ..host import Host
from ..observe import VFIO_PCI, ids
from ..operation import Operation, raise_first
from ..plan import Goal
from ..policy import Policy
from ..rehearsal import rehearsed
from ..survey import survey
from .asking import confirmed
from .names import find
from .waiting import told


def run(arguments: Namespace, host: Host) -> int:
    """Do it, or say what would be done.

    :raises HookError: it is in use, nobody could be asked, or no allowed reset helped.
    """
    bdf = find(host, arguments.bdf)
    with told(host):
        operation = _admitted(host, policy.load(host), bdf)
        steps = rehearsed(operation, bdf, Goal.PRISTINE) if arguments.dry_run else []
    if arguments.dry_run:
        print(f"{bdf}: would:", *steps, sep="\n  ")
        return 0
    if not arguments.yes and not _is_wanted(operation, bdf):
        print(f"{bdf}: left as it is")
        return 1
    with told(host):
        result = reset(host, bdf)
    print(f"{bdf}: {result}")
    return 0


def reset(host: Host, bdf: Bdf) -> str:
    """Bring an idle controller to pristine; return what came of it.

    :raises HookError: it is in use, or no allowed reset helped.
    """
    # Asked again, and the time begins now: whoever was asked may have thought for long.
    known = policy.load(host)
    with metrics.measured(host, "reset", known):
        results = _admitted(host, known, bdf).each([bdf], custody.clean)
        raise_first(results)
    return str(results[bdf])


def _admitted(host: Host, known: Policy, bdf: Bdf) -> Operation:
    """Begin, on a controller that nobody uses."""
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
    return operation


def _is_wanted(operation: Operation, bdf: Bdf) -> bool:
    """Nobody can say its model: only the host's driver knows that, and has let it go."""
    vendor, device = ids(operation.host, bdf)
    quirk = operation.policy.quirk(bdf, vendor, device).name
    driver = operation.host.driver(bdf)
    known = (f"{vendor:04x}:{device:04x}", quirk, f"on {driver}" if driver else "without a driver")
    return confirmed(
        f"Reset {bdf} ({', '.join(filter(None, known))})?",
        HookError(
            f"{bdf}: not reset: nobody can be asked: standard input is no terminal",
            hint=f"virt-nvme-reset reset --yes {bdf}",
        ),
    )
