# SPDX-License-Identifier: LGPL-2.1-or-later
"""Host: everything we ask of a machine, and nothing but the protocol.

Two implementations: ``linux.host.LinuxHost`` and ``simulator.host.SimHost``. Attribute names,
values and errors are those of the kernel's sysfs (Documentation/ABI/testing/sysfs-bus-pci).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from .bdf import Bdf
from .deadline import Deadline
from .errors import HookError
from .snapshot import Process, Snapshot

Job = Callable[[Bdf], str]
"""Work on one controller. Returns one line on what came of it; raises HookError."""

Telling = Callable[[Bdf, str, float, float], None]
"""Told of a job that is under way: the controller, the words of ``doing``, how many seconds that
has taken, and in how many the job is left behind at the latest. Must not raise."""


class Identity(NamedTuple):
    """What a drive calls itself: ``serial``, ``model``, and each namespace's ``eui`` or nguid.

    As drivers/nvme/host/sysfs.c prints them, without space around.
    """

    serial: str
    model: str
    euis: tuple[str, ...]


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


class Qemu(Protocol):
    """The QEMU of one guest, seen from outside, and what its keeper has of it.

    That is duplicates of QEMU's own vfio device descriptors: vfio resets a function when the last
    of them is closed (drivers/vfio/vfio_main.c, vfio_device_fops_release, v6.1).
    """

    @property
    def process(self) -> tuple[int, int]:
        """Number and start time, as ``Host.runs`` takes them."""

    @property
    def ended(self) -> bool:
        """Is the process gone, and with it every descriptor that it had?"""

    @property
    def held(self) -> Sequence[Bdf]:
        """The controllers of which there is a duplicate, in order."""

    def adopt(self, wanted: Callable[[Bdf], bool]) -> Sequence[Bdf]:
        """Take a duplicate of what QEMU has open, is *wanted* and not held; return what is new.

        :raises HookError: the kernel does not allow it.
        """

    def has(self, bdf: Bdf) -> bool:
        """Has QEMU still the very descriptor that a duplicate is held of?"""

    def has_another(self, bdf: Bdf) -> bool:
        """Has QEMU the function open by a descriptor that none is held of? True when in doubt."""

    def lent(self, bdf: Bdf) -> AbstractContextManager[None]:
        """Have ``Host.holds`` be true, and the function reached through the duplicate."""

    def close(self, bdf: Bdf) -> None:
        """Close the duplicate: if it is the last, vfio resets the function before this returns."""


class Host(Protocol):
    """A machine with PCI functions, a clock and a place for records."""

    @property
    def records(self) -> Records:
        """Where owner records and undo journals are kept."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back (CLOCK_MONOTONIC)."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def doing(self, what: str) -> None:
        """Tell who watches this job what comes next: the words that ``Stuck`` reports.

        Every write to an attribute tells itself.
        """

    def watched(self, tell: Telling) -> AbstractContextManager[None]:
        """Have *tell* called while jobs of ``each`` work, as long as the context lasts."""

    def extend(self, seconds: float) -> None:
        """Tell who watches this job that it ends within *seconds* from now, and not sooner."""

    def policy(self) -> str | None:
        """Text of the administrator's policy (/etc/virt-nvme-reset.toml), None without one.

        :raises SysfsError: there is one and it cannot be read.
        """

    def boot_id(self) -> str:
        """/proc/sys/kernel/random/boot_id: differs after every boot."""

    def controller(self, name: str) -> Bdf | None:
        """The function that the host's NVMe driver calls ``nvme0``; None if there is none."""

    def publish(self, path: str, text: str) -> None:
        """Replace a file that everybody may read, atomically; waits a second at most.

        :raises HookError: the directory is not there, or will not have it.
        """

    def functions(self) -> Sequence[Bdf]:
        """Every PCI function of the machine, in order."""

    def neighbours(self, bdf: Bdf) -> Sequence[Bdf]:
        """Every other function on the same bus, in order: what a reset of the bus would hit."""

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

    def virtual_functions(self, bdf: Bdf) -> int:
        """How many virtual functions of this one are enabled.

        By its ``virtfnN`` links: reading sriov_numvfs waits for the device's lock (v6.1,
        sriov_numvfs_show), and a reset that hangs has that.
        """

    def nvme_state(self, bdf: Bdf) -> str | None:
        """State of the host's NVMe controller on this function, None if there is none.

        ``new``, ``live``, ``resetting``, ``connecting``, ``deleting``, ``dead``: as
        ``<function>/nvme/nvmeN/state`` prints it (drivers/nvme/host/sysfs.c).
        """

    def identity(self, bdf: Bdf) -> Identity | None:
        """What the host's NVMe driver knows this controller by, None if it has not bound."""

    def read_bus(self, name: str) -> str | None:
        """Read an attribute of /sys/bus/pci itself, None if it is not there."""

    def write_bus(self, name: str, value: str) -> None:
        """Write an attribute of /sys/bus/pci: ``drivers_probe``, ``slots/<slot>/power``.

        :raises SysfsError: as ``write_attr``.
        """

    def has_driver(self, name: str) -> bool:
        """Is a PCI driver of this name loaded?"""

    def iommu_group(self, bdf: Bdf) -> tuple[str, Sequence[Bdf]] | None:
        """Number of a function's IOMMU group, and the other functions in it; None without one.

        vfio gives a group to one user, all of it.
        """

    def port(self, bdf: Bdf) -> Bdf | None:
        """The bridge above a function; None on a root bus, or if the function is not there."""

    def slot(self, bdf: Bdf) -> str | None:
        """Name of the slot that the function is or was in, if its power can be switched."""

    def rescan(self, bdf: Bdf) -> None:
        """Have the kernel enumerate the bus that *bdf* is or was on, and bind what it finds.

        :raises SysfsError: there is no such bus, or the kernel refused.
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

    def holds(self, bdf: Bdf) -> bool:
        """Has this process, and nobody else, the function open through vfio?

        Then ``registers`` and ``write_config`` go through that descriptor.
        """

    def exclusive(self, bdf: Bdf) -> AbstractContextManager[None]:
        """Open a function that is on vfio-pci and idle; ``holds`` is true in the context.

        Both the open and the close reset it, as vfio does for QEMU: by reset_method.

        :raises RegistersUnreadable: vfio will not have it: somebody else has it open, or another
            device of its IOMMU group is on a driver of the host's.
        """

    def lock(self, what: Bdf | str, timeout: float) -> AbstractContextManager[None]:
        """Own this controller, or what the word names, against every other hook of the machine.

        Released by the kernel when the process dies. Waits at most *timeout* seconds.

        :raises DeviceBusy: another hook kept the lock.
        """

    def usage(self, bdfs: Sequence[Bdf]) -> Snapshot:
        """What this host does with the disks of these controllers now. Touches none of them."""

    def claimed(self, bdf: Bdf) -> Sequence[str]:
        """Names of the controller's disks that do not open exclusively (open(2), O_EXCL).

        May block in the kernel as long as a disk does: for a job.
        """

    def vfio_users(self, bdfs: Sequence[Bdf]) -> Mapping[Bdf, Sequence[Process]]:
        """Who has the vfio group or cdev of each of these open; looks at every process, once."""

    def qemu_runs(self, uuid: str) -> bool:
        """Is there a QEMU process for the guest with this uuid?"""

    def runs(self, pid: int, started: int) -> bool:
        """Does the process still run that had *pid* and the start time *started*?

        The start time is field 22 of /proc/PID/stat: a pid alone comes round again.
        """

    def this_process(self) -> tuple[int, int]:
        """Number and start time of who asks, as ``runs`` takes them."""

    def kill(self, pid: int, started: int) -> None:
        """SIGKILL a process, if it is still the one that started then."""

    def start_keeper(self, uuid: str) -> None:
        """Start the process that keeps what the QEMU of this guest has open (see ``keeper``).

        It has it when this returns, or has told the journal why not.

        :raises HookError: it cannot be started, or takes its time.
        """

    def each(self, bdfs: Sequence[Bdf], job: Job, deadline: Deadline) -> dict[Bdf, str | HookError]:
        """Run *job* for every controller at once; return what came of each, in order.

        Each job may die, or block in the kernel, without harm to the others: one that is not
        done when *deadline* is over, or later if it has said so by ``extend``, is left behind
        and reported as ``Stuck``.
        """
