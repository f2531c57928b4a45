# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of drives that need care: what they do, who says so, what we do about it.

Data only. A drive that is not here is ORDINARY. Ids are those of configuration space; products
that share an id share the row. Names are what the log says.
"""

from typing import NamedTuple


class Quirk(NamedTuple):
    """One row. Times are in seconds."""

    name: str
    symptom: str
    source: str
    flr_lethal_while_enabled: bool = False
    """An FLR with CC.EN=1, CC.SHN or CSTS.SHST set freezes the function until the host reboots."""
    settle_after_reset: float = 0.0
    """Leave the drive alone for so long after a reset."""
    ready_check_delay: float = 0.0
    """Leave CSTS alone for so long after clearing CC.EN."""
    prefer_bus: bool = False
    """An FLR does damage; a secondary bus reset does not."""


ORDINARY = Quirk("", "", "")

_FLR_LETHAL_SM951 = Quirk(
    "sm951",
    "dead after an FLR while enabled, until the host reboots",
    "linux-pci, 29 April to 1 July 2021, 'pci: add NVMe FLR quirk to the SM951 SSD'",
    flr_lethal_while_enabled=True,
)
_FLR_LETHAL_SM961 = Quirk(
    "sm961",
    "configuration space reads -1 after an FLR while enabled",
    "kernel commit ffb0863426eb 'PCI: Disable Samsung SM961/PM961 NVMe before FLR'",
    flr_lethal_while_enabled=True,
)
_DELAY_250MS = Quirk(
    "delay-after-flr",
    "does not become ready when enabled too soon after an FLR",
    "kernel drivers/pci/quirks.c, delay_250ms_after_flr (v7.2)",
    settle_after_reset=0.25,
)
_NO_IMMEDIATE_READINESS = Quirk(
    "no-immediate-readiness",
    "claims Immediate Readiness, is not ready after an FLR",
    "kernel drivers/pci/quirks.c, quirk_no_imm_ready (v7.2)",
    settle_after_reset=0.1,
)
_READY_CHECK_DELAY = Quirk(
    "delay-before-ready-check",
    "hangs when CSTS is read too soon after clearing CC.EN",
    "kernel drivers/nvme/host/pci.c, NVME_QUIRK_DELAY_BEFORE_CHK_RDY (2300 ms, v6.1)",
    ready_check_delay=2.3,
)
_MSIX_GROWS = Quirk(
    "msix-grows-after-flr",
    "MSI-X table grows from 16 to 22 entries after an FLR and overlaps the PBA: QEMU refuses it",
    "kernel bugzilla 202055, comments 47 and 48",
    prefer_bus=True,
)

QUIRKS: dict[tuple[int, int], Quirk] = {
    (0x144D, 0xA802): _FLR_LETHAL_SM951,
    (0x144D, 0xA804): _FLR_LETHAL_SM961,
    (0x8086, 0x0953): _DELAY_250MS,
    (0x8086, 0x0A54): _DELAY_250MS,
    (0x025E, 0xF1AC): _DELAY_250MS,
    (0x144D, 0xA80C): _NO_IMMEDIATE_READINESS,
    (0x144D, 0xA80D): _NO_IMMEDIATE_READINESS,
    (0x1BB1, 0x0100): _READY_CHECK_DELAY,
    (0x1C58, 0x0003): _READY_CHECK_DELAY,
    (0x1C58, 0x0023): _READY_CHECK_DELAY,
    (0x1C5F, 0x0540): _READY_CHECK_DELAY,
    (0x144D, 0xA821): _READY_CHECK_DELAY,
    (0x144D, 0xA822): _READY_CHECK_DELAY,
    (0x8086, 0xF1A6): _MSIX_GROWS,
    (0x126F, 0x2262): _MSIX_GROWS,
    (0x126F, 0x2263): _MSIX_GROWS,
}


def find(vendor: int, device: int) -> Quirk:
    """Return the row of a drive, ORDINARY if there is none."""
    return QUIRKS.get((vendor, device), ORDINARY)
