# SPDX-License-Identifier: LGPL-2.1-or-later
"""The attributes of an NVMe function and of the root port above it, under /sys/bus/pci/devices.

Sources: kernel 6.1 drivers/pci/pci-sysfs.c, drivers/base/power/sysfs.c, drivers/pci/iov.c.
A write returns 0 or an errno; a read returns text, None (no such attribute) or an errno.
"""

from collections.abc import Callable
from errno import EACCES, EBUSY, EINVAL, ENOENT, ENOTTY, ERANGE

from ..bdf import Bdf
from . import drivers, resets
from .device import PciDev
from .function import COMMAND


class Bridge:
    """A root port with one bus below it."""

    has_reset_subordinate = True  # since v6.13, and in stable kernels of that time

    def __init__(self, bdf: Bdf, secondary: int) -> None:
        self.bdf = bdf
        self.secondary = secondary
        self.config = bytearray(4096)
        for offset, size, value in (
            (0x00, 4, 0xA338_8086),
            (COMMAND, 4, 0x0010_0507),
            (0x08, 4, 0x060400F0),
            (0x0C, 4, 0x0001_0000),
            (0x18, 4, secondary << 16 | secondary << 8),
            (0x34, 1, 0x40),
            (0x40, 4, 0x0142_0010),
        ):
            self.config[offset : offset + size] = value.to_bytes(size, "little")

    def read(self, name: str) -> str | int | None:
        """An attribute's text."""
        match name:
            case "vendor" | "subsystem_vendor":
                return "0x8086"
            case "device" | "subsystem_device":
                return "0xa338"
            case "class":
                return "0x060400"
            case "secondary_bus_number" | "subordinate_bus_number":
                return str(self.secondary)
            case "power_state":
                return "D0"
            case "power/control":
                return "on"
            case "enable":
                return "1"
            case "rescan" | "remove":
                return EACCES
            case "reset_subordinate":
                return EACCES if self.has_reset_subordinate else None
        return None


def read(dev: PciDev, name: str) -> str | int | None:
    """An attribute of an NVMe function."""
    if name in ("reset_method", "reset") and not dev.has_reset:
        return None
    model = dev.function.model
    plain: dict[str, Callable[[], str]] = {
        "vendor": lambda: f"0x{model.vendor:04x}",
        "device": lambda: f"0x{model.device:04x}",
        "subsystem_vendor": lambda: f"0x{model.subsystem_vendor:04x}",
        "subsystem_device": lambda: f"0x{model.subsystem_device:04x}",
        "class": lambda: "0x010802",
        "revision": lambda: "0x01",
        "reset_method": lambda: " ".join(dev.reset_methods),
        "power/control": lambda: dev.control,
        "power/runtime_status": lambda: "suspended" if dev.power_state == "D3hot" else "active",
        "power_state": lambda: dev.power_state,
        "enable": lambda: "1" if dev.is_open else str(dev.enable_count),
        "d3cold_allowed": lambda: dev.d3cold_allowed,
        "driver_override": lambda: dev.driver_override or "(null)",
        "current_link_speed": lambda: "Unknown" if dev.function.silent else "8.0 GT/s PCIe",
        "current_link_width": lambda: "63" if dev.function.silent else "4",
    }
    if dev.function.total_vfs:
        plain["sriov_totalvfs"] = lambda: str(dev.function.total_vfs)
        plain["sriov_numvfs"] = lambda: str(dev.numvfs)
    if name in ("reset", "remove", "rescan", "driver/unbind"):
        return EACCES
    return plain[name]() if name in plain else None


def write(dev: PciDev, name: str, value: str) -> int:
    """Write an attribute of an NVMe function; `remove` and `rescan` are the host's."""
    text = value.removesuffix("\n")
    match name:
        case "reset_method" if dev.has_reset:
            return resets.store_reset_method(dev, value)
        case "reset" if dev.has_reset:
            return _store_reset(dev, text)
        case "power/control":
            return _store_control(dev, text)
        case "d3cold_allowed" if text in ("0", "1"):
            dev.d3cold_allowed = text
            return 0
        case "driver_override":
            dev.driver_override = text or None
            return 0
        case "enable":
            return _store_enable(dev, text)
        case "sriov_numvfs" if dev.function.total_vfs:
            return _store_numvfs(dev, text)
        case "driver/unbind" if dev.driver:
            return _unbind(dev, text)
    if name.startswith("subsystem/"):
        return _write_bus(dev, name.removeprefix("subsystem/"), text)
    known = read(dev, name)
    return ENOENT if known is None else EACCES


def _number(text: str) -> int:
    """kstrtoul with base 0; -1 for what it refuses."""
    try:
        return int(text, 0)
    except ValueError:
        return -1


def _store_reset(dev: PciDev, text: str) -> int:
    if _number(text) != 1:
        return EINVAL
    return resets.reset_function(dev) if dev.reset_methods else ENOTTY


def _store_control(dev: PciDev, text: str) -> int:
    if text not in ("on", "auto"):
        return EINVAL
    dev.control = text
    dev.idle()
    return 0


def _store_enable(dev: PciDev, text: str) -> int:
    if dev.driver is not None:
        return EBUSY
    wanted = _number(text)
    if wanted not in (0, 1):
        return EINVAL
    dev.enable_count = max(0, dev.enable_count + (1 if wanted else -1))
    if wanted:
        dev.set_power("D0")
        dev.function.write_config(COMMAND, (dev.function.word(COMMAND) | 3).to_bytes(2, "little"))
    return 0


def _store_numvfs(dev: PciDev, text: str) -> int:
    wanted = _number(text)
    if not 0 <= wanted <= dev.function.total_vfs:
        return ERANGE
    if wanted and dev.numvfs:
        return EBUSY
    dev.numvfs = wanted
    return 0


def _unbind(dev: PciDev, text: str) -> int:
    if text != str(dev.bdf):
        return ENOENT
    drivers.unbind(dev)
    return 0


def _write_bus(dev: PciDev, name: str, text: str) -> int:
    """/sys/bus/pci, reached through the function's `subsystem` link."""
    if text != str(dev.bdf):
        return EINVAL
    match name:
        case "drivers_probe":
            drivers.drivers_probe(dev)
            return 0
        case "drivers/nvme/bind" | "drivers/vfio-pci/bind":
            if dev.driver is not None:
                return EBUSY
            drivers.bind(dev, name.split("/")[1])
            return 0
        case "drivers/nvme/unbind" | "drivers/vfio-pci/unbind":
            return _unbind(dev, text)
    return ENOENT
