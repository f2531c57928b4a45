# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an operation would do to a controller, in words, for a policy that only observes.

The same decisions as the real thing, on what can be seen without touching: the registers of a
function that sleeps cannot be.
"""

import logging
from collections.abc import Iterable

from .bdf import Bdf
from .errors import SysfsError
from .guard import guards
from .host import Host
from .observe import NVME, VFIO_PCI, Observation, number, observe
from .plan import Done, Goal, Try, decide
from .policy import GuardChoice, Policy
from .telling import about

log = logging.getLogger(__name__)

GOALS = {"prepare": Goal.PRISTINE, "start": Goal.DISABLED, "stopped": Goal.PRISTINE}
"""What each operation brings a controller to; the others touch no register of one that is well."""
GUARDING = frozenset({"start", "reconnect"})


def tell(host: Host, policy: Policy, operation: str, bdfs: Iterable[Bdf]) -> None:
    """Log what *operation* would do to each of *bdfs*."""
    for bdf in bdfs:
        vendor, device = (number(host.read_attr(bdf, name)) for name in ("vendor", "device"))
        try:
            seen = observe(host, bdf, policy.quirk(bdf, vendor, device))
        except SysfsError as error:
            log.warning("observe: %s", error.message, extra=about(bdf))
            continue
        would = "; ".join(intents(operation, seen, policy.guard(bdf, vendor, device)))
        log.info("%s: observe: %s would: %s", bdf, operation, would, extra=about(bdf))


def intents(operation: str, seen: Observation, choice: GuardChoice) -> list[str]:
    """Return what *operation* would do, step by step, as far as it can be foreseen."""
    found = []
    goal = GOALS.get(operation)
    if goal is not None and not seen.open:
        found += _towards(goal, seen)
    if operation in GUARDING:
        values = guards(seen, choice)
        if values and values[0].split() != list(seen.reset_methods or ()):
            found.append(f"set reset_method to {values[0].strip()!r} while the guest runs")
    return found or ["change nothing"]


def _towards(goal: Goal, seen: Observation) -> list[str]:
    if seen.gone:
        return ["refuse it: it does not answer"]
    asleep = seen.driver in (None, VFIO_PCI) and seen.power_state != "D0"
    if asleep:
        return [f"wake it from {seen.power_state}, then bring it to {goal.value}"]
    match decide(seen, [], goal):
        case Done():
            return []
        case Try(_, steps):
            return [step.describe() for step in steps]
    owner = f"the host's {NVME} driver has it" if seen.driver == NVME else seen.evidence
    return [f"find nothing to do about it: {owner}"]
