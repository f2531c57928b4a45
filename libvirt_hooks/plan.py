# SPDX-License-Identifier: LGPL-2.1-or-later
"""decide(): what to do next about one controller. The whole policy of the engine, and pure.

Facts change after each reset, so nothing is planned further than the next rung.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from .ladder import LADDER, LADDER_BUS_FIRST, PROBE, RECOVERY, Method, Refusal, Rung, Step
from .nvme import ControllerState
from .observe import NVME, Observation


class Goal(Enum):
    """What a controller must be before we let go of it."""

    DISABLED = "disabled"
    """No reset can hurt it: what vfio's own reset at QEMU's open needs."""
    PRISTINE = "pristine"
    """As after power-on: what the next owner should find."""
    LIVE = "live"
    """Back with the host's driver, which can use it."""

    def reached(self, seen: Observation, was_reset: bool = False) -> bool:
        """Is *seen* good enough?

        After a reset by the kernel queue registers that are still set tell nothing: QEMU 7.2's
        controller keeps AQA, ASQ and ACQ through every reset, and no further one would clear them.
        """
        if self is Goal.LIVE:
            return seen.live
        return seen.pristine or (seen.disabled and (was_reset or self is Goal.DISABLED))


CALM = (ControllerState.SHUT_DOWN, ControllerState.DISABLED)
"""As an orderly driver leaves a controller."""


@dataclass(frozen=True)
class Done:
    """The goal has been seen."""


@dataclass(frozen=True)
class Try:
    """Take this rung."""

    method: Method
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class GiveUp:
    """No rung is left. Why each that was not tried may not be."""

    refusals: dict[Method, Refusal]


def decide(
    seen: Observation,
    tried: Sequence[Method],
    goal: Goal,
    was_reset: bool = False,
    recovering: bool = False,
) -> Done | Try | GiveUp:
    """Decide the next move.

    :param tried: rungs already taken, in order: each is taken once, whatever came of it; a probe
        again after each reset, and the ladder on what was enumerated anew and is CALM.
    :param was_reset: one of them was a reset by the kernel that ran to its end.
    :param recovering: the function may also be removed and enumerated anew.
    """
    if goal.reached(seen, was_reset):
        return Done()
    if goal is Goal.LIVE and seen.driver not in (None, NVME):
        return GiveUp({})  # somebody has come for it: it will not be the host's
    refusals: dict[Method, Refusal] = {}
    for rung in rungs(seen, goal, recovering):
        if rung.method in _past(rung, tried, seen):
            continue
        refusal = rung.refusal(seen)
        if refusal is None:
            return Try(rung.method, rung.steps(seen))
        refusals[rung.method] = refusal
    return GiveUp(refusals)


def _past(rung: Rung, tried: Sequence[Method], seen: Observation) -> Sequence[Method]:
    if rung is PROBE:
        return tried[-1:]
    if rung in RECOVERY or seen.state not in CALM:
        return tried
    # The host's driver may have had it, and left it as it leaves any: shut down.
    enumerations = [each.method for each in RECOVERY]
    last = max((at for at, method in enumerate(tried) if method in enumerations), default=0)
    return tried[last:]


def rungs(seen: Observation, goal: Goal, recovering: bool) -> tuple[Rung, ...]:
    """Every way that leads to *goal*, the gentlest first."""
    ladder = LADDER_BUS_FIRST if seen.quirk.prefer_bus else LADDER
    return (
        *((PROBE,) if goal is Goal.LIVE else ()),
        *ladder,
        *(RECOVERY if recovering else ()),
    )
