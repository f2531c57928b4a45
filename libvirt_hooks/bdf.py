# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bdf: the address of a PCI function, in the order and spelling of the kernel.

Sources: libvirt src/util/virpci.c (virPCIDeviceAddressParse), kernel drivers/pci/probe.c
(pci_setup_device: "%04x:%02x:%02x.%d").
"""

import re
from typing import NamedTuple, Self

_BDF = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.I | re.A)
_NODEDEV = re.compile(r"pci_([0-9a-f]{4,8})_([0-9a-f]{2})_([01][0-9a-f])_([0-7])", re.I | re.A)


class Bdf(NamedTuple):
    """Domain (32 bits), bus (8), slot (5) and function (3) of a PCI function."""

    domain: int
    bus: int
    slot: int
    function: int

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.slot:02x}.{self.function}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``0000:03:00.0``, ``03:00.0`` or libvirt's ``pci_0000_03_00_0``.

        :raises ValueError: any other text.
        """
        found = _BDF.fullmatch(text) or _NODEDEV.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r}: not a PCI address such as 0000:03:00.0")
        domain, bus, slot, function = (int(part or "0", 16) for part in found.groups())
        return cls(domain, bus, slot, function)

    @property
    def nodedev(self) -> str:
        """What libvirt's node device driver calls it: ``pci_0000_03_00_0``."""
        return f"pci_{self}".replace(":", "_").replace(".", "_")

    def same_bus(self, other: Self) -> bool:
        """Would a reset of the secondary bus that this function is on hit *other* too?"""
        return (self.domain, self.bus) == (other.domain, other.bus)
