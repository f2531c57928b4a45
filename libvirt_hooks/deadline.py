# SPDX-License-Identifier: LGPL-2.1-or-later
"""Deadline: a moment, not a counter, on a clock that is handed in."""

from collections.abc import Callable


class Deadline:
    """A moment *seconds* from now on *clock* (``Host.monotonic``)."""

    def __init__(self, clock: Callable[[], float], seconds: float) -> None:
        self._clock = clock
        self._began = clock()
        self._ends = self._began + seconds

    @property
    def expired(self) -> bool:
        return self._clock() >= self._ends

    @property
    def elapsed(self) -> float:
        """Seconds since it was set."""
        return self._clock() - self._began
