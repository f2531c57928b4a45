# SPDX-License-Identifier: LGPL-2.1-or-later
"""Work: one controller, locked, and all that working on it needs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from . import marks, pci
from .bdf import Bdf
from .deadline import Deadline
from .errors import DeviceBusy
from .host import Host
from .journal import Undo
from .observe import VFIO_PCI, ids, is_open
from .policy import GuardChoice, Policy
from .quirks import Quirk
from .snapshot import Process

LOCK_TIMEOUT = 5.0
"""Seconds: what another hook does to one controller is mostly done in 0.2 s."""


@dataclass(frozen=True)
class Work:
    """One controller under work. Whoever has this has its lock."""

    host: Host
    bdf: Bdf
    policy: Policy
    deadline: Deadline
    undo: Undo
    users: Sequence[Process] = ()
    """Who had its vfio group or cdev open when the operation began."""

    @property
    def ids(self) -> tuple[int, int]:
        """Vendor and device as enumerated; those of the moment, for a rescan may find others."""
        return ids(self.host, self.bdf)

    @property
    def quirk(self) -> Quirk:
        return self.policy.quirk(self.bdf, *self.ids)

    @property
    def guard(self) -> GuardChoice:
        return self.policy.guard(self.bdf, *self.ids)

    @property
    def present(self) -> bool:
        """Does the kernel know such a function?"""
        return self.host.read_attr(self.bdf, "class") is not None

    @property
    def driver(self) -> str | None:
        return self.host.driver(self.bdf)

    @property
    def is_open(self) -> bool:
        return is_open(self.host, self.bdf, self.driver)

    @property
    def is_idle(self) -> bool:
        """No driver, or vfio-pci and not open: registers, COMMAND and power are ours to touch."""
        return self.driver in (None, VFIO_PCI) and not self.is_open

    @property
    def answers(self) -> bool:
        """Does configuration space have a vendor id?"""
        vendor = self.host.read_config(self.bdf, pci.VENDOR_ID, 2)
        return pci.word(vendor) != pci.NOBODY

    def allow(self, seconds: float) -> None:
        """Put the deadline off by what the drive may legally take, and tell who watches."""
        self.deadline.allow(seconds)
        self.host.extend(self.deadline.left)


@contextmanager
def locked(
    host: Host, bdf: Bdf, policy: Policy, deadline: Deadline, users: Sequence[Process]
) -> Iterator[Work]:
    """Work on one controller, and have nobody else do so meanwhile.

    :raises DeviceBusy: another hook kept the lock, or a process of one is stuck with it.
    """
    stuck = marks.stuck(host, bdf)
    if stuck is not None:
        raise DeviceBusy(
            f"{bdf}: left alone: an earlier hook is still in the kernel with it: {stuck}",
            hint="wait for it; if it never ends, power the host off and on",
        )
    host.doing("waiting for another hook to finish with it")
    with host.lock(bdf, min(LOCK_TIMEOUT, max(deadline.left, 0.0))):
        yield Work(host, bdf, policy, deadline, Undo(host, bdf), users)
