# SPDX-License-Identifier: LGPL-2.1-or-later
"""Linux's nvme driver, on the host and (its register accesses) in a guest.

Sources: kernel 6.1 drivers/nvme/host/pci.c (nvme_probe, nvme_reset_work, nvme_remove,
nvme_reset_prepare), core.c (nvme_disable_ctrl, nvme_enable_ctrl, nvme_shutdown_ctrl).
"""

from .clock import SimClock
from .device import PciDev
from .faults import Fault
from .function import COMMAND, ONES, Function

LIVE_COMMAND = 0x0507
UNBOUND_COMMAND = 0x0103
LIVE_CC = 0x00460061
QUIRK_DELAY_SECONDS = 2.3  # NVME_QUIRK_DELAY_AMOUNT
SHUTDOWN_TIMEOUT = 5.0
DEAD = "Removing after probe failure status: -12"
NOT_READY = "Device not ready; aborting reset, CSTS=0x"


def _wait(function: Function, clock: SimClock, mask: int, wanted: int, seconds: float) -> bool:
    limit = clock.now + seconds
    while (csts := function.read32(0x1C)) & mask != wanted:
        if csts == ONES or clock.now > limit:
            return False
        clock.advance(0.001)
    return csts != ONES


def _timeout(function: Function) -> float:
    return ((function.read32(0x00) >> 24) + 1) * 0.5


def disable_ctrl(function: Function, clock: SimClock) -> bool:
    """Clear EN and SHN, wait for RDY=0. False: it did not come."""
    cc = function.read32(0x14)
    function.write32(0x14, cc & ~(3 << 14 | 1))
    if function.faults & Fault.CHECK_RDY_EARLY:
        clock.advance(QUIRK_DELAY_SECONDS)
    return _wait(function, clock, 1, 0, _timeout(function))


def enable_ctrl(function: Function, clock: SimClock) -> bool:
    """Set up the admin queue, set EN, wait for RDY=1."""
    for offset, value in ((0x24, 0x001F001F), (0x28, 0x12345000), (0x30, 0x12346000)):
        function.write32(offset, value)
    function.write32(0x14, LIVE_CC & ~1)
    function.write32(0x14, LIVE_CC)
    return _wait(function, clock, 1, 1, _timeout(function))


def shutdown_ctrl(function: Function, clock: SimClock) -> bool:
    """SHN=01 with EN kept, wait for SHST=10: how Linux leaves a controller."""
    function.write32(0x14, (function.read32(0x14) & ~(3 << 14)) | 1 << 14)
    return _wait(function, clock, 3 << 2, 2 << 2, SHUTDOWN_TIMEOUT)


def _start(function: Function, clock: SimClock) -> str:
    """What nvme_reset_work does; returns why it failed, or nothing."""
    if function.read32(0x1C) == ONES:
        return DEAD
    if not disable_ctrl(function, clock) or not enable_ctrl(function, clock):
        return f"{NOT_READY}{function.read32(0x1C):x}"
    return ""


def probe(dev: PciDev) -> None:
    """Bind nvme. The work runs beside the caller: ``connecting`` until it is done."""
    began = dev.clock.now
    with dev.trace.acting("nvme"):
        dev.set_driver("nvme", "connecting")
        dev.note("driver=nvme")
        dev.set_power("D0")
        dev.function.write_config(COMMAND, LIVE_COMMAND.to_bytes(2, "little"))
        dev.enable_count = 1
        failure = _start(dev.function, dev.clock)
        if failure:
            dev.enable_count = 0
        dev.note(failure or "nvme state=live", "nvme")
    dev.set_driver_later(dev.clock.now, *((None, None) if failure else ("nvme", "live")))
    dev.clock.rewind(began)


def remove(dev: PciDev) -> None:
    """Unbind nvme: shut the controller down, but leave CC.EN=1."""
    dev.clock.reach(dev.settled_at)
    with dev.trace.acting("nvme"):
        if dev.nvme_state == "live" and not dev.function.silent:
            shutdown_ctrl(dev.function, dev.clock)
        dev.function.write_config(COMMAND, UNBOUND_COMMAND.to_bytes(2, "little"))
    dev.enable_count = 0


def reset_prepare(dev: PciDev) -> None:
    """Before a reset of a live disk through sysfs: EN=0, so the FLR harms nothing."""
    dev.clock.reach(dev.settled_at)
    with dev.trace.acting("nvme"):
        disable_ctrl(dev.function, dev.clock)


def reset_done(dev: PciDev) -> None:
    """After it: bring the controller up again."""
    with dev.trace.acting("nvme"):
        failure = _start(dev.function, dev.clock)
        dev.note(failure or "nvme state=live", "nvme")
    if failure:
        dev.set_driver(None)
