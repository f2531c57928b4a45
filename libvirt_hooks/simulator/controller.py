# SPDX-License-Identifier: LGPL-2.1-or-later
"""Controller: NVMe registers with side effects over virtual time.

Sources: NVM Express Base Specification 2.0, 3.1.3 "Controller Properties" and 3.7.2 "Controller
Level Reset"; 1.3, 3.1.5 for changes of EN that are undefined. Who may reach the registers, and
whether they answer, is function.py's matter.
"""

from ..bdf import Bdf
from .clock import SimClock, Trace
from .faults import Fault
from .models import Model

EN = 1 << 0
SHN = 3 << 14
RDY = 1 << 0
CFS = 1 << 1

READ_ONLY = {0x00: "CAP", 0x04: "CAP+4", 0x08: "VS", 0x1C: "CSTS", 0x68: "CRTO"}
PLAIN = {0x24: "AQA", 0x28: "ASQ", 0x2C: "ASQ+4", 0x30: "ACQ", 0x34: "ACQ+4"}
MASKS = {0x0C: "INTMS", 0x10: "INTMC"}

DISABLE_SECONDS = 0.001
SLOW_DISABLE_SECONDS = 3.0
ENABLE_SECONDS = 0.002
SLOW_ENABLE_SECONDS = 2.0
SHUTDOWN_SECONDS = 0.005
CHECK_RDY_SECONDS = 2.3

LIVE_CC = 0x00460061
"""What Linux 6.1 writes on a drive with several command sets: the CC of the rig's double."""


class Controller:
    """The registers of one controller."""

    def __init__(
        self, bdf: Bdf, model: Model, faults: Fault, clock: SimClock, trace: Trace
    ) -> None:
        self.bdf = bdf
        self.model = model
        self.faults = faults
        self.clock = clock
        self.trace = trace
        self.queues = dict.fromkeys(PLAIN, 0)
        self.reset()

    def reset(self) -> None:
        """Every register to its default, as FLR and conventional reset do."""
        self.cc = 0
        if not self.faults & Fault.KEEPS_QUEUES:
            self.queues = dict.fromkeys(PLAIN, 0)
        self.cfs = False
        self.cannot_enable = False
        self._rdy = False
        self._shst = 0
        self._wedged = False
        self._rdy_due: tuple[float, bool] | None = None
        self._shst_due: float | None = None
        self._en_changed = self.clock.now
        self._no_csts_before = 0.0

    def live(self) -> None:
        """Put the controller where a driver that uses it has brought it."""
        self.cc = LIVE_CC
        self.queues.update({0x24: 0x001F001F, 0x28: 0x12345000, 0x30: 0x12346000})
        self._rdy = True
        if self.faults & Fault.CFS:
            self.cfs = self._wedged = True
        if self.faults & Fault.ENABLING:
            self._rdy = False
            self._en_changed = self.clock.now
            self._rdy_due = (self.clock.now + SLOW_ENABLE_SECONDS, True)

    def latch_shutdown(self) -> None:
        """CC.EN=1, SHN=01, SHST=10: what nvme's unbind and a Linux guest's shutdown leave."""
        self.cc = (self.cc & ~SHN) | 1 << 14
        if not self.cfs:
            self._shst = 2

    @property
    def csts(self) -> int:
        """CSTS as it is now."""
        self._settle()
        return (RDY if self._rdy else 0) | (CFS if self.cfs else 0) | self._shst << 2

    @property
    def flr_is_lethal(self) -> bool:
        """Is this the state in which an SM951 does not survive an FLR?"""
        return bool(self.cc & (EN | SHN) or self.csts & 3 << 2)

    @property
    def pristine(self) -> bool:
        """Nothing is left of whoever used the controller before."""
        return not (self.cc & (EN | SHN) or self.csts or any(self.queues.values()))

    def read32(self, offset: int) -> int:
        """One aligned 32-bit read."""
        match offset:
            case 0x00:
                return 0x3FFF | 1 << 16 | self.model.to << 24
            case 0x04:
                return 1 << 5 | 4 << 20  # CSS: NVM command set; MPSMAX 64 KiB; NSSRS 0
            case 0x08:
                return self.model.vs
            case 0x14:
                return self.cc
            case 0x1C:
                self._csts_was_read()
                return self.csts
            case _ if offset in self.queues:
                return self.queues[offset]
            case 0x0C | 0x10 | 0x68:
                return 0
        self.trace.violation(self.bdf, f"read of offset {offset:#x}, which is no register")
        return 0

    def write32(self, offset: int, value: int) -> None:
        """One aligned 32-bit write."""
        if offset == 0x14:
            self._write_cc(value)
        elif offset in self.queues:
            if (self.cc & EN) and value != self.queues[offset]:
                self.trace.violation(self.bdf, f"{PLAIN[offset]} changed while CC.EN=1")
            self.queues[offset] = value
        elif offset not in MASKS:
            name = READ_ONLY.get(offset, f"offset {offset:#x}")
            self.trace.violation(self.bdf, f"write of {name}, which cannot be written")

    def _write_cc(self, value: int) -> None:
        was, self.cc = self.cc, value
        self.trace.note(self.bdf, f"CC=0x{value:08x}")
        if (was ^ value) & EN:
            self._settle()
            self._check_en_change(bool(was & EN))
            self._en_changed = self.clock.now
            if value & EN:
                self._enable()
            else:
                self._disable()
        elif value & EN and value & SHN and not was & SHN and not self.cfs:
            self._shst = 1
            self._shst_due = self.clock.now + SHUTDOWN_SECONDS

    def _check_en_change(self, was: bool) -> None:
        # After CAP.TO of waiting, or with CFS, there is nothing more to wait for.
        late = self.clock.now >= self._en_changed + max(self.model.to, 1) * 0.5
        if self._rdy == was or self.cfs or late:
            return
        self.trace.violation(self.bdf, f"CC.EN={was:d} changed while CSTS.RDY={self._rdy:d}")
        if was and self.faults & Fault.ENABLING:
            self._wedge()

    def _enable(self) -> None:
        if self._wedged or self.cannot_enable:
            return
        slow = self.faults & Fault.ENABLING
        seconds = SLOW_ENABLE_SECONDS if slow else ENABLE_SECONDS
        self._rdy_due = (self.clock.now + seconds, True)

    def _disable(self) -> None:
        if self.faults & Fault.CHECK_RDY_EARLY:
            self._no_csts_before = self.clock.now + CHECK_RDY_SECONDS
        if self.faults & Fault.CFS_ON_DISABLE:
            self.cfs = True
            self.trace.note(self.bdf, "CSTS.CFS=1", who="drive")
        if self._wedged or self.cfs or self.faults & Fault.RDY_STUCK:
            self._rdy_due = None
            return
        seconds = SLOW_DISABLE_SECONDS if self.faults & Fault.SLOW_RDY else DISABLE_SECONDS
        self._rdy_due = (self.clock.now + seconds, False)

    def _csts_was_read(self) -> None:
        if self.clock.now < self._no_csts_before:
            self._no_csts_before = 0.0
            self._wedge()

    def _wedge(self) -> None:
        self._wedged = self._rdy = True
        self._rdy_due = None
        self.trace.note(self.bdf, "CSTS.RDY wedged at 1", who="drive")

    def _settle(self) -> None:
        """Let the changes happen whose time has come."""
        now = self.clock.now
        if self._shst_due is not None and now >= self._shst_due:
            self.trace.note(self.bdf, "CSTS.SHST=10", who="drive", at=self._shst_due)
            self._shst, self._shst_due = 2, None
        if self._rdy_due is not None and now >= self._rdy_due[0]:
            moment, rdy = self._rdy_due
            if rdy != self._rdy:
                self.trace.note(self.bdf, f"CSTS.RDY={rdy:d}", who="drive", at=moment)
            self._rdy, self._rdy_due = rdy, None
            if not rdy:
                self._shst, self._shst_due = 0, None
