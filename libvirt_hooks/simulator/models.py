# SPDX-License-Identifier: LGPL-2.1-or-later
"""Model: the drives that the simulator can put into a slot.

Sources: kernel drivers/pci/quirks.c (pci_dev_reset_methods, v7.2), drivers/nvme/host/pci.c
(nvme_id_table); design.md and facts/kernel.md for who showed which fault.
"""

from dataclasses import dataclass, replace

from .faults import Fault


@dataclass(frozen=True)
class Model:
    """What tells one drive from another.

    :param to: CAP.TO, raw (units of 500 ms).
    :param vs: the VS register.
    :param device_specific: the kernel's function in pci_dev_reset_methods, or nothing.
    """

    label: str
    vendor: int
    device: int
    subsystem_vendor: int
    subsystem_device: int
    to: int = 60
    vs: int = 0x00010300
    faults: Fault = Fault.NONE
    device_specific: str = ""


ORDINARY = Model("ordinary NVMe", 0x1B36, 0x0010, 0x1AF4, 0x1100, to=15, vs=0x00010400)
QEMU_7_2 = replace(ORDINARY, label="QEMU 7.2's NVMe", faults=Fault.KEEPS_QUEUES)
SM951 = Model(
    "Samsung SM951", 0x144D, 0xA802, 0x144D, 0xA801, vs=0x00010100, faults=Fault.LETHAL_FLR
)
SM961 = Model(
    "Samsung SM961",
    0x144D,
    0xA804,
    0x144D,
    0xA801,
    vs=0x00010200,
    faults=Fault.LETHAL_FLR,
    device_specific="nvme_disable_and_flr",
)
P3700 = Model(
    "Intel P3700",
    0x8086,
    0x0953,
    0x8086,
    0x3702,
    to=40,
    vs=0x00010000,
    faults=Fault.TOUCHED_EARLY_AFTER_FLR,
    device_specific="delay_250ms_after_flr",
)
PM1725 = Model(
    "Samsung PM1725", 0x144D, 0xA821, 0x144D, 0xA801, to=120, faults=Fault.CHECK_RDY_EARLY
)
A80C = Model(
    "Samsung 144d:a80c", 0x144D, 0xA80C, 0x144D, 0xA801, faults=Fault.FALSE_IMMEDIATE_READINESS
)
SM2262 = Model("Intel 760p (SM2262)", 0x8086, 0xF1A6, 0x8086, 0x390B, faults=Fault.MSIX_GROWS)
