# SPDX-License-Identifier: LGPL-2.1-or-later
"""SimHost: the Host protocol on a simulated machine.

Attributes: sysfs.py. Resets: resets.py, vfio.py. Locks and workers: workers.py. Who uses what:
usage.py. What the drive does: function.py, controller.py. Here: the way in, and rules that code
under test may break.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from errno import EINTR, EINVAL, ENOENT, EPERM, errorcode
from os import strerror

from ..bdf import Bdf
from ..deadline import Deadline
from ..errors import HookError, RegistersUnreadable, SysfsError
from ..host import Host, Identity, Job
from ..snapshot import Process, Snapshot
from . import sysfs, usage
from .clock import Event, SimClock
from .crash import Crash
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
        self.drivers = {"nvme", "vfio-pci"}
        """Those that are loaded."""
        self._boots = 1
        self._workers = Workers(self.machine.clock)
        self._records = SimRecords(self._workers.effect)

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
        mounted: str = "",
        slot: str = "",
    ) -> PciDev:
        """Plug in a drive.

        With ``nvme`` the controller is live. With another driver, or None, it is as nvme's
        unbind left it (CC=0x00464061 CSTS=0x00000009), or *pristine*.

        :param faults: on top of the model's own.
        :param beside: more functions, ordinary and on nvme; same bus or not.
        :param mounted: where the host uses its disk.
        :param slot: name of the slot that it is in, whose power can be switched.
        """
        dev = self.machine.plug(_bdf(bdf), model, faults, total_vfs)
        self.machine.prepare(dev, driver, pristine)
        dev.mounted = mounted
        if slot:
            self.machine.slots[slot] = dev.bdf
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

    @property
    def effects(self) -> list[str]:
        """Everything that the code under test has done to the machine, in words."""
        return self._workers.effects

    def crash(self, crash: Crash | None) -> None:
        """Kill a process of the code under test when it gets that far."""
        self._workers.crash = crash

    def new_process(self) -> None:
        """Another hook begins; what the last one had open is closed."""
        self._workers.new_process()

    def reboot(self) -> None:
        """Power off and on; /run is empty afterwards."""
        self._records = SimRecords(self._workers.effect)
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

    def doing(self, what: str) -> None:
        """See Host."""
        self._workers.doing(what)

    def extend(self, seconds: float) -> None:
        """See Host."""
        self._workers.extend(seconds)

    def policy(self) -> str | None:
        """See Host."""
        return self.policy_text

    def boot_id(self) -> str:
        """See Host."""
        return f"00000000-0000-4000-8000-{self._boots:012x}"

    def functions(self) -> Sequence[Bdf]:
        """See Host. Root ports are there too."""
        return sorted([*self.machine.devices, *self.machine.bridges])

    def neighbours(self, bdf: Bdf) -> Sequence[Bdf]:
        """See Host."""
        return [each for each in self.functions() if each.same_bus(bdf) and each != bdf]

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
        shown = value.strip(" \n\0")
        self._workers.doing(f"writing {shown!r} to {name}")
        with self._workers.effect(f"{bdf} {name}={shown}"):
            self.machine.trace.note(
                bdf, f"{name}={shown}" if value else f"{name}: zero-length write"
            )
            if not value:
                return
            failed = self._write(bdf, name, value)
            if failed:
                self.machine.trace.note(bdf, f"{name}: {errorcode[failed]}", "kernel")
                raise SysfsError(bdf, f"writing {shown!r} to {name}", failed)
            self._workers.enter()

    def read_bus(self, name: str) -> str | None:
        """See Host."""
        self._workers.enter()
        match name.split("/"):
            case ["drivers_autoprobe"]:
                return str(int(self.machine.autoprobe))
            case ["slots", slot, "power"] if slot in self.machine.slots:
                return str(int(slot not in self.machine.dark))
        return None

    def write_bus(self, name: str, value: str) -> None:
        """See Host."""
        self._workers.doing(f"writing {value!r} to {name}")
        with self._workers.effect(f"{name}={value}"):
            self.machine.trace.note(None, f"{name}={value}")
            failed = self._write_bus(name.split("/"), value)
            if failed:
                self.machine.trace.note(None, f"{name}: {errorcode[failed]}", "kernel")
                raise SysfsError("/sys/bus/pci", f"writing {value!r} to {name}", failed)
            self._workers.enter()

    def _write_bus(self, name: Sequence[str], value: str) -> int:
        match name:
            case ["drivers_autoprobe"]:
                self.machine.autoprobe = value != "0"
                return 0
            case ["drivers_probe"]:
                dev = self.machine.devices.get(Bdf.parse(value))
                return sysfs.write(dev, "subsystem/drivers_probe", value) if dev else EINVAL
            case ["slots", slot, "power"] if slot in self.machine.slots:
                return self.machine.slot_power(slot, value == "1")
        return ENOENT

    def rescan(self, bdf: Bdf) -> None:
        """See Host."""
        self._workers.doing("writing '1' to rescan")
        with self._workers.effect(f"{bdf} rescan"):
            self.machine.trace.note(bdf, "rescan")
            self.machine.rescan(bdf)

    def has_driver(self, name: str) -> bool:
        """See Host."""
        self._workers.enter()
        return name in self.drivers

    def port(self, bdf: Bdf) -> Bdf | None:
        """See Host."""
        self._workers.enter()
        return self.machine.port(bdf) if bdf in self.machine.devices else None

    def slot(self, bdf: Bdf) -> str | None:
        """See Host."""
        self._workers.enter()
        return next((name for name, at in self.machine.slots.items() if at.same_bus(bdf)), None)

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
        if name == "reset_subordinate" and bridge.has_reset_subordinate:
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

    def virtual_functions(self, bdf: Bdf) -> int:
        """See Host."""
        self._workers.enter()
        dev = self.machine.devices.get(bdf)
        return dev.numvfs if dev else 0

    def nvme_state(self, bdf: Bdf) -> str | None:
        """See Host."""
        self._workers.enter()
        dev = self.machine.devices.get(bdf)
        return dev.nvme_state if dev else None

    def identity(self, bdf: Bdf) -> Identity | None:
        """See Host."""
        self._workers.enter()
        return usage.identity(self.machine, bdf)

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
        what = f"writing {data.hex()} to config at {offset:#x}"
        value = int.from_bytes(data, "little")
        name = NAMES.get(offset, f"{offset:#x}")
        with self._workers.effect(f"{bdf} config {name}={value:#x}"):
            if self.lockdown:
                raise SysfsError(bdf, what, EPERM)
            self.machine.trace.note(bdf, f"config write {name}=0x{value:0{len(data) * 2}x}")
            if bridge := self.machine.bridges.get(bdf):
                self.machine.write_bridge_config(bridge, offset, data)
                return
            dev = self._device(bdf, what)
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
        mapped = SimRegisters(dev, self._workers)
        try:
            yield mapped
        finally:
            mapped.closed = True

    def lock(self, what: Bdf | str, timeout: float) -> AbstractContextManager[None]:
        """See Host. Taking it twice is waiting for oneself."""
        return self._workers.lock(what, timeout)

    def usage(self, bdfs: Sequence[Bdf]) -> Snapshot:
        """See Host."""
        self._workers.enter()
        return usage.snapshot(self.machine, bdfs)

    def claimed(self, bdf: Bdf) -> Sequence[str]:
        """See Host."""
        self._workers.enter()
        return usage.claimed(self.machine, bdf)

    def vfio_users(self, bdfs: Sequence[Bdf]) -> Mapping[Bdf, Sequence[Process]]:
        """See Host. One that is exiting has no descriptors any more."""
        self._workers.enter()
        return {bdf: usage.vfio_users(self.machine, bdf) for bdf in bdfs}

    def qemu_runs(self, uuid: str) -> bool:
        """See Host."""
        self._workers.enter()
        return uuid in self.machine.qemus

    def runs(self, pid: int, started: int) -> bool:
        """See Host."""
        self._workers.enter()
        return self._workers.runs(pid)

    def each(self, bdfs: Sequence[Bdf], job: Job, deadline: Deadline) -> dict[Bdf, str | HookError]:
        """See Host. One after the other, but all from the same moment on."""
        return self._workers.each(bdfs, job, deadline)

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
