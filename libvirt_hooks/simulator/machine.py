# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machine: slots, functions, buses; enumeration, removal, rescan and reboot.

Sources: kernel 6.1 drivers/pci/probe.c (pci_device_add, pci_scan_slot), remove.c.
"""

from collections.abc import Sequence

from ..bdf import Bdf
from . import drivers, resets
from .clock import SimClock, Trace
from .device import PciDev
from .faults import Fault
from .function import COMMAND, Function
from .models import Model
from .nvme_driver import LIVE_COMMAND, UNBOUND_COMMAND
from .sysfs import Bridge


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

    def plug(self, bdf: Bdf, model: Model, faults: Fault, total_vfs: int) -> PciDev:
        """Put a function into its slot, with a root port above its bus, and enumerate it."""
        faults |= model.faults
        self.plugged[bdf] = Function(bdf, model, faults, self.clock, self.trace, total_vfs)
        if bdf.bus:
            port = Bdf(bdf.domain, 0, bdf.bus & 0x1F, bdf.bus >> 5)
            self.bridges.setdefault(port, Bridge(port, bdf.bus))
        return self._enumerate(bdf)

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

    def rescan(self) -> None:
        """`rescan`: what answers and is not known is enumerated, and gets its driver."""
        for bdf, function in sorted(self.plugged.items()):
            if bdf not in self.devices and not function.silent:
                dev = self._enumerate(bdf)
                dev.note("found by rescan")
                drivers.drivers_probe(dev)

    def reset_subordinate(self, bridge: Bridge) -> int:
        """`reset_subordinate` of a bridge: everything below, whatever reset_method says."""
        below = [
            dev
            for dev in self.devices.values()
            if (dev.bdf.domain, dev.bdf.bus) == (bridge.bdf.domain, bridge.secondary)
        ]
        for dev in below[1:]:
            self.trace.violation(dev.bdf, "reset as a neighbour")
        return resets.reset_bus(below[0]) if below else 0

    def reboot(self) -> None:
        """Power off and on: every function as new, nvme bound to each."""
        self.clock.advance(30.0)
        self.trace.note(None, "host rebooted", "kernel")
        self.devices.clear()
        self.active.clear()
        self.unbind_from_stub.clear()
        for function in self.plugged.values():
            function.cold_reset()
            function.restore((UNBOUND_COMMAND, function.bar0, 0x2810))
        self.rescan()

    def texts(self, bdf: Bdf | str | None = None, who: Sequence[str] = ()) -> list[str]:
        """The texts of the trace, of one function and of some actors only if so asked."""
        wanted = Bdf.parse(bdf) if isinstance(bdf, str) else bdf
        return [
            event.text
            for event in self.trace.events
            if wanted in (None, event.bdf) and (not who or event.who in who)
        ]
