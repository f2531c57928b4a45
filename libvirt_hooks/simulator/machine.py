# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machine: slots, functions, buses; enumeration, removal, rescan and reboot.

Sources: kernel 6.1 drivers/pci/probe.c (pci_device_add, pci_scan_slot), remove.c.
"""

from collections.abc import Sequence
from errno import ENODEV, EPERM

from ..bdf import Bdf
from . import drivers, resets
from .clock import SimClock, Trace
from .device import PciDev
from .faults import Fault
from .function import COMMAND, Function
from .models import Model
from .nvme_driver import LIVE_COMMAND, UNBOUND_COMMAND
from .sysfs import Bridge

BRIDGE_CONTROL, BUS_RESET = 0x3E, 1 << 6
FIRST_QEMU = 4211
ENUMERATED_COMMAND = 0x0000
"""BARs have their addresses then; a driver turns the decoding on."""


class Machine:
    """What is plugged in (functions), and what the kernel knows of it (devices, bridges)."""

    def __init__(self) -> None:
        self.clock = SimClock()
        self.trace = Trace(self.clock)
        self.plugged: dict[Bdf, Function] = {}
        self.devices: dict[Bdf, PciDev] = {}
        self.bridges: dict[Bdf, Bridge] = {}
        self.active: dict[Bdf, str] = {}  # libvirt's list: which domain has it
        self.unbind_from_stub: set[Bdf] = set()
        self.qemus: dict[str, int] = {}  # the guests that have a process, by uuid: its number
        self._ending: dict[int, float] = {}  # processes that are still in the kernel, until when
        self.autoprobe = True
        self.autoprobe_is_checked = False
        """Whether it counts for what is found later, too: since Linux 6.19."""
        self.slots: dict[str, Bdf] = {}  # those whose power can be switched, by any function's bus
        self.dark: set[str] = set()  # and those that are off

    def plug(self, bdf: Bdf, model: Model, faults: Fault, total_vfs: int) -> PciDev:
        """Put a function into its slot, with a root port above its bus, and enumerate it."""
        faults |= model.faults
        self.plugged[bdf] = Function(bdf, model, faults, self.clock, self.trace, total_vfs)
        port = self.port(bdf)
        if port is not None:
            self.bridges.setdefault(port, Bridge(port, bdf.bus))
        return self._enumerate(bdf)

    def port(self, bdf: Bdf) -> Bdf | None:
        """The root port above the bus of a function; a root bus has none."""
        return Bdf(bdf.domain, 0, bdf.bus & 0x1F, bdf.bus >> 5) if bdf.bus else None

    def _enumerate(self, bdf: Bdf) -> PciDev:
        """pci_device_add: the methods are probed before the function is on its bus's list.

        So the first function of a bus is offered ``bus`` even if others follow.
        """
        dev = PciDev(self.plugged[bdf], self.clock, self.trace, self._on_bus)
        resets.init_reset_methods(dev)
        if dev.function.faults & Fault.NO_RESET_METHOD:
            dev.reset_methods = []
        dev.has_reset = bool(dev.reset_methods)
        self.devices[bdf] = dev
        return dev

    def _on_bus(self, dev: PciDev) -> list[PciDev]:
        return [each for each in self.devices.values() if each.bdf.same_bus(dev.bdf)]

    def prepare(self, dev: PciDev, driver: str | None, pristine: bool) -> None:
        """Put a function where a host that has been up for long would have it; no events."""
        function = dev.function
        with self.trace.acting("kernel"):
            before = list(self.trace.events)
            if driver == "nvme" or not pristine:
                function.controller.live()
            if driver == "nvme":
                dev.set_driver("nvme", "dead" if function.frozen else "live")
                dev.power_state, dev.enable_count = "D0", 1
                function.write_config(COMMAND, LIVE_COMMAND.to_bytes(2, "little"))
            else:
                if not pristine and not function.faults & (Fault.CFS | Fault.ENABLING):
                    function.controller.latch_shutdown()
                function.write_config(COMMAND, UNBOUND_COMMAND.to_bytes(2, "little"))
                began = self.clock.now
                if driver is not None:
                    drivers.bind(dev, driver)
                self.clock.rewind(began)
            self.trace.events[:] = before

    def remove(self, dev: PciDev) -> None:
        """`remove`: unbinds and forgets; reset_method, driver_override, power/control are lost."""
        drivers.unbind(dev)
        dev.note("removed")
        del self.devices[dev.bdf]

    def rescan(self, bus: Bdf | None = None) -> None:
        """`rescan`, of all or of one bus: what answers and is not known is enumerated.

        A driver is looked for, whatever drivers_autoprobe says: pci_bus_add_device calls
        device_attach itself (v6.1). Since ea34511aaf75 (v6.19) device_initial_probe asks it.
        """
        for bdf, function in sorted(self.plugged.items()):
            wanted = bus is None or bus.same_bus(bdf)
            if bdf in self.devices or not wanted or self._is_dark(bdf):
                continue
            function.looked_for()
            if not function.silent:
                function.restore((ENUMERATED_COMMAND, function.bar0, 0x2810))
                dev = self._enumerate(bdf)
                dev.note("found by rescan")
                if self.autoprobe or not self.autoprobe_is_checked:
                    drivers.drivers_probe(dev)

    def reset_subordinate(self, bridge: Bridge) -> int:
        """`reset_subordinate` of a bridge: everything below, whatever reset_method says.

        The kernel waits for what it knows below; what it does not know is reset all the same.
        """
        bus = Bdf(bridge.bdf.domain, bridge.secondary, 0, 0)
        below = [dev for dev in self.devices.values() if bus.same_bus(dev.bdf)]
        for dev in below[1:]:
            self.trace.violation(dev.bdf, "reset as a neighbour")
        if below:
            return resets.reset_bus(below[0])
        self.trace.note(bridge.bdf, "bus reset", "kernel")
        for bdf, function in self.plugged.items():
            if bus.same_bus(bdf):
                function.bus_reset()
        return 0

    def write_bridge_config(self, bridge: Bridge, offset: int, data: bytes) -> None:
        """Configuration space of a port: of its bits only the bus reset does something here."""
        before = bridge.config[BRIDGE_CONTROL]
        bridge.config[offset : offset + len(data)] = data
        if before & BUS_RESET and not bridge.config[BRIDGE_CONTROL] & BUS_RESET:
            for bdf, function in self.plugged.items():
                if Bdf(bridge.bdf.domain, bridge.secondary, 0, 0).same_bus(bdf):
                    if bdf in self.devices:
                        self.trace.violation(bdf, "bus reset behind the kernel's back")
                    function.bus_reset()

    def slot_power(self, name: str, on: bool) -> int:
        """`power` of a slot: off removes every function in it, on powers it up and enumerates.

        As pciehp does it: what is so already is refused, and a slot in which nothing is found
        goes off again (v6.1; EPERM was measured).
        """
        bus = self.slots[name]
        if on is not (name in self.dark):
            return ENODEV
        if on:
            self.dark.remove(name)
            for bdf, function in self.plugged.items():
                if bus.same_bus(bdf) and bdf not in self.devices:
                    function.power_cycled()
            self.rescan(bus)
            if not any(bus.same_bus(bdf) for bdf in self.devices):
                self.dark.add(name)
                return EPERM
        else:
            self.dark.add(name)
            inside = [dev for bdf, dev in self.devices.items() if bus.same_bus(bdf)]
            for dev in inside:
                if len(inside) > 1:
                    self.trace.violation(dev.bdf, "switched off with a neighbour")
                self.remove(dev)
        return 0

    def _is_dark(self, bdf: Bdf) -> bool:
        return any(self.slots[name].same_bus(bdf) for name in self.dark)

    def start_qemu(self, uuid: str) -> None:
        """The guest gets a process."""
        self.qemus[uuid] = FIRST_QEMU + len(self._ending)
        self._ending[self.qemus[uuid]] = float("inf")

    def end_qemu(self, uuid: str, at: float) -> None:
        """The guest's process ends at the moment *at*; it has no memory map any more."""
        pid = self.qemus.pop(uuid, None)
        if pid is not None:
            self._ending[pid] = at

    def runs(self, pid: int) -> bool:
        """Is there such a QEMU?"""
        return self.clock.now < self._ending.get(pid, 0.0)

    def reboot(self) -> None:
        """Power off and on: every function as new, nvme bound to each."""
        self.clock.advance(30.0)
        self.trace.note(None, "host rebooted", "kernel")
        self.devices.clear()
        self.active.clear()
        self.unbind_from_stub.clear()
        self.qemus.clear()
        self.autoprobe = True
        self.dark.clear()
        for function in self.plugged.values():
            function.cold_reset()
        self.rescan()

    def texts(self, bdf: Bdf | str | None = None, who: Sequence[str] = ()) -> list[str]:
        """The texts of the trace, of one function and of some actors only if so asked."""
        wanted = Bdf.parse(bdf) if isinstance(bdf, str) else bdf
        return [
            event.text
            for event in self.trace.events
            if wanted in (None, event.bdf) and (not who or event.who in who)
        ]
