# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an operation would do to a controller, in words, for a policy that only observes.

The same decisions as the real thing, on what can be seen without touching: the registers of a
function that sleeps cannot be.
"""

import logging
from collections.abc import Sequence
from functools import partial

from .bdf import Bdf
from .errors import HookError
from .guard import guards, wants_keeper
from .observe import NVME, VFIO_PCI, Observation, ids, observe
from .operation import Operation
from .plan import Done, Goal, Try, decide
from .policy import Close, GuardChoice
from .telling import about

log = logging.getLogger(__name__)

GOALS = {"prepare": Goal.PRISTINE, "start": Goal.DISABLED, "stopped": Goal.PRISTINE}
"""What each operation brings a controller to; the others touch no register of one that is well."""
GUARDING = frozenset({"start", "reconnect"})
KEEPING = frozenset({"started", "reconnect"})
"""Then QEMU runs, and has a descriptor to take a duplicate of."""


def tell(operation: Operation, name: str, bdfs: Sequence[Bdf]) -> None:
    """Log what the operation of libvirt's that is called *name* would do to each of *bdfs*.

    Looked at by workers, as everything that may block or kill who looks.
    """
    for bdf, result in operation.ask(bdfs, partial(_would, operation, name)).items():
        if isinstance(result, HookError):
            log.warning("observe: %s", result.message, extra=about(bdf))
        else:
            log.info("%s: observe: %s would: %s", bdf, name, result, extra=about(bdf))


def _would(operation: Operation, name: str, bdf: Bdf) -> str:
    host, policy = operation.host, operation.policy
    names = ids(host, bdf)
    seen = observe(host, bdf, policy.quirk(bdf, *names))
    choice, close = policy.guard(bdf, *names), policy.close(bdf, *names)
    return "; ".join(intents(name, seen, choice, close))


def intents(
    operation: str, seen: Observation, choice: GuardChoice, close: Close | None
) -> list[str]:
    """Return what *operation* would do, step by step, as far as it can be foreseen."""
    found = []
    goal = GOALS.get(operation)
    if goal is not None and not seen.open:
        found += _towards(goal, seen)
    if operation in GUARDING:
        values = guards(seen, choice)
        if values and values[0].split() != list(seen.reset_methods or ()):
            found.append(f"set reset_method to {values[0].strip()!r} while the guest runs")
    if operation in KEEPING and wants_keeper(seen.offered, close):
        found.append("keep a duplicate of its descriptor, and disable it before vfio's last close")
    return found or ["change nothing"]


def _towards(goal: Goal, seen: Observation) -> list[str]:
    if seen.gone:
        return ["refuse it: it does not answer"]
    if seen.driver in (None, VFIO_PCI) and (seen.power_state != "D0" or seen.registers is None):
        # `look` and `exclusive` make what is idle readable; what they find nobody knows yet.
        return [f"{_reaching(seen)}bring it to {goal.value}"]
    match decide(seen, [], goal):
        case Done():
            return []
        case Try(_, steps):
            return [step.describe() for step in steps]
    owner = f"the host's {NVME} driver has it" if seen.driver == NVME else seen.evidence
    return [f"find nothing to do about it: {owner}"]


def _reaching(seen: Observation) -> str:
    if seen.power_state != "D0":
        return f"wake it from {seen.power_state}, then "
    return f"reach its registers ({seen.unreadable}), then " if seen.unreadable else ""
