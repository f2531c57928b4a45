# SPDX-License-Identifier: LGPL-2.1-or-later
"""SimRegisters: BAR0 mapped by the code under test, and the rules for touching it.

Sources: NVM Express Base Specification 2.0, 3.1.3 (aligned 32-bit accesses); facts/kernel.md
section 3 (what an access reads in D3hot or with memory decode off).
"""

from ..host import Registers
from .device import PciDev
from .workers import Workers

ACCESS_SECONDS = 1e-6


class SimRegisters(Registers):
    """The Registers protocol over a simulated function.

    :param workers: asked before each access, so that a killed worker touches nothing.
    """

    def __init__(self, dev: PciDev, workers: Workers) -> None:
        self.closed = False
        self._dev = dev
        self._workers = workers

    def read32(self, offset: int) -> int:
        """See Registers."""
        self._check(offset, "read")
        return self._dev.function.read32(offset)

    def write32(self, offset: int, value: int) -> None:
        """See Registers."""
        self._check(offset, "write")
        if not 0 <= value <= 0xFFFFFFFF:
            raise ValueError(f"{value:#x} does not fit 32 bits")
        with self._workers.effect(f"{self._dev.bdf} register {offset:#x}={value:#x}"):
            self._dev.function.write32(offset, value)

    def _check(self, offset: int, what: str) -> None:
        if self.closed:
            raise ValueError("mmap closed or invalid")
        self._workers.enter()
        self._dev.clock.advance(ACCESS_SECONDS)
        if offset % 4 or not 0 <= offset < 4096:
            self._violation(f"{what} at {offset:#x}: unaligned, or outside the first 4 KiB")
        why = self._dev.function.why_unreadable()
        if why and not self._dev.function.silent:
            self._violation(f"register {what} at {offset:#x} {why}")

    def _violation(self, text: str) -> None:
        self._dev.trace.violation(self._dev.bdf, text)
