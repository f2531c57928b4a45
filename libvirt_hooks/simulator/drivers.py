# SPDX-License-Identifier: LGPL-2.1-or-later
"""Binding and unbinding, as the driver core and PCI's driver_override do it.

Sources: kernel 6.1 drivers/base/bus.c (unbind_store, drivers_probe), drivers/pci/pci-driver.c
(pci_match_device, pci_device_remove).
"""

from . import nvme_driver, vfio
from .device import PciDev


def unbind(dev: PciDev) -> None:
    """Take the driver off. The kernel then calls the power state unknown."""
    match dev.driver:
        case "nvme":
            if dev.mounted:
                dev.trace.violations.append(f"{dev.bdf}: taken from the host while mounted")
            nvme_driver.remove(dev)
        case "vfio-pci":
            vfio.unbind(dev)
        case None:
            return
    dev.set_driver(None)
    dev.note("driver=none")
    if dev.power_state == "D0":
        dev.power_state = "unknown"


def bind(dev: PciDev, driver: str) -> None:
    """Put a driver on a function that has none."""
    if driver == "nvme":
        nvme_driver.probe(dev)
    elif driver == "vfio-pci":
        vfio.bind(dev)
    else:
        dev.set_driver(driver)


def drivers_probe(dev: PciDev) -> None:
    """Match a driver: driver_override's, or the one whose id table has class 0x010802."""
    if dev.driver is None:
        bind(dev, dev.driver_override or "nvme")
