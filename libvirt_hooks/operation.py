# SPDX-License-Identifier: LGPL-2.1-or-later
"""Operation: a piece of work on several controllers at once, under one policy and one deadline."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

from . import custody, marks
from .bdf import Bdf
from .custody import NOBODY, Guests, Task
from .deadline import Deadline
from .errors import BadPolicy, BadRecord, DeviceBusy, HookError, OutOfTime, Stuck, SysfsError
from .host import Host, Job
from .policy import SILENT, GuestPolicy, Policy, load
from .snapshot import Process
from .telling import about

log = logging.getLogger(__name__)

Results = Mapping[Bdf, str | HookError]

UNFINISHED = (DeviceBusy, OutOfTime, Stuck)
"""What leaves a controller to a later operation."""


@dataclass(frozen=True)
class Operation:
    """What every job of one operation shares."""

    host: Host
    policy: Policy
    deadline: Deadline
    users: Mapping[Bdf, Sequence[Process]]
    """Who had the vfio group or cdev of each open when it began: a look at every process."""
    guests: Guests
    """For which it is done: what others have is left alone."""

    @classmethod
    def begin(
        cls,
        host: Host,
        policy: Policy,
        bdfs: Sequence[Bdf],
        guests: Guests = NOBODY,
        deadline: Deadline | None = None,
    ) -> Self:
        """Begin now, on these controllers: the deadline runs, if it did not before."""
        deadline = deadline or deadline_of(host, policy)
        return cls(host, policy, deadline, host.vfio_users(bdfs), guests)

    @classmethod
    def patient(
        cls, host: Host, policy: Policy, bdfs: Sequence[Bdf], guests: Guests = NOBODY
    ) -> Self:
        """Begin one that only a person waits for: it has all the time that any may have."""
        return cls.begin(host, policy._replace(deadline=policy.deadline_cap), bdfs, guests)

    def each(self, bdfs: Sequence[Bdf], task: Task) -> Results:
        """Do *task* on all of them at once, and tell what came of it."""
        results = self.ask(bdfs, partial(_tell, self.host, partial(self._job, task)))
        for bdf, result in results.items():
            if isinstance(result, HookError) and not result.told:
                # A worker that was killed, or is stuck, could not.
                log.error("%s", result.in_full, extra=about(bdf))
        return results

    def ask(self, bdfs: Sequence[Bdf], job: Job) -> Results:
        """Run *job* for all of them at once; remember a process that does not come back."""
        results = self.host.each(bdfs, job, self.deadline) if bdfs else {}
        for bdf, result in results.items():
            if isinstance(result, Stuck) and result.pid:
                self._mark_stuck(bdf, result)
        return results

    def _job(self, task: Task, bdf: Bdf) -> str:
        users = self.users.get(bdf, ())
        return custody.job(task, self.host, bdf, self.policy, self.deadline, users, self.guests)

    def _mark_stuck(self, bdf: Bdf, stuck: Stuck) -> None:
        try:
            marks.mark_stuck(self.host, bdf, stuck)
        except BadRecord as error:  # its lock keeps the next hook away all the same
            log.error("%s", error.message, extra=about(bdf))


def deadline_of(host: Host, policy: Policy) -> Deadline:
    """Return the deadline of an operation that begins now."""
    return Deadline(host.monotonic, policy.deadline, policy.deadline_cap)


def believed(host: Host, guest: GuestPolicy = SILENT) -> Policy:
    """The policy where nothing may be refused for its sake: what cannot be believed is told."""
    try:
        return load(host, guest)
    except (BadPolicy, SysfsError) as error:
        log.error("%s: defaults are used", error.message)
        return Policy()


def raise_first(results: Results) -> None:
    """Raise the first error among *results*, if there is one."""
    for result in results.values():
        if isinstance(result, HookError):
            raise result


def _tell(host: Host, job: Callable[[Bdf], str], bdf: Bdf) -> str:
    began = host.monotonic()
    try:
        result = job(bdf)
    except HookError as error:
        log.error("%s", error.in_full, extra=about(bdf, ELAPSED_MS=_since(host, began)))
        error.told = True
        raise
    log.info("%s: %s", bdf, result, extra=about(bdf, ELAPSED_MS=_since(host, began)))
    return result


def _since(host: Host, began: float) -> str:
    return f"{(host.monotonic() - began) * 1000:.3f}"
