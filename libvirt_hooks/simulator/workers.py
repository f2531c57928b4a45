# SPDX-License-Identifier: LGPL-2.1-or-later
"""Workers: locks per controller, and jobs that run "at once" under a deadline.

Stands for flock(2) on files under /run and for worker processes that get SIGKILL: one that
hangs in the kernel keeps its lock until the kernel lets it go, and does nothing afterwards.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..bdf import Bdf
from ..errors import DeviceBusy, HookError, Stuck
from ..host import Job
from .clock import SimClock


class _Killed(BaseException):
    """The worker is past its deadline: nothing it does from here on happens."""


class Workers:
    """Who runs, until when, and who holds which lock."""

    def __init__(self, clock: SimClock) -> None:
        self.locked_until: dict[Bdf, float] = {}
        self._clock = clock
        self._deadline = float("inf")
        self._doing = ""

    def enter(self) -> None:
        """A worker asks something of the machine; a dead one cannot."""
        if self._clock.now > self._deadline:
            raise _Killed

    def sleep(self, seconds: float) -> None:
        """Sleep, or be killed in one's sleep."""
        self.enter()
        if self._clock.now + seconds > self._deadline:
            self._clock.reach(self._deadline)
            raise _Killed
        self._clock.advance(seconds)

    def doing(self, what: str, seconds: float) -> None:
        """A worker says what comes next, and that it may take *seconds* from now."""
        self.enter()
        self._doing = what
        self._deadline = max(self._deadline, self._clock.now + seconds)

    @contextmanager
    def lock(self, bdf: Bdf, timeout: float) -> Iterator[None]:
        """Hold the lock of *bdf*. Taking it twice is waiting for oneself."""
        self.enter()
        free_at = self.locked_until.get(bdf, 0.0)
        if free_at > self._clock.now + timeout:
            self.sleep(timeout)
            raise DeviceBusy(f"{bdf}: lock: still taken after {timeout:g} s")
        self._clock.reach(free_at)
        self.locked_until[bdf] = float("inf")
        try:
            yield
        finally:
            self.locked_until[bdf] = self._clock.now

    def each(self, bdfs: Sequence[Bdf], job: Job, timeout: float) -> dict[Bdf, str | HookError]:
        """Run the jobs one after the other, but all from the same moment on."""
        began, outer = self._clock.now, self._deadline
        ended = began
        results: dict[Bdf, str | HookError] = {}
        for bdf in bdfs:
            self._deadline, self._doing = began + timeout, "starting"
            result = self._run(bdf, job)
            deadline, self._deadline = self._deadline, outer
            if result is None or self._clock.now > deadline:
                waited = f"not done after {deadline - began:.1f} s"
                result = Stuck(f"{bdf}: {self._doing}: {waited}")
            results[bdf] = result
            ended = max(ended, min(self._clock.now, deadline))
            self._clock.rewind(began)
        self._clock.reach(ended)
        return results

    def _run(self, bdf: Bdf, job: Job) -> str | HookError | None:
        try:
            return job(bdf)
        except HookError as error:
            return error
        except _Killed:
            return None
