# SPDX-License-Identifier: LGPL-2.1-or-later
"""PciDev: what the kernel remembers about a function, and its runtime power management.

Sources: kernel 6.1 include/linux/pci.h (struct pci_dev), drivers/pci/pci.c (pci_power_up,
pci_set_low_power_state), drivers/pci/pci-driver.c (pci_device_remove).
"""

from collections.abc import Callable
from dataclasses import dataclass

from .clock import SimClock, Trace
from .function import D0, D3HOT, PMCSR, Function

WAKE_SECONDS = 0.01  # PCI_PM_D3HOT_WAIT


@dataclass
class Vfio:
    """struct vfio_pci_core_device, of a function that vfio-pci is bound to.

    :param references: how many descriptors of the open device there are.
    :param user: uuid of the guest whose QEMU has one of them.
    :param opens: how often QEMU has opened it: which open file that one is.
    :param closing_until: the last close is still in the kernel up to this moment.
    """

    references: int = 0
    user: str = ""
    opens: int = 0
    reset_works: bool = False
    closing_until: float = float("-inf")


class PciDev:
    """struct pci_dev: from enumeration to removal."""

    def __init__(
        self,
        function: Function,
        clock: SimClock,
        trace: Trace,
        on_bus: Callable[["PciDev"], list["PciDev"]],
    ) -> None:
        self.function = function
        self.bdf = function.bdf
        self.clock = clock
        self.trace = trace
        self.reset_methods: list[str] = []
        self.has_reset = False
        self.control = "on"
        self.power_state = "unknown"  # until a driver enables it
        self.d3cold_allowed = "1"
        self.driver_override: str | None = None
        self.enable_count = 0
        self.numvfs = 0
        self.lock_held = False
        self.mounted = ""  # where the host has its disk mounted
        self.vfio = Vfio()
        self._driver: str | None = None
        self._state: str | None = None
        self._later: tuple[float, str | None, str | None] | None = None
        self._on_bus = on_bus

    def note(self, text: str, who: str = "kernel") -> None:
        """Record an event of this function."""
        self.trace.note(self.bdf, text, who)

    @property
    def siblings(self) -> list["PciDev"]:
        """Every other function on the same bus."""
        return [dev for dev in self._on_bus(self) if dev is not self]

    @property
    def driver(self) -> str | None:
        """The bound driver."""
        self._settle()
        return self._driver

    @property
    def nvme_state(self) -> str | None:
        """State of the nvme driver's controller."""
        self._settle()
        return self._state

    @property
    def is_open(self) -> bool:
        """Does somebody hold the vfio device, or is its last close still running?"""
        return self.vfio.references > 0 or self.clock.now < self.vfio.closing_until

    def set_driver(self, name: str | None, nvme_state: str | None = None) -> None:
        """The driver link, and the state of the nvme controller below it."""
        if name is None:
            self.enable_count = 0  # every driver here disables what it lets go of
        self._driver, self._state, self._later = name, nvme_state, None

    def set_driver_later(self, at: float, name: str | None, nvme_state: str | None) -> None:
        """An asynchronous probe ends so at the moment *at*."""
        self._later = (at, name, nvme_state)

    @property
    def settled_at(self) -> float:
        """When the asynchronous probe ends, or now."""
        return self._later[0] if self._later else self.clock.now

    def _settle(self) -> None:
        if self._later and self.clock.now >= self._later[0]:
            self.set_driver(self._later[1], self._later[2])
            if self._driver is None:
                self.power_state = "unknown"

    def set_power(self, wanted: str) -> None:
        """pci_set_power_state: D0 or D3hot; a silent function is taken for D3cold."""
        if wanted == self.power_state:
            return
        before = self.power_state
        if self.function.silent:
            self.power_state = "D3cold"
            if before != "D3cold":
                self.note(f"cannot change power state from {before} to {wanted}: inaccessible")
            return
        self.power_state = wanted
        if wanted == "D0" and self.function.power_state != D0:
            self._write_pmcsr(D0)
            self.clock.advance(WAKE_SECONDS)
        elif wanted == "D3hot":
            self._write_pmcsr(D3HOT)
        if before != "unknown":
            self.note(f"power_state={wanted}")

    def _write_pmcsr(self, state: int) -> None:
        self.function.write_config(
            PMCSR, (self.function.word(PMCSR) & ~3 | state).to_bytes(2, "little")
        )

    def idle(self) -> None:
        """Runtime PM after something changed: vfio-pci lets an idle function sleep."""
        if self.driver == "vfio-pci":
            asleep = self.control == "auto" and not self.is_open
            self.set_power("D3hot" if asleep else "D0")
