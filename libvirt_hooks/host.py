# SPDX-License-Identifier: LGPL-2.1-or-later
"""Host: everything we ask of a machine, and nothing but the protocol.

Two implementations: ``linux.host.LinuxHost`` and ``simulator.host.SimHost``. Attribute names,
values and errors are those of the kernel's sysfs (Documentation/ABI/testing/sysfs-bus-pci).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from .bdf import Bdf
from .errors import HookError

Job = Callable[[Bdf], str]
"""Work on one controller. Returns one line on what came of it; raises HookError."""


class Registers(Protocol):
    """The first 4 KiB of BAR0. Every call is exactly one aligned 32-bit access."""

    def read32(self, offset: int) -> int:
        """Read the 32-bit word at *offset* bytes."""

    def write32(self, offset: int, value: int) -> None:
        """Write the 32-bit word at *offset* bytes."""


class Records(Protocol):
    """Small files that outlive a hook and end with the boot (/run/virt-nvme-reset)."""

    def names(self, folder: str) -> list[str]:
        """List the records of *folder*, sorted; a folder that is not there is empty."""

    def load(self, folder: str, name: str) -> bytes | None:
        """Return a record's contents, or None if there is none."""

    def store(self, folder: str, name: str, data: bytes) -> None:
        """Replace a record atomically; on stable storage when this returns."""

    def drop(self, folder: str, name: str) -> None:
        """Remove a record; one that is not there is no error."""


class Host(Protocol):
    """A machine with PCI functions, a clock and a place for records."""

    @property
    def records(self) -> Records:
        """Where owner records and undo journals are kept."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back (CLOCK_MONOTONIC)."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def doing(self, what: str, seconds: float) -> None:
        """Tell who watches this job what comes next, and that it may take *seconds* from now.

        The words are what ``Stuck`` reports. A time-out that would end sooner is put off.
        """

    def policy(self) -> str | None:
        """Text of the administrator's policy (/etc/virt-nvme-reset.toml), None without one.

        :raises SysfsError: there is one and it cannot be read.
        """

    def boot_id(self) -> str:
        """/proc/sys/kernel/random/boot_id: differs after every boot."""

    def functions(self) -> Sequence[Bdf]:
        """Every PCI function of the machine, in order."""

    def read_attr(self, bdf: Bdf, name: str) -> str | None:
        """Read a sysfs attribute of a function, without the newline at its end.

        None if the function or the attribute is not there. *name* is relative to the
        function's directory: ``reset_method``, ``power/control``, ``class``, ``enable``.

        :raises SysfsError: the kernel refused the read.
        """

    def write_attr(self, bdf: Bdf, name: str, value: str) -> None:
        """Write *value* to a sysfs attribute, in one write(2) of all of it.

        May take as long as the kernel takes: `reset` of a dead function is 65 s.

        :raises SysfsError: the kernel refused the write, or there is no such attribute.
        """

    def driver(self, bdf: Bdf) -> str | None:
        """Name of the bound driver, or None."""

    def nvme_state(self, bdf: Bdf) -> str | None:
        """State of the host's NVMe controller on this function, None if there is none.

        ``new``, ``live``, ``resetting``, ``connecting``, ``deleting``, ``dead``: as
        ``<function>/nvme/nvmeN/state`` prints it (drivers/nvme/host/sysfs.c).
        """

    def read_config(self, bdf: Bdf, offset: int, length: int) -> bytes:
        """Read configuration space, little-endian as on the bus.

        :raises SysfsError: no such function, or the kernel refused.
        """

    def write_config(self, bdf: Bdf, offset: int, data: bytes) -> None:
        """Write configuration space.

        :raises SysfsError: EPERM under kernel lockdown.
        """

    def registers(self, bdf: Bdf) -> AbstractContextManager[Registers]:
        """Reach the controller's registers for as long as the context lasts; keep it short.

        :raises RegistersUnreadable: the BAR is claimed (EINVAL) or lockdown forbids it (EPERM).
        """

    def lock(self, bdf: Bdf, timeout: float) -> AbstractContextManager[None]:
        """Own this controller against every other hook of the machine.

        Released by the kernel when the process dies. Waits at most *timeout* seconds.

        :raises DeviceBusy: another hook kept the lock.
        """

    def each(self, bdfs: Sequence[Bdf], job: Job, timeout: float) -> dict[Bdf, str | HookError]:
        """Run *job* for every controller at once; return what came of each, in order.

        Each job may die, or block in the kernel, without harm to the others: one that is not
        done after *timeout* seconds, or when the time it asked for by ``doing`` is over, is left
        behind and reported as ``Stuck``.
        """
