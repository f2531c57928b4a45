# SPDX-License-Identifier: LGPL-2.1-or-later
"""Workers: locks per controller, and jobs that run "at once" under a deadline, and may be killed.

Stands for flock(2) on files under /run and for worker processes that get SIGKILL: one that
hangs in the kernel keeps its lock until the kernel lets it go, and does nothing afterwards.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..bdf import Bdf
from ..deadline import Deadline
from ..errors import DeviceBusy, HookError, Stuck
from ..host import Job, Telling
from .clock import SimClock
from .crash import Crash, Killed, Victim

OVERTIME = 0.3
FIRST_PID = 4000


class Workers:
    """Who runs, until when, who holds which lock, and who has been killed."""

    def __init__(self, clock: SimClock) -> None:
        self.locked_until: dict[Bdf | str, float] = {}
        self._locked_since: dict[Bdf | str, float] = {}
        self.crash: Crash | None = None
        self.tell: Telling | None = None
        self.effects: list[str] = []
        """Everything that the code under test has done to the machine, in words."""
        self._clock = clock
        self._runs_until: dict[int, float] = {}
        self.new_process()

    def new_process(self) -> None:
        """Another hook begins."""
        self._deadline = float("inf")
        self._doing = ""
        self._worker: Bdf | None = None
        self._dead: set[Bdf | None] = set()
        self._pipe_is_broken = False

    def enter(self) -> None:
        """A process asks something of the machine; a dead one cannot."""
        if self._worker in self._dead or self._clock.now > self._deadline:
            raise Killed

    @contextmanager
    def effect(self, what: str) -> Iterator[None]:
        """Something is about to change on the machine: here a process may be killed."""
        self.enter()
        self.effects.append(what)
        index = len(self.effects) - 1
        if self.crash is not None and self.crash.strikes(index, after=False):
            self._kill(self.crash.victim)
        yield
        if self.crash is not None and self.crash.strikes(index, after=True):
            self._kill(self.crash.victim)

    def _kill(self, victim: Victim) -> None:
        # A hook that works itself, without a worker, is its own only victim.
        if victim is not Victim.HOOK or self._worker is None:
            self._dead.add(self._worker)
        if victim is not Victim.WORKER:
            self._dead.add(None)
            self._pipe_is_broken = True
        self.enter()

    def sleep(self, seconds: float) -> None:
        """Sleep, or be killed in one's sleep."""
        self.enter()
        if self._clock.now + seconds > self._deadline:
            self._clock.reach(self._deadline)
            raise Killed
        self._clock.advance(seconds)

    def doing(self, what: str) -> None:
        """A worker says what comes next, and learns whether anybody still listens."""
        self.enter()
        self._doing = what
        if self.tell is not None and self._worker is not None:
            self.tell(self._worker, what, 0.0, self._deadline - self._clock.now)
        self._notice_a_broken_pipe()

    def extend(self, seconds: float) -> None:
        """A worker says that it ends within *seconds* from now, and not sooner."""
        self.enter()
        self._deadline = max(self._deadline, self._clock.now + seconds + OVERTIME)
        self._notice_a_broken_pipe()

    def _notice_a_broken_pipe(self) -> None:
        if self._worker is not None and self._pipe_is_broken:
            self._pipe_is_broken = False
            raise Stuck(f"{self._worker}: the hook that started this worker is gone")

    def runs(self, pid: int) -> bool:
        """Is a worker that was left behind still in the kernel?"""
        return self._clock.now < self._runs_until.get(pid, 0.0)

    @contextmanager
    def lock(self, what: Bdf | str, timeout: float) -> Iterator[None]:
        """Hold the lock of *what*. Taking it twice is waiting for oneself."""
        self.enter()
        free_at = self.locked_until.get(what, 0.0)
        if self._locked_since.get(what, 0.0) > self._clock.now:
            free_at = 0.0  # by what runs beside this, and has come to it only later
        if free_at > self._clock.now + timeout:
            self.sleep(timeout)
            raise DeviceBusy(f"{what}: lock: still taken after {timeout:g} s")
        self._clock.reach(free_at)
        self.locked_until[what] = float("inf")
        self._locked_since[what] = self._clock.now
        try:
            yield
        finally:
            self.locked_until[what] = self._clock.now

    def occupy(self, what: Bdf | str, seconds: float) -> None:
        """Somebody holds a lock for so long from now on."""
        self._locked_since[what] = self._clock.now
        self.locked_until[what] = self._clock.now + seconds

    def each(self, bdfs: Sequence[Bdf], job: Job, deadline: Deadline) -> dict[Bdf, str | HookError]:
        """Run the jobs one after the other, but all from the same moment on."""
        self.enter()
        began, outer = self._clock.now, self._deadline
        ended = began
        results: dict[Bdf, str | HookError] = {}
        for bdf in bdfs:
            self._deadline = began + max(deadline.left, 0.0) + OVERTIME
            self._doing, self._worker = "starting", bdf
            result = self._run(bdf, job)
            limit, self._deadline, self._worker = self._deadline, outer, None
            if result is None or self._clock.now > limit:
                result = self._left_behind(bdf, limit)
            results[bdf] = result
            ended = max(ended, min(self._clock.now, limit))
            self._clock.rewind(began)
        self._clock.reach(ended)
        self.enter()
        return results

    def _run(self, bdf: Bdf, job: Job) -> str | HookError | None:
        try:
            return job(bdf)
        except HookError as error:
            return error
        except Killed:
            return None

    def _left_behind(self, bdf: Bdf, limit: float) -> HookError:
        if bdf in self._dead:
            return HookError(f"{bdf}: worker killed by signal 9 (Killed) while {self._doing}")
        pid = FIRST_PID + len(self._runs_until)
        self._runs_until[pid] = self._clock.now
        what = f"{self._doing}: not done at {limit:.1f} s, process {pid} left behind"
        return Stuck(f"{bdf}: {what}", pid=pid, started=pid)
