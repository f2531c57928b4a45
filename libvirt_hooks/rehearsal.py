# SPDX-License-Identifier: LGPL-2.1-or-later
"""What would be done to a controller, step by step, if each reset does what it is for.

The same decisions as the real thing: ``plan.decide``, asked again after each step that is only
imagined. Changes nothing, and wakes nothing.
"""

from collections.abc import Iterator
from dataclasses import replace

from .bdf import Bdf
from .engine import glimpse
from .ladder import Method
from .nvme import ACQ, AQA, ASQ, CAP, CC, CSTS, VS
from .observe import DECODE_OFF, VFIO_PCI, Observation, RegisterValues
from .operation import Operation, raise_first
from .plan import Done, GiveUp, Goal, Try, decide
from .work import locked

ENABLED = RegisterValues(
    cap=CAP().replace(TO=255),
    vs=VS(),
    cc=CC().replace(EN=1),
    csts=CSTS().replace(RDY=1),
    aqa=AQA(1),
    asq=ASQ(1),
    acq=ACQ(1),
)
"""What is imagined where registers cannot be read before it is woken: the most that there is to do,
for as long as it can take."""


def rehearsed(operation: Operation, bdf: Bdf, goal: Goal) -> list[str]:
    """Look at a controller, and rehearse.

    :raises HookError: it could not be looked at.
    """

    def job(bdf: Bdf) -> str:
        shared = (operation.policy, operation.deadline, operation.users.get(bdf, ()))
        with locked(operation.host, bdf, *shared) as work:
            return "\n".join(rehearse(glimpse(work), goal))

    results = operation.ask([bdf], job)
    raise_first(results)
    return str(results[bdf]).split("\n")


def rehearse(seen: Observation, goal: Goal) -> Iterator[str]:
    """Yield the steps in words. Pure."""
    hidden = _is_hidden(seen)
    if hidden:
        yield f"have its registers answer ({seen.unreadable}); then, if it is enabled:"
        seen = replace(seen, registers=ENABLED, power_state="D0", unreadable="")
    tried: list[Method] = []
    while True:
        match decide(seen, tried, goal, any(each is not Method.CONTROLLER for each in tried)):
            case Done():
                yield "put back what was changed for it" if hidden or tried else "nothing"
                return
            case GiveUp(refusals):
                yield f"give up: {seen.evidence}"
                yield from (f"  not {method}: {why}" for method, why in refusals.items())
                return
            case Try(method, steps):
                yield from (step.describe() for step in steps)
                tried.append(method)
                seen = replace(seen, registers=_after(seen.registers, method))


def _is_hidden(seen: Observation) -> bool:
    """Will its registers answer once it is woken, decodes them, or is opened through vfio?"""
    if seen.registers is not None or seen.gone or seen.driver not in (None, VFIO_PCI):
        return False
    may_be_opened = seen.driver == VFIO_PCI and not seen.open
    return may_be_opened or seen.power_state != "D0" or seen.unreadable.startswith(DECODE_OFF)


def _after(values: RegisterValues | None, method: Method) -> RegisterValues:
    """The registers once *method* has done what it is for."""
    assert values is not None, "the ladder refuses what cannot be read"
    if method is not Method.CONTROLLER:
        return replace(values, cc=CC(), csts=CSTS(), aqa=AQA(), asq=ASQ(), acq=ACQ())
    csts = values.csts.replace(RDY=0, SHST=0, CFS=0)
    return replace(values, cc=values.cc.replace(EN=0, SHN=0), csts=csts)
