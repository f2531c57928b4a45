# SPDX-License-Identifier: LGPL-2.1-or-later
"""Virtual time, and what happened in it: SimClock, Event, Trace.

An event is noted at the virtual second it happened, so jobs that ran "at once" interleave and
a timeline can be printed as it stands.
"""

from bisect import insort
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..bdf import Bdf

HOOK = "hook"
KEEPER = "keeper"
OURS = (HOOK, KEEPER)
"""Who is the code under test."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a function, or (bdf is None) to the whole machine.

    :param who: ``hook``, ``keeper``, ``libvirt``, ``QEMU``, ``guest``, ``kernel``, ``nvme`` or
        ``drive``.
    """

    seconds: float
    bdf: Bdf | None
    text: str
    who: str = HOOK


class SimClock:
    """Seconds since the machine was switched on."""

    def __init__(self) -> None:
        self.now = 0.0

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        if seconds < 0:
            raise ValueError(f"sleep of {seconds} s")
        self.now += seconds

    def reach(self, moment: float) -> None:
        """Let time pass until *moment*, unless it has passed already."""
        self.now = max(self.now, moment)

    def rewind(self, moment: float) -> None:
        """Go back to *moment*: what ran since then ran beside something that comes now."""
        self.now = min(self.now, moment)


class Trace:
    """Events in the order of time, and breaches of the rules by the code under test."""

    def __init__(self, clock: SimClock) -> None:
        self.events: list[Event] = []
        self.violations: list[str] = []
        self.actor = HOOK
        self._clock = clock

    def note(self, bdf: Bdf | None, text: str, who: str = "", at: float | None = None) -> None:
        """Record an event of now, or of *at*, by whoever acts, or by *who*."""
        moment = round(self._clock.now if at is None else at, 6)
        insort(self.events, Event(moment, bdf, text, who or self.actor), key=lambda e: e.seconds)

    def violation(self, bdf: Bdf, text: str) -> None:
        """Record that the code under test broke a rule; the kernel and guests may."""
        if self.actor in OURS:
            self.violations.append(f"{bdf}: {text}")

    @contextmanager
    def acting(self, who: str) -> Iterator[None]:
        """What happens inside is done by *who*, not by the code under test."""
        before, self.actor = self.actor, who
        try:
            yield
        finally:
            self.actor = before
