# SPDX-License-Identifier: LGPL-2.1-or-later
"""The few words of PCI configuration space that matter here, and the names of resets.

Sources: PCI Local Bus Specification 3.0, 6.1, 6.2 and 6.8.2 (MSI-X); PCI Express Base 5.0, 7.5.3.3;
kernel include/uapi/linux/pci_regs.h and drivers/pci/pci.c (pci_reset_fn_methods, v5.15 to v7.2).
"""

from enum import StrEnum
from typing import NamedTuple

VENDOR_ID = 0x00
COMMAND = 0x04
COMMAND_MEMORY = 1 << 1
STATUS = 0x06
STATUS_CAP_LIST = 1 << 4
CAPABILITY_LIST = 0x34
BRIDGE_CONTROL = 0x3E
BRIDGE_CTL_BUS_RESET = 1 << 6
HEADER_LENGTH = 256
"""Bytes of configuration space that the capability list is in."""

CAP_ID_PM = 0x01
PM_CTRL = 4
"""Offset of PMCSR in the Power Management capability."""
POWER_STATE = 3
"""PowerState, its bits 1:0."""
NO_SOFT_RESET = 1 << 3
"""No_Soft_Reset of PMCSR: D3hot loses no state, so the kernel has no ``pm`` (pci_pm_reset)."""
CAP_ID_EXP = 0x10
EXP_DEVCAP = 4
"""Offset of Device Capabilities, 32 bits, in the PCI Express capability."""
EXP_DEVCAP_FLR = 1 << 28
CAP_ID_MSIX = 0x11
MSIX_FLAGS = 2
"""Offset of Message Control in the MSI-X capability."""
MSIX_FLAGS_QSIZE = 0x7FF
"""Table Size, less one."""

NOBODY = 0xFFFF
"""A vendor id that nobody has: what configuration space of a function that is gone reads."""


class ResetMethod(StrEnum):
    """The words of ``reset_method``, in the kernel's own order."""

    DEVICE_SPECIFIC = "device_specific"
    ACPI = "acpi"
    FLR = "flr"
    AF_FLR = "af_flr"
    PM = "pm"
    BUS = "bus"
    CXL_BUS = "cxl_bus"


NO_METHOD = "\n"
"""What empties ``reset_method``: a write of zero bytes never reaches the kernel's handler."""


def word(data: bytes, offset: int = 0) -> int:
    """Read a little-endian 16-bit word."""
    return int.from_bytes(data[offset : offset + 2], "little")


def find_capability(config: bytes, wanted: int) -> int | None:
    """Return the offset of a capability in the first 256 bytes, None if it is not there.

    A list that runs in a circle ends: 48 capabilities are all that fit (PCI_FIND_CAP_TTL).
    """
    if not word(config, STATUS) & STATUS_CAP_LIST:
        return None
    at = config[CAPABILITY_LIST]
    for _ in range(48):
        at &= ~3
        if not 0x40 <= at < len(config) - 1:
            return None
        if config[at] == wanted:
            return at
        at = config[at + 1]
    return None


class Capabilities(NamedTuple):
    """What of a function's capabilities matters when it is reset, or goes to a guest."""

    flr: bool
    """Function Level Reset, by its own word."""
    no_soft_reset: bool | None
    """See NO_SOFT_RESET; None: it has no power management."""
    msix_size: int | None
    """Entries of the MSI-X table; None: it has none."""


def capabilities(config: bytes) -> Capabilities:
    """Decode the first 256 bytes of configuration space."""
    wanted = (CAP_ID_PM, CAP_ID_EXP, CAP_ID_MSIX)
    pm, exp, msix = (find_capability(config, each) for each in wanted)
    devcap = 0 if exp is None else word(config, exp + EXP_DEVCAP + 2) << 16
    size = None if msix is None else word(config, msix + MSIX_FLAGS) & MSIX_FLAGS_QSIZE
    return Capabilities(
        flr=bool(devcap & EXP_DEVCAP_FLR),
        no_soft_reset=None if pm is None else bool(word(config, pm + PM_CTRL) & NO_SOFT_RESET),
        msix_size=None if size is None else size + 1,
    )


def power_state(config: bytes) -> str:
    """Return what PMCSR says, as ``power_state`` words it: D0, D1, D2 or D3hot.

    A function without the capability is always in D0.
    """
    capability = find_capability(config, CAP_ID_PM)
    if capability is None:
        return "D0"
    return ("D0", "D1", "D2", "D3hot")[word(config, capability + PM_CTRL) & POWER_STATE]
