# SPDX-License-Identifier: LGPL-2.1-or-later
"""decide(): what to do next about one controller. The whole policy of the engine, and pure.

Facts change after each reset, so nothing is planned further than the next rung.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from .ladder import Method, Refusal, Step, ladder_for
from .observe import Observation


class Goal(Enum):
    """What a controller must be before we let go of it."""

    DISABLED = "disabled"
    """No reset can hurt it: what vfio's own reset at QEMU's open needs."""
    PRISTINE = "pristine"
    """As after power-on: what the next owner should find."""

    def reached(self, seen: Observation, was_reset: bool = False) -> bool:
        """Is *seen* good enough?

        After a reset by the kernel queue registers that are still set tell nothing: QEMU 7.2's
        controller keeps AQA, ASQ and ACQ through every reset, and no further one would clear them.
        """
        return seen.pristine or (seen.disabled and (was_reset or self is Goal.DISABLED))


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
    seen: Observation, tried: Collection[Method], goal: Goal, was_reset: bool = False
) -> Done | Try | GiveUp:
    """Decide the next move.

    :param tried: rungs already taken: each is taken once, whatever came of it.
    :param was_reset: one of them was a reset by the kernel that ran to its end.
    """
    if goal.reached(seen, was_reset):
        return Done()
    if seen.gone:
        # The kernel would wait 65 s for it, in an uninterruptible sleep (pci_dev_wait, v6.1).
        return GiveUp({})
    if seen.registers is None:
        # A reset that cannot be verified helps nobody: vfio does its own.
        return GiveUp({Method.CONTROLLER: seen.unreadable})
    refusals: dict[Method, Refusal] = {}
    for rung in ladder_for(seen):
        if rung.method in tried:
            continue
        refusal = rung.refusal(seen)
        if refusal is None:
            return Try(rung.method, rung.steps(seen))
        refusals[rung.method] = refusal
    return GiveUp(refusals)
