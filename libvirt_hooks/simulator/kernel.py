# SPDX-License-Identifier: LGPL-2.1-or-later
"""SimKernel: what a SimHost's kernel answers: sysfs, configuration space, registers, vfio.

Attributes: sysfs.py. Resets: resets.py, vfio.py. What the drive does: function.py, controller.py.
Here: the way in, and rules that code under test may break.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import EINTR, EINVAL, ENOENT, EPERM, errorcode
from os import strerror

from ..bdf import Bdf
from ..errors import RegistersUnreadable, SysfsError
from ..host import Host, Identity
from . import sysfs, usage, vfio
from .clock import SimClock
from .device import PciDev
from .function import NAMES
from .machine import Machine
from .mapping import SimRegisters
from .workers import Workers

FOREVER = 3600.0


class SimKernel(Host):
    """The kernel's part of a machine that exists nowhere.

    :param lockdown: kernel lockdown: no registers, no writes to configuration space.
    """

    def __init__(self, lockdown: bool = False) -> None:
        self.machine = Machine()
        self.lockdown = lockdown
        self.drivers = {"nvme", "vfio-pci"}
        """Those that are loaded."""
        self.viable = True
        """Is nothing of the drives' IOMMU groups on a driver of the host's?"""
        self._held: set[Bdf] = set()
        self._workers = Workers(self.machine.clock)

    @property
    def clock(self) -> SimClock:
        """The virtual clock."""
        return self.machine.clock

    def controller(self, name: str) -> Bdf | None:
        """See Host."""
        return usage.controller(self.machine, name)

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

    def iommu_group(self, bdf: Bdf) -> tuple[str, Sequence[Bdf]] | None:
        """See Host. Every function has one for itself, as with ACS everywhere."""
        self._workers.enter()
        return (str(self.functions().index(bdf)), ()) if bdf in self.machine.devices else None

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
        if name == "power/control" and self.holds(bdf):
            # libvirt's unbind may have that lock, and wait for the last close.
            self.machine.trace.violation(bdf, "waits for the device's lock while it holds it open")
        if name == "reset" and self.holds(bdf):
            return sysfs.write(dev, name, value)
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
        # An unbind that waits for the last close has taken the link away before.
        return None if dev.lock_held else dev.driver

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
            if self.lockdown and not self.holds(bdf):
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
        locked = self.lockdown and not self.holds(bdf)
        if locked or dev.driver not in (None, "vfio-pci"):
            why = strerror(EPERM if locked else EINVAL)
            raise RegistersUnreadable(f"{bdf}: mapping resource0: {why}", forbidden=locked)
        mapped = SimRegisters(dev, self._workers)
        try:
            yield mapped
        finally:
            mapped.closed = True

    def holds(self, bdf: Bdf) -> bool:
        """See Host."""
        return bdf in self._held

    @contextmanager
    def holding(self, bdf: Bdf) -> Iterator[None]:
        """The process that acts has the only descriptor of it."""
        self._held.add(bdf)
        try:
            yield
        finally:
            self._held.discard(bdf)

    @contextmanager
    def exclusive(self, bdf: Bdf) -> Iterator[None]:
        """See Host. A process that is killed in it closes it, too."""
        dev = self._device(bdf, "opening it through vfio")
        opened = False
        try:
            with self._workers.effect(f"{bdf} vfio open"):
                usable = self.viable and dev.driver == "vfio-pci"
                failed = vfio.open_device(dev) if usable else EPERM
                if failed:
                    raise RegistersUnreadable(f"{bdf}: opening it through vfio: {strerror(failed)}")
                opened = True
            with self.holding(bdf):
                yield
        finally:
            if opened:
                vfio.close(dev)

    def _device(self, bdf: Bdf, what: str) -> PciDev:
        dev = self.machine.devices.get(bdf)
        if dev is None:
            raise SysfsError(bdf, what, ENOENT)
        return dev

    def _check_free(self, dev: PciDev, what: str) -> None:
        if dev.is_open and not self.holds(dev.bdf):
            self.machine.trace.violation(dev.bdf, f"{what} while open")
        elif dev.driver not in (None, "vfio-pci"):
            self.machine.trace.violation(dev.bdf, f"{what} while {dev.driver} owns it")
