# SPDX-License-Identifier: LGPL-2.1-or-later
"""Function: one PCI function as the bus sees it; no kernel in it.

Sources: PCI Express Base Specification 5.0, 6.6 "Function Level Reset", 7.5.1 (header), 7.5.2
(power management capability), 7.5.3 (PCI Express capability), 9.3.7 (SR-IOV capability).
"""

from ..bdf import Bdf
from .clock import SimClock, Trace
from .controller import Controller
from .faults import Fault
from .models import Model

COMMAND, STATUS, BAR0 = 0x04, 0x06, 0x10
PM, PMCSR = 0x40, 0x44
EXP, DEVCTL, MSIX = 0x70, 0x78, 0xB0
SRIOV = 0x100
MEMORY, MASTER, INTX_DISABLE = 1 << 1, 1 << 2, 1 << 10
BCR_FLR = 1 << 15
D0, D3HOT = 0, 3
NAMES = {COMMAND: "COMMAND", BAR0: "BAR0", PMCSR: "PMCSR", DEVCTL: "DEVCTL"}

FLR_SECONDS = 0.01
FALSE_READINESS_SECONDS = 0.15
TOUCH_SECONDS = 0.25
ONES = 0xFFFFFFFF


class Function:
    """Configuration space, power state and BAR0 of an NVMe controller."""

    def __init__(
        self,
        bdf: Bdf,
        model: Model,
        faults: Fault,
        clock: SimClock,
        trace: Trace,
        total_vfs: int = 0,
    ) -> None:
        self.bdf = bdf
        self.model = model
        self.faults = faults
        self.clock = clock
        self.trace = trace
        self.total_vfs = total_vfs
        self.controller = Controller(bdf, model, faults, clock, trace)
        self.frozen = bool(faults & Fault.CONFIG_FROZEN)
        self.flrs = self.lethal_flrs = self.bus_resets = 0
        self.bar0 = 0xF0000000 + (bdf.bus << 20) + (bdf.slot << 15) + bdf.function * 0x4000
        self._flr_at = self.silent_until = float("-inf")
        self._writable = bytearray(4096)
        for offset, mask in ((COMMAND, 0x0547), (BAR0, 0xFFFFC000), (PMCSR, 0x3), (DEVCTL, 0x7FEF)):
            size = 4 if mask > 0xFFFF else 2
            self._writable[offset : offset + size] = mask.to_bytes(size, "little")
        self.config = self._power_on_config()
        self.restore((0x0103, self.bar0, 0x2810))

    def _power_on_config(self) -> bytearray:
        space = bytearray(4096)
        model = self.model
        status = 0x0010 | bool(self.faults & Fault.FALSE_IMMEDIATE_READINESS)
        devcap = 1 << 28 | 1 << 15  # FLR capability, Role-Based Error Reporting
        for offset, size, value in (
            (0x00, 2, model.vendor),
            (0x02, 2, model.device),
            (STATUS, 2, status),
            (0x08, 4, 0x01080201),
            (BAR0, 4, 0x4),
            (0x2C, 2, model.subsystem_vendor),
            (0x2E, 2, model.subsystem_device),
            (0x34, 1, PM),
            (0x3D, 1, 1),
            (PM, 4, 0x0003_7001),
            (PMCSR, 2, 1 << 3),  # No_Soft_Reset
            (EXP, 4, 0x0002_B010),
            (EXP + 0x04, 4, devcap),
            (EXP + 0x0C, 4, 0x00000043),
            (EXP + 0x12, 2, 0x0043),
            (MSIX, 4, 0x000F_0011),
            (MSIX + 4, 4, 0x3000),
        ):
            space[offset : offset + size] = value.to_bytes(size, "little")
        if self.total_vfs:
            space[SRIOV : SRIOV + 4] = (0x0001_0010).to_bytes(4, "little")
            space[SRIOV + 0x0E : SRIOV + 0x10] = self.total_vfs.to_bytes(2, "little")
        return space

    @property
    def silent(self) -> bool:
        """Does configuration space read all ones?"""
        return self.frozen or self.clock.now < self.silent_until

    @property
    def power_state(self) -> int:
        """PowerState of PMCSR: 0 is D0, 3 is D3hot."""
        return self.config[PMCSR] & 3

    def word(self, offset: int) -> int:
        """The 16 bits at *offset*, as the hardware holds them."""
        return int.from_bytes(self.config[offset : offset + 2], "little")

    def read_config(self, offset: int, length: int) -> bytes:
        """What a read on the bus returns."""
        if self.silent:
            return b"\xff" * length
        return bytes(self.config[offset : offset + length])

    def write_config(self, offset: int, data: bytes) -> None:
        """A write on the bus; bits that cannot be written keep their value.

        A function that is not ready yet makes the root complex repeat the write (Request Retry
        Status), so only a frozen one loses it.
        """
        if self.frozen:
            return
        for index, byte in enumerate(data, offset):
            mask = self._writable[index]
            self.config[index] = (self.config[index] & ~mask) | (byte & mask)
        if offset <= DEVCTL + 1 < offset + len(data) and data[DEVCTL + 1 - offset] & 0x80:
            self.flr()

    def save(self) -> tuple[int, int, int]:
        """What pci_save_state keeps of what a reset would lose: COMMAND, BAR0, DEVCTL."""
        bar0 = int.from_bytes(self.config[BAR0 : BAR0 + 4], "little")
        return self.word(COMMAND), bar0 & ~0xF, self.word(DEVCTL)

    def restore(self, saved: tuple[int, int, int]) -> None:
        """What pci_restore_state writes back."""
        command, bar0, devctl = saved
        self.write_config(BAR0, bar0.to_bytes(4, "little"))
        self.write_config(DEVCTL, devctl.to_bytes(2, "little"))
        self.write_config(COMMAND, command.to_bytes(2, "little"))

    def read32(self, offset: int) -> int:
        """Read a register through BAR0, if it answers at all."""
        self.touch()
        if self._decodes():
            return self.controller.read32(offset)
        zeros = self.power_state == D3HOT and self.faults & Fault.D3HOT_READS_ZERO
        return 0 if zeros and not self.frozen else ONES

    def write32(self, offset: int, value: int) -> None:
        """Write a register through BAR0, if anything is there to take it."""
        self.touch()
        if self._decodes():
            self.controller.write32(offset, value)

    def why_unreadable(self) -> str:
        """Why the registers of a living function would lie now; empty if they would not."""
        if self.power_state == D3HOT:
            return "in D3hot"
        return "" if self.word(COMMAND) & MEMORY else "with memory decode off"

    def touch(self) -> None:
        """Software came by."""
        early = self.clock.now < self._flr_at + TOUCH_SECONDS
        if early and self.faults & Fault.TOUCHED_EARLY_AFTER_FLR and not self.frozen:
            if not self.controller.cannot_enable:
                self.trace.note(self.bdf, "touched early after FLR", who="drive")
            self.controller.cannot_enable = True

    def _decodes(self) -> bool:
        bar0 = int.from_bytes(self.config[BAR0 : BAR0 + 4], "little") & ~0xF
        return not self.silent and not self.why_unreadable() and bar0 == self.bar0

    def flr(self) -> None:
        """Function Level Reset, whoever asked for it."""
        if self.frozen:
            return
        self.flrs += 1
        if self.faults & Fault.LETHAL_FLR and self.controller.flr_is_lethal:
            self.lethal_flrs += 1
            self.trace.violation(self.bdf, "killed by an FLR of ours")
            self._freeze("FLR killed it")
        elif self.faults & Fault.GONE_AFTER_FLR:
            self._freeze("gone after FLR")
        else:
            self._reset()
            late = self.faults & Fault.FALSE_IMMEDIATE_READINESS
            self._flr_at = self.clock.now
            self.silent_until = self.clock.now + (FALSE_READINESS_SECONDS if late else FLR_SECONDS)
            if self.faults & Fault.MSIX_GROWS:
                self.config[MSIX + 2] = 21

    def bus_reset(self) -> None:
        """Conventional (hot) reset, from a reset of the secondary bus above."""
        self.bus_resets += 1
        if not self.frozen:
            self._reset()
        elif self.faults & Fault.BUS_RESET_CURES:
            self.trace.note(self.bdf, "bus reset revived it", who="drive")
            self.cold_reset()

    def looked_for(self) -> None:
        """Somebody enumerates the bus that the function was removed from."""
        if self.frozen and self.faults & Fault.RESCAN_CURES:
            self.trace.note(self.bdf, "rescan revived it", who="drive")
            self.cold_reset()

    def power_cycled(self) -> None:
        """The slot was switched off and on. Some drives' firmware does not care."""
        if not self.frozen:
            self.cold_reset()
        elif self.faults & Fault.SLOT_CURES:
            self.trace.note(self.bdf, "slot power revived it", who="drive")
            self.cold_reset()

    def cold_reset(self) -> None:
        """Power off and on: everything is as new."""
        self.frozen = False
        self.silent_until = float("-inf")
        self._reset()

    def _reset(self) -> None:
        self.config = self._power_on_config()
        self.controller.reset()

    def _freeze(self, text: str) -> None:
        self.frozen = True
        self.trace.note(self.bdf, text, who="drive")
