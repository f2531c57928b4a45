# SPDX-License-Identifier: LGPL-2.1-or-later
"""QEMU and the guest in it, as far as an assigned NVMe controller notices them.

Sources: QEMU 7.2 hw/vfio/pci.c; facts/kernel.md sections 0 and 2 (two resets at start, one at
each reboot, one at the last close); a Linux guest uses Linux's nvme driver.
"""

from collections.abc import Sequence

from . import nvme_driver, vfio
from .clock import SimClock
from .device import PciDev
from .function import COMMAND, MASTER, MEMORY, ONES

START_SECONDS = 0.3
BOOT_SECONDS = 1.0


def start(devices: Sequence[PciDev], clock: SimClock, uuid: str) -> str:
    """Open every device and reset the machine. Returns why that failed, or nothing."""
    clock.advance(START_SECONDS)
    for dev in devices:
        with dev.trace.acting("QEMU"):
            failed = vfio.open_device(dev, uuid)
        if failed:
            return f"vfio {dev.bdf}: error getting device: errno {failed}"
    reset(devices)
    return ""


def reset(devices: Sequence[PciDev]) -> None:
    """A machine reset: at start-up, at each reboot."""
    for dev in devices:
        with dev.trace.acting("QEMU"):
            vfio.machine_reset(dev)


def boot(devices: Sequence[PciDev], clock: SimClock) -> dict[PciDev, bool]:
    """The guest boots and enables its controllers: does it see each?"""
    clock.advance(BOOT_SECONDS)
    return {dev: _use(dev) for dev in devices}


def _use(dev: PciDev) -> bool:
    function = dev.function
    with dev.trace.acting("guest"):
        command = function.word(COMMAND) | MEMORY | MASTER
        function.write_config(COMMAND, command.to_bytes(2, "little"))
        if function.read32(0x00) == ONES:
            dev.note("guest sees no NVMe: all ones", "guest")
            return False
        works = nvme_driver.disable_ctrl(function, dev.clock) and nvme_driver.enable_ctrl(
            function, dev.clock
        )
        dev.note("guest has its NVMe" if works else "guest's NVMe is not ready", "guest")
    return works


def shut_down(devices: Sequence[PciDev]) -> None:
    """The guest shuts its controllers down, as Linux does: EN=1, SHN=01, SHST=10."""
    for dev in devices:
        with dev.trace.acting("guest"):
            if dev.function.read32(0x1C) & 1 and not dev.function.silent:
                nvme_driver.shutdown_ctrl(dev.function, dev.clock)


def leave(devices: Sequence[PciDev], clock: SimClock, patience: float) -> bool:
    """QEMU ends: the kernel closes its descriptors, one after the other.

    False: that took longer than *patience*, and goes on beside what comes now.
    """
    began = clock.now
    for dev in devices:
        if dev.vfio.user:
            before = clock.now
            dev.vfio.user = ""
            with dev.trace.acting("QEMU"):
                vfio.close(dev)
            if clock.now > before + patience:
                dev.function.silent_until = clock.now  # whatever revived it came last
    if clock.now <= began + patience:
        return True
    for dev in devices:
        dev.vfio.closing_until = clock.now
    clock.rewind(began + patience)
    return False
