# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a function's attributes say, each by itself. Reads, and needs no table.

All of them at one moment are ``observe``'s, which has these for whoever observes. They are apart
from it for `list`: the tables of registers take as long to load as all that it reads.
"""

from .bdf import Bdf
from .host import Host

CLASS_NVME = 0x010802
"""PCI class code of an NVM Express I/O controller (PCI_CLASS_STORAGE_EXPRESS)."""

VFIO_PCI = "vfio-pci"
NVME = "nvme"


def is_open(host: Host, bdf: Bdf, driver: str | None) -> bool:
    """Has somebody the function open through vfio-pci? We ourselves are nobody.

    vfio-pci enables the function at the first open and disables it at the last close
    (vfio_pci_core_enable, vfio_pci_core_disable, v6.1); measured: 0 idle, 1 open. An unbind takes
    the link to the driver away before it waits for that (drivers/base/dd.c, driver_sysfs_remove).
    """
    if driver not in (None, VFIO_PCI) or host.holds(bdf):
        return False
    return number(host.read_attr(bdf, "enable")) > 0


def ids(host: Host, bdf: Bdf) -> tuple[int, int]:
    """Return vendor and device as enumerated, zeros for a function that is not there.

    :raises SysfsError: the kernel refused a read.
    """
    return number(host.read_attr(bdf, "vendor")), number(host.read_attr(bdf, "device"))


def number(attribute: str | None) -> int:
    """Read an attribute's number, decimal or ``0x`` hexadecimal; one that is not there is 0."""
    return int(attribute or "0", 0)
