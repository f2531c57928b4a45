# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keeper: a process beside each guest with a drive that an FLR kills while it is enabled.

vfio resets a function when its last descriptor is closed. The keeper has a duplicate of QEMU's, so
it decides when that is. What it does with a controller then is ``closing``'s; here is when. Without
it, or when it dies, the guard alone protects. How it comes to be is ``linux.keeper``'s.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

from . import closing, keepers, metrics
from .bdf import Bdf
from .deadline import Deadline
from .errors import DeviceBusy, HookError
from .host import Host, Qemu
from .operation import believed
from .telling import about
from .work import Work, locked

log = logging.getLogger(__name__)

POLL = 0.25
"""Seconds between two looks whether QEMU has closed one: libvirt's reattach waits for us then."""
ADOPT_EVERY = 1.0
"""Seconds between two looks for what has been hot-plugged."""

GUARD_PATIENCE = 0.1
"""Seconds to wait for a lock, of who comes again in a second."""

OPERATION = "keeper"
"""What it does is counted as, and what its journal lines say."""

T = TypeVar("T")
Step = Callable[[Work, Qemu], T]


class Keeper:
    """What one guest's QEMU has, kept until it has ended."""

    def __init__(self, host: Host, uuid: str, qemu: Qemu) -> None:
        self._host = host
        self._uuid = uuid
        self._qemu = qemu
        self._policy = believed(host)
        self._next_adoption = 0.0
        self._unguarded: dict[Bdf, bool] = {}
        """What is to be guarded, and whether it was told that it cannot be."""

    def begin(self) -> None:
        """Take what QEMU has.

        :raises HookError: the kernel does not allow it, or another process does it already.
        """
        # Before anything is held: a hook that finds no record waits for nobody.
        if not keepers.announce(self._host, self._uuid, self._qemu):
            raise DeviceBusy(f"guest {self._uuid}: it has a keeper already")
        try:
            self._adopt()
        except HookError:
            self._withdraw()
            raise

    def look(self) -> None:
        """Let go of what QEMU has closed, take what is new. To be called every POLL seconds."""
        gone = [bdf for bdf in self._qemu.held if not self._qemu.has(bdf)]
        if gone:
            with metrics.measured(self._host, OPERATION, self._policy):
                for bdf in gone:
                    self._let_go(bdf, closing.unplugged)
                self._tell()
        if self._host.monotonic() >= self._next_adoption:
            try:
                self._adopt()
            except HookError as error:
                log.warning("%s", error.message)

    def finish(self) -> None:
        """QEMU has ended: close everything.

        What does not get disabled comes last: its close may keep us in the kernel.
        """
        with metrics.measured(self._host, OPERATION, self._policy):
            held = list(self._qemu.held)
            self._tell(max((self._do(bdf, closing.patience) or 0.0 for bdf in held), default=0.0))
            stubborn = [bdf for bdf in held if not self._do(bdf, closing.after_its_guest)]
            for bdf in stubborn:
                if bdf in self._qemu.held:
                    self._let_go(bdf, closing.as_it_is)
            self._withdraw()

    def _adopt(self) -> None:
        self._next_adoption = self._host.monotonic() + ADOPT_EVERY
        new = self._qemu.adopt(self._is_wanted)
        if new:
            self._tell()
            self._unguarded.update(dict.fromkeys(new, False))
            log.info("holding %s", ", ".join(map(str, self._qemu.held)))
            metrics.publish(self._host, self._policy)
        for bdf in [bdf for bdf in self._unguarded if bdf in self._qemu.held]:
            if self._do(bdf, closing.guard, GUARD_PATIENCE, told=self._unguarded[bdf]):
                del self._unguarded[bdf]
            else:
                self._unguarded[bdf] = True

    def _is_wanted(self, bdf: Bdf) -> bool:
        return closing.is_wanted(self._host, self._policy, bdf)

    def _let_go(self, bdf: Bdf, step: Step[bool]) -> None:
        if not self._do(bdf, step):
            self._qemu.close(bdf)

    def _do(
        self, bdf: Bdf, step: Step[T], seconds: float | None = None, told: bool = False
    ) -> T | None:
        """Do one step on one controller, locked; whatever comes of it, the others have a right
        to theirs. None: it failed, which is in the journal, or was *told* before.

        :param seconds: how long it may take; None: as long as an operation.
        """
        level = logging.DEBUG if told else logging.ERROR
        limits = self._policy.deadline if seconds is None else seconds, self._policy.deadline_cap
        deadline = Deadline(self._host.monotonic, *limits)
        try:
            with locked(self._host, bdf, self._policy, deadline, ()) as work:
                return step(work, self._qemu)
        except HookError as error:
            log.log(level, "%s", error.in_full, extra=about(bdf))
        except Exception:
            log.log(level, "%s: internal error", bdf, exc_info=True, extra=about(bdf))
        return None

    def _tell(self, seconds: float = 0.0) -> None:
        try:
            keepers.announce(self._host, self._uuid, self._qemu, seconds)
        except HookError as error:  # that it is held matters more than that it is known
            log.warning("%s", error.message)

    def _withdraw(self) -> None:
        try:
            keepers.withdraw(self._host, self._uuid, self._host.this_process())
        except HookError as error:  # the process ends now, and with it the record's worth
            log.warning("%s", error.message)
