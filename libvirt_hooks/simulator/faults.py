# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault: the ways in which a simulated drive, or the kernel beside it, misbehaves.

Sources: kernel drivers/pci/quirks.c (nvme_disable_and_flr, delay_250ms_after_flr,
quirk_no_imm_ready), drivers/nvme/host (NVME_QUIRK_DELAY_BEFORE_CHK_RDY), linux-pci 2021
"pci: add NVMe FLR quirk to the SM951 SSD".
"""

import enum


class Fault(enum.Flag):
    """One misbehaviour each; they combine with ``|``."""

    NONE = 0

    LETHAL_FLR = enum.auto()
    """An FLR while CC.EN, CC.SHN or CSTS.SHST is set freezes the function (SM951, SM961)."""

    BUS_RESET_CURES = enum.auto()
    """A secondary bus reset revives a frozen function; without such a cure only a reboot does."""

    RESCAN_CURES = enum.auto()
    """A frozen function answers again when it is looked for after its removal."""

    SLOT_CURES = enum.auto()
    """Switching the slot off and on revives a frozen function."""

    RDY_STUCK = enum.auto()
    """CSTS.RDY never falls after CC.EN was cleared, until an FLR or a bus reset."""

    CFS = enum.auto()
    """CSTS.CFS is set from the beginning and RDY is stuck, until an FLR or a bus reset."""

    CFS_ON_DISABLE = enum.auto()
    """Clearing CC.EN sets CSTS.CFS, and RDY is stuck, until an FLR or a bus reset."""

    GONE_AFTER_FLR = enum.auto()
    """Any FLR freezes the function."""

    SLOW_RDY = enum.auto()
    """RDY falls 3 s after CC.EN was cleared: slow, but within CAP.TO."""

    ENABLING = enum.auto()
    """EN=1 and RDY=0 from the beginning; RDY rises after 2 s; EN cleared sooner wedges RDY at 1."""

    D3HOT_READS_ZERO = enum.auto()
    """Registers read zeros, not all ones, in D3hot (QEMU since 10.0)."""

    CONFIG_FROZEN = enum.auto()
    """The function is dead from the beginning: configuration space and registers all ones."""

    NO_RESET_METHOD = enum.auto()
    """The kernel found no way to reset it: no `reset_method` and no `reset` attribute."""

    RESET_EIO = enum.auto()
    """Every reset through the kernel fails with EIO and does nothing."""

    RESET_ENOTTY = enum.auto()
    """Every reset through the kernel fails with ENOTTY at once and does nothing."""

    RESET_BLOCKS = enum.auto()
    """A reset through `reset` takes 120 s in an uninterruptible sleep, and then works."""

    FALSE_IMMEDIATE_READINESS = enum.auto()
    """Claims Immediate Readiness, yet reads all ones for 150 ms after an FLR (144d:a80c)."""

    CHECK_RDY_EARLY = enum.auto()
    """A read of CSTS within 2.3 s after CC.EN was cleared wedges RDY at 1 (PM1725)."""

    TOUCHED_EARLY_AFTER_FLR = enum.auto()
    """A touch within 250 ms after an FLR: RDY never rises again before the next reset (P3700)."""

    KEEPS_QUEUES = enum.auto()
    """AQA, ASQ and ACQ outlive every reset (QEMU 7.2's controller, measured in tests/vm)."""

    MSIX_GROWS = enum.auto()
    """An FLR makes the MSI-X table grow from 16 to 22 entries; a bus reset undoes it (SM2262)."""
