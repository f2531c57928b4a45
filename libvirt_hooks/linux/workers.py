# SPDX-License-Identifier: LGPL-2.1-or-later
"""each(): forked workers for the controllers, so that none can kill, block or outlive the hook.

A worker may die of SIGBUS (its mapping was revoked) or never return from the kernel (a reset of a
dead function). Its words come over a pipe, a line of JSON each; its death over a pidfd. Sources:
pidfd_open(2); libvirt src/util/vircommand.c (waits for the end of file on stdout *and* stderr).
"""

import json
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from ..bdf import Bdf
from ..deadline import Deadline
from ..errors import DeviceBusy, HookError, Stuck
from ..host import Job, Telling
from .processes import start_time
from .worker import work

OVERTIME = 0.3
"""Seconds past its deadline that a worker gets to put back what it changed; then it is killed."""
GRACE = 0.05
"""Seconds that a killed or finished worker may take to be gone; then it is left to init."""


TELLING = 1.0
"""Seconds between two times that whoever watches is told the same."""

MOST = 8
"""Workers at a time. Each has to copy 3 MiB of the interpreter's pages before it gets anywhere
(measured: 900 faults, 5 ms), so 64 controllers would keep two cores busy for longer than a reset
takes. Beyond this number they share workers, a thread each."""

Outcomes = dict[Bdf, str | HookError]


def each(
    bdfs: Sequence[Bdf], job: Job, deadline: Deadline, tell: Telling | None = None
) -> Outcomes:
    """See host.Host.each. One controller gets a worker too: what kills it must not kill us."""
    wanted = list(dict.fromkeys(bdfs))
    groups = [wanted[at::MOST] for at in range(min(MOST, len(wanted)))]
    outcomes = _together(groups, job, deadline, tell)
    # Who shared a worker with the one that killed it has not deserved it. What was half done is
    # in the journal.
    bystanders = [bdf for bdf in wanted if bdf not in outcomes]
    for at in range(0, len(bystanders), MOST):
        outcomes |= _together([[bdf] for bdf in bystanders[at : at + MOST]], job, deadline, tell)
    return {bdf: outcomes[bdf] for bdf in wanted}


def _together(
    groups: Sequence[Sequence[Bdf]], job: Job, deadline: Deadline, tell: Telling | None
) -> Outcomes:
    """Run a worker for each group. Left out: what shared one with another that killed it."""
    workers: list[_Worker] = []
    outcomes: Outcomes = {}
    try:
        for group in groups:
            try:
                workers.append(_start(group, job, deadline, workers))
            except OSError as error:
                why = f"starting a worker: {error.strerror}"
                outcomes |= {bdf: HookError(f"{bdf}: {why}") for bdf in group}
        _listen(workers, tell)
    finally:
        for worker in workers:
            worker.kill()
        _reap(worker.pid for worker in workers)
    for worker in workers:
        outcomes |= worker.outcomes
    return outcomes


_unreaped: list[int] = []


class _Worker:
    # The parent's view: open descriptors to poll, and what was heard so far.

    def __init__(
        self, bdfs: Sequence[Bdf], pid: int, pidfd: int, pipe: int, deadline: Deadline
    ) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.pipe = pipe
        self.deadline = time.monotonic() + max(deadline.left, 0.0) + OVERTIME
        self.outcomes: Outcomes = {}
        self.is_dead = False
        self.polled = [pidfd, pipe]
        self._bdfs = {str(bdf): bdf for bdf in bdfs}
        self._doing = dict.fromkeys(bdfs, ("starting", time.time()))
        self._heard = b""

    @property
    def is_done(self) -> bool:
        return self.is_dead or len(self.outcomes) == len(self._bdfs)

    def hear(self) -> None:
        # One read has all that fits a pipe, so a worker that never stops talking cannot keep us
        # from the deadline. The pipe's end decides nothing, the pidfd does.
        with suppress(BlockingIOError):
            chunk = os.read(self.pipe, 65536)
            if not chunk:
                self.polled = [self.pidfd]
            *lines, self._heard = (self._heard + chunk).split(b"\n")
            for line in lines:
                words = json.loads(line)
                self._understand(self._bdfs[words["bdf"]], words)

    def _understand(self, bdf: Bdf, words: dict[str, object]) -> None:
        match words:
            case {"doing": str(text)}:
                self._doing[bdf] = (text, time.time())
            case {"extend": int(seconds) | float(seconds)}:
                self.deadline = max(self.deadline, time.monotonic() + seconds + OVERTIME)
            case {"done": str(text)}:
                self.outcomes[bdf] = text
            case {"failed": str(kind), "facts": dict(facts)}:
                self.outcomes[bdf] = _revived(kind, facts)

    @property
    def _unheard(self) -> list[Bdf]:
        return [bdf for bdf in self._bdfs.values() if bdf not in self.outcomes]

    def died(self) -> None:
        self.hear()  # its last words may have come with its death
        self.is_dead = True
        if len(self._bdfs) == 1 and self._unheard:
            status = _status(self.pid)
            self.outcomes |= {bdf: self._death(bdf, status) for bdf in self._unheard}

    def _death(self, bdf: Bdf, status: int | None) -> HookError:
        doing, _ = self._doing[bdf]
        if status is None or not os.WIFSIGNALED(status):
            code = "unknown" if status is None else os.waitstatus_to_exitcode(status)
            return HookError(f"{bdf}: worker ended with status {code} while {doing}")
        number = os.WTERMSIG(status)
        text = f"worker killed by signal {number} ({signal.strsignal(number)}) while {doing}"
        if number == signal.SIGBUS:
            return DeviceBusy(f"{bdf}: {text}", "a driver claimed the BAR meanwhile")
        return HookError(f"{bdf}: {text}")

    def tell(self, tell: Telling) -> None:
        for bdf in self._unheard:
            doing, began = self._doing[bdf]
            tell(bdf, doing, time.time() - began, self.deadline - time.monotonic())

    def overstay(self) -> None:
        started = start_time(self.pid) or 0
        for bdf in self._unheard:
            doing, began = self._doing[bdf]
            since = time.strftime("%H:%M:%S", time.localtime(began))
            self.outcomes[bdf] = Stuck(
                f"{bdf}: {doing}: not done since {since}, process {self.pid} left behind",
                hint="the kernel says in dmesg what it waits for",
                pid=self.pid,
                started=started,
            )

    def kill(self) -> None:
        # Also one that has delivered: it has nothing left to do. One in uninterruptible sleep
        # dies when the kernel lets it, and holds nothing of libvirt's till then.
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        os.close(self.pipe)
        os.close(self.pidfd)


def _start(bdfs: Sequence[Bdf], job: Job, deadline: Deadline, others: Sequence[_Worker]) -> _Worker:
    pipe, out = os.pipe()
    try:
        os.set_blocking(pipe, False)
        pid = os.fork()
        if pid == 0:
            theirs = [fd for other in others for fd in (other.pipe, other.pidfd)]
            work(bdfs, job, out, [pipe, *theirs])
        try:
            return _Worker(bdfs, pid, os.pidfd_open(pid), pipe, deadline)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            _reap([pid])
            raise
    except OSError:
        os.close(pipe)
        raise
    finally:
        os.close(out)


def _revived(kind: str, facts: dict[str, object]) -> HookError:
    found = (cls for cls in _family(HookError) if cls.__name__ == kind)
    cls = next(found, HookError)
    error = cls.__new__(cls, facts["message"])  # each class's __init__ has arguments of its own
    vars(error).update(facts)
    return error


def _family(cls: type[HookError]) -> Iterator[type[HookError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _family(child)


def _listen(workers: Sequence[_Worker], tell: Telling | None) -> None:
    while busy := [worker for worker in workers if not worker.is_done]:
        poll = select.poll()
        owners = {fd: worker for worker in busy for fd in worker.polled}
        for fd in owners:
            poll.register(fd, select.POLLIN)
        left = min(worker.deadline for worker in busy) - time.monotonic()
        if tell is not None:
            left = min(left, TELLING)
            for worker in busy:
                worker.tell(tell)
        for fd, _ in poll.poll(max(0, int(left * 1000) + 1)):
            worker = owners[fd]
            if fd == worker.pidfd:
                worker.died()
            else:
                worker.hear()
        now = time.monotonic()
        for worker in busy:
            if not worker.is_done and now >= worker.deadline:
                worker.overstay()


def _status(pid: int) -> int | None:
    # None: not ours to ask (SIGCHLD is ignored) or not dead.
    with suppress(ChildProcessError):
        found, status = os.waitpid(pid, os.WNOHANG)
        return status if found else None
    return None


def _reap(pids: Iterable[int]) -> None:
    until = time.monotonic() + GRACE
    _unreaped.extend(pids)
    while _unreaped:
        _unreaped[:] = [pid for pid in _unreaped if _alive(pid)]
        if not _unreaped or time.monotonic() >= until:
            return
        time.sleep(0.001)


def _alive(pid: int) -> bool:
    with suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    return False
