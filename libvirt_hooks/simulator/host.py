# SPDX-License-Identifier: LGPL-2.1-or-later
"""SimHost: the Host protocol on a simulated machine.

Attributes: sysfs.py. Resets: resets.py, vfio.py. Locks and workers: workers.py. What the drive
does: function.py, controller.py. Here: the way in, and rules that code under test may break.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from errno import EINTR, EINVAL, ENOENT, EPERM, errorcode
from os import strerror

from ..bdf import Bdf
from ..errors import HookError, RegistersUnreadable, SysfsError
from ..host import Host, Job
from . import sysfs
from .clock import Event, SimClock
from .device import PciDev
from .faults import Fault
from .function import NAMES, Function
from .machine import Machine
from .mapping import SimRegisters
from .models import ORDINARY, Model
from .records import SimRecords
from .workers import Workers

FOREVER = 3600.0


class SimHost(Host):
    """A machine that exists nowhere.

    :param lockdown: kernel lockdown: no registers, no writes to configuration space.
    :param policy: text of the administrator's policy.
    """

    def __init__(self, lockdown: bool = False, policy: str | None = None) -> None:
        self.machine = Machine()
        self.lockdown = lockdown
        self.policy_text = policy
        self._records = SimRecords()
        self._boots = 1
        self._workers = Workers(self.machine.clock)

    def add(
        self,
        bdf: Bdf | str,
        model: Model = ORDINARY,
        driver: str | None = "nvme",
        faults: Fault = Fault.NONE,
        *,
        beside: Sequence[Bdf | str] = (),
        pristine: bool = False,
        total_vfs: int = 0,
    ) -> PciDev:
        """Plug in a drive.

        With ``nvme`` the controller is live. With another driver, or None, it is as nvme's
        unbind left it (CC=0x00464061 CSTS=0x00000009), or *pristine*.

        :param faults: on top of the model's own.
        :param beside: more functions, ordinary and on nvme; same bus or not.
        """
        dev = self.machine.plug(_bdf(bdf), model, faults, total_vfs)
        self.machine.prepare(dev, driver, pristine)
        for other in beside:
            self.add(other)
        return dev

    def device(self, bdf: Bdf | str) -> PciDev:
        """The kernel's side of a function, for tests."""
        return self.machine.devices[_bdf(bdf)]

    def function(self, bdf: Bdf | str) -> Function:
        """The hardware's side of a function, for tests."""
        return self.machine.plugged[_bdf(bdf)]

    @property
    def clock(self) -> SimClock:
        """The virtual clock."""
        return self.machine.clock

    @property
    def trace(self) -> list[Event]:
        """What happened, in order."""
        return self.machine.trace.events

    @property
    def violations(self) -> list[str]:
        """Rules that the code under test broke."""
        return self.machine.trace.violations

    def texts(self, bdf: Bdf | str | None = None, who: Sequence[str] = ()) -> list[str]:
        """The texts of the trace, of one function and of some actors only if so asked."""
        return self.machine.texts(bdf, who)

    def reboot(self) -> None:
        """Power off and on; /run is empty afterwards."""
        self._records = SimRecords()
        self._workers.locked_until.clear()
        self._boots += 1
        self.machine.reboot()

    @property
    def records(self) -> SimRecords:
        """See Host."""
        return self._records

    def monotonic(self) -> float:
        """See Host."""
        return self.clock.now

    def sleep(self, seconds: float) -> None:
        """See Host."""
        self._workers.sleep(seconds)

    def doing(self, what: str, seconds: float) -> None:
        """See Host."""
        self._workers.doing(what, seconds)

    def policy(self) -> str | None:
        """See Host."""
        return self.policy_text

    def boot_id(self) -> str:
        """See Host."""
        return f"00000000-0000-4000-8000-{self._boots:012x}"

    def functions(self) -> Sequence[Bdf]:
        """See Host. Root ports are there too."""
        return sorted([*self.machine.devices, *self.machine.bridges])

    def read_attr(self, bdf: Bdf, name: str) -> str | None:
        """See Host."""
        self._workers.enter()
        found: str | int | None = None
        if dev := self.machine.devices.get(bdf):
            found = sysfs.read(dev, name)
        elif bridge := self.machine.bridges.get(bdf):
            found = bridge.read(name)
        if isinstance(found, int):
            raise SysfsError(bdf, f"reading {name}", found)
        return found

    def write_attr(self, bdf: Bdf, name: str, value: str) -> None:
        """See Host."""
        self._workers.enter()
        shown = value.strip(" \n\0")
        self.machine.trace.note(bdf, f"{name}={shown}" if value else f"{name}: zero-length write")
        if not value:
            return
        failed = self._write(bdf, name, value)
        if failed:
            self.machine.trace.note(bdf, f"{name}: {errorcode[failed]}", "kernel")
            raise SysfsError(bdf, f"writing {shown!r} to {name}", failed)
        self._workers.enter()

    def _write(self, bdf: Bdf, name: str, value: str) -> int:
        text = value.removesuffix("\n")
        if bridge := self.machine.bridges.get(bdf):
            return self._write_bridge(bridge, name, text)
        dev = self.machine.devices.get(bdf)
        if dev is None:
            return ENOENT
        if name in ("reset", "driver/unbind", "remove") and dev.is_open:
            self.machine.trace.violation(bdf, f"{name} written while open")
            if name != "reset" and dev.vfio.references:
                self.clock.advance(FOREVER)  # waits for the last close, after any signal, too
                return EINTR
            self.clock.reach(dev.vfio.closing_until)  # which holds the device lock
        if name == "remove" and text == "1":
            self.machine.remove(dev)
            return 0
        if name in ("rescan", "subsystem/rescan") and text == "1":
            self.machine.rescan()
            return 0
        return sysfs.write(dev, name, value)

    def _write_bridge(self, bridge: sysfs.Bridge, name: str, text: str) -> int:
        if text != "1":
            return EINVAL
        if name == "reset_subordinate":
            return self.machine.reset_subordinate(bridge)
        if name in ("rescan", "subsystem/rescan"):
            self.machine.rescan()
            return 0
        return ENOENT

    def driver(self, bdf: Bdf) -> str | None:
        """See Host."""
        self._workers.enter()
        dev = self.machine.devices.get(bdf)
        if dev is None:
            return "pcieport" if bdf in self.machine.bridges else None
        return dev.driver

    def nvme_state(self, bdf: Bdf) -> str | None:
        """See Host."""
        self._workers.enter()
        dev = self.machine.devices.get(bdf)
        return dev.nvme_state if dev else None

    def read_config(self, bdf: Bdf, offset: int, length: int) -> bytes:
        """See Host."""
        self._workers.enter()
        if bridge := self.machine.bridges.get(bdf):
            return bytes(bridge.config[offset : offset + length])
        dev = self._device(bdf, f"reading config at {offset:#x}")
        dev.function.touch()
        return dev.function.read_config(offset, length)

    def write_config(self, bdf: Bdf, offset: int, data: bytes) -> None:
        """See Host."""
        self._workers.enter()
        dev = self._device(bdf, f"writing config at {offset:#x}")
        if self.lockdown:
            raise SysfsError(bdf, f"writing config at {offset:#x}", EPERM)
        value = int.from_bytes(data, "little")
        name = NAMES.get(offset, f"{offset:#x}")
        self.machine.trace.note(bdf, f"config write {name}=0x{value:0{len(data) * 2}x}")
        self._check_free(dev, "config written")
        dev.function.touch()
        dev.function.write_config(offset, data)

    @contextmanager
    def registers(self, bdf: Bdf) -> Iterator[SimRegisters]:
        """See Host. A function that vfio has open may be mapped, as in 6.1, but must not be."""
        self._workers.enter()
        dev = self.machine.devices.get(bdf)
        if dev is None:
            raise RegistersUnreadable(f"{bdf}: mapping resource0: {strerror(ENOENT)}")
        self._check_free(dev, "registers touched")
        if self.lockdown or dev.driver not in (None, "vfio-pci"):
            number = EPERM if self.lockdown else EINVAL
            raise RegistersUnreadable(f"{bdf}: mapping resource0: {strerror(number)}")
        mapped = SimRegisters(dev, self._workers.enter)
        try:
            yield mapped
        finally:
            mapped.closed = True

    def lock(self, bdf: Bdf, timeout: float) -> AbstractContextManager[None]:
        """See Host. Taking it twice is waiting for oneself."""
        return self._workers.lock(bdf, timeout)

    def each(self, bdfs: Sequence[Bdf], job: Job, timeout: float) -> dict[Bdf, str | HookError]:
        """See Host. One after the other, but all from the same moment on."""
        return self._workers.each(bdfs, job, timeout)

    def occupy(self, bdf: Bdf | str, seconds: float) -> None:
        """Another hook holds the lock for so long, for tests."""
        self._workers.locked_until[_bdf(bdf)] = self.clock.now + seconds

    def _device(self, bdf: Bdf, what: str) -> PciDev:
        dev = self.machine.devices.get(bdf)
        if dev is None:
            raise SysfsError(bdf, what, ENOENT)
        return dev

    def _check_free(self, dev: PciDev, what: str) -> None:
        if dev.is_open:
            self.machine.trace.violation(dev.bdf, f"{what} while open")
        elif dev.driver not in (None, "vfio-pci"):
            self.machine.trace.violation(dev.bdf, f"{what} while {dev.driver} owns it")


def _bdf(bdf: Bdf | str) -> Bdf:
    return Bdf.parse(bdf) if isinstance(bdf, str) else bdf
