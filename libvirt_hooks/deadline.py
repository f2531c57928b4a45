# SPDX-License-Identifier: LGPL-2.1-or-later
"""Deadline: one moment for a whole operation, on a clock that is handed in.

libvirtd waits for the hook with the domain locked and sets it no limit (libvirt 9.0
src/util/vircommand.c), so the hook sets its own, and every wait in it is a part of that one.
"""

from collections.abc import Callable
from typing import Self


class Deadline:
    """A moment *seconds* from now on *clock* (``Host.monotonic``).

    :param cap: seconds from now that no ``allow`` moves it past.
    """

    def __init__(
        self, clock: Callable[[], float], seconds: float, cap: float = float("inf")
    ) -> None:
        self._clock = clock
        self._began = clock()
        self._seconds = seconds
        self._cap = cap
        self._allowed = 0.0

    @property
    def expired(self) -> bool:
        return self.left <= 0

    @property
    def elapsed(self) -> float:
        """Seconds since it was set."""
        return self._clock() - self._began

    @property
    def left(self) -> float:
        """Seconds until it is over; negative afterwards."""
        return min(self._seconds + self._allowed, self._cap) - self.elapsed

    def allow(self, seconds: float) -> None:
        """Put it off by what a drive may legally take; of several drives, by the slowest's."""
        self._allowed = max(self._allowed, seconds)

    def within(self, seconds: float) -> Self:
        """Return a deadline *seconds* from now, or this one if that is sooner."""
        return type(self)(self._clock, min(seconds, max(self.left, 0.0)))
