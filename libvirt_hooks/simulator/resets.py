# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's resets: reset_method's list, each method, and the three ways in.

Sources: kernel 6.1 drivers/pci/pci.c (pci_init_reset_methods, pcie_flr, pci_dev_wait,
pci_parent_bus_reset, __pci_reset_function_locked, pci_reset_function, pci_try_reset_function),
drivers/pci/pci-sysfs.c (reset_method_store), drivers/pci/quirks.c (pci_dev_reset_methods).
"""

from collections.abc import Callable
from errno import EAGAIN, EINVAL, EIO, ENOTTY, errorcode
from functools import partial

from . import nvme_driver
from .device import PciDev
from .faults import Fault
from .function import COMMAND, EXP, INTX_DISABLE, MEMORY, STATUS

METHODS = ("device_specific", "acpi", "flr", "af_flr", "pm", "bus", "cxl_bus")
POLL_LIMIT = 60.0  # PCIE_RESET_READY_POLL_MS
BLOCKED_SECONDS = 120.0


def is_supported(dev: PciDev, method: str) -> bool:
    """The method's probe. `pm` never is: the drives here have No_Soft_Reset set."""
    match method:
        case "device_specific":
            return bool(dev.function.model.device_specific)
        case "flr":
            return True
        case "bus":
            return dev.bdf.bus != 0 and not dev.siblings
    return False


def init_reset_methods(dev: PciDev) -> None:
    """What the list is at enumeration, and after ``default``."""
    dev.reset_methods = [method for method in METHODS if is_supported(dev, method)]


def store_reset_method(dev: PciDev, value: str) -> int:
    """Write reset_method; returns 0 or an errno. A zero-length write never gets this far."""
    text = value.split("\0")[0]
    stripped = text.removesuffix("\n")
    if stripped == "default":
        init_reset_methods(dev)
        return 0
    wanted = [token.strip() for token in stripped.split(" ") if token.strip()]
    if not all(is_supported(dev, token) for token in wanted):
        return EINVAL
    dev.reset_methods = wanted
    return 0


def dev_wait(dev: PciDev) -> int:
    """pci_dev_wait: 1, 2, 4 … ms until configuration space answers; 65.535 s if it never does."""
    delay = 0.001
    while dev.function.silent:
        if delay > POLL_LIMIT:
            dev.note("not ready 65535ms; giving up")
            return ENOTTY
        dev.clock.advance(delay)
        delay *= 2
    return 0


def pcie_flr(dev: PciDev) -> int:
    """Wait for pending transactions, FLR, wait until it answers."""
    function = dev.function
    if function.read_config(EXP + 0x0A, 1)[0] & 0x20:
        dev.clock.advance(0.7)  # all ones look like transactions pending
    imm_ready = function.read_config(STATUS, 1)[0] & 1 and not function.frozen
    dev.note("reset flr")
    function.flr()
    if imm_ready:
        return 0
    dev.clock.advance(0.1)
    return dev_wait(dev)


def nvme_disable_and_flr(dev: PciDev) -> int:
    """The quirk of 144d:a804: polls every 100 ms, ignores a time-out, always succeeds."""
    function = dev.function
    command = function.word(COMMAND) | MEMORY
    function.write_config(COMMAND, command.to_bytes(2, "little"))
    cc = function.read32(0x14)
    if cc & 1:
        limit = dev.clock.now + ((function.read32(0x00) >> 24) + 1) * 0.5
        function.write32(0x14, cc & ~(3 << 14 | 1))
        while function.read32(0x1C) & 1 and dev.clock.now < limit:
            dev.clock.advance(0.1)
    pcie_flr(dev)
    return 0


def delay_250ms_after_flr(dev: PciDev) -> int:
    """The quirk of 8086:0953."""
    failed = pcie_flr(dev)
    if not failed:
        dev.clock.advance(0.25)
    return failed


def secondary_bus_reset(dev: PciDev) -> int:
    """pci_bridge_secondary_bus_reset of the bridge above *dev*: hits all that is below it."""
    dev.note("bus reset")
    everyone = [dev, *dev.siblings]
    dev.clock.advance(0.002)
    for each in everyone:
        each.function.bus_reset()
    dev.clock.advance(0.11)
    return dev_wait(dev)


def reset_bus_function(dev: PciDev) -> int:
    """The method ``bus``: only for a function that is alone on a bus below a bridge."""
    return secondary_bus_reset(dev) if is_supported(dev, "bus") else ENOTTY


def _device_specific(dev: PciDev) -> int:
    dev.note("reset device_specific")
    if dev.function.model.device_specific == "nvme_disable_and_flr":
        return nvme_disable_and_flr(dev)
    return delay_250ms_after_flr(dev)


_DO: dict[str, Callable[[PciDev], int]] = {
    "device_specific": _device_specific,
    "flr": pcie_flr,
    "bus": reset_bus_function,
}


def reset_function_locked(dev: PciDev) -> int:
    """__pci_reset_function_locked: the methods in order; only ENOTTY goes on to the next."""
    if dev.function.faults & (Fault.RESET_EIO | Fault.RESET_ENOTTY):
        number = EIO if dev.function.faults & Fault.RESET_EIO else ENOTTY
        dev.note(f"reset failed: {errorcode[number]}")
        return number
    for method in dev.reset_methods:
        failed = _DO[method](dev)
        if failed != ENOTTY:
            return failed
    return ENOTTY


def saved_and_disabled(dev: PciDev, reset: Callable[[PciDev], int]) -> int:
    """pci_dev_save_and_disable, *reset*, pci_dev_restore, of *dev* and all that share its fate."""
    if dev.driver == "nvme":
        nvme_driver.reset_prepare(dev)
    dev.set_power("D0")
    saved = dev.function.save()
    dev.function.write_config(COMMAND, INTX_DISABLE.to_bytes(2, "little"))
    failed = reset(dev)
    dev.function.restore(saved)
    if not dev.function.silent:
        dev.power_state = "D0"
    if dev.driver == "nvme":
        nvme_driver.reset_done(dev)
    return failed


def reset_function(dev: PciDev) -> int:
    """pci_reset_function, behind the attribute ``reset``: waits for the device lock."""
    if not dev.reset_methods:
        return ENOTTY
    if dev.function.faults & Fault.RESET_BLOCKS:
        dev.clock.advance(BLOCKED_SECONDS)
    failed = saved_and_disabled(dev, reset_function_locked)
    dev.idle()
    return failed


def try_reset_function(dev: PciDev) -> int:
    """pci_try_reset_function, behind vfio: does not wait for the device lock."""
    if not dev.reset_methods:
        return ENOTTY
    if dev.lock_held:
        return EAGAIN
    return saved_and_disabled(dev, reset_function_locked)


def reset_bus(dev: PciDev) -> int:
    """pci_reset_bus: whatever reset_method says; all functions of the bus together."""
    do: Callable[[PciDev], int] = secondary_bus_reset
    for sibling in dev.siblings:
        do = partial(_around, sibling, do)
    return saved_and_disabled(dev, do)


def _around(sibling: PciDev, reset: Callable[[PciDev], int], dev: PciDev) -> int:
    """Save and restore *sibling*, too, around a reset of *dev*."""
    return saved_and_disabled(sibling, lambda _: reset(dev))
