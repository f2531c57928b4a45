# SPDX-License-Identifier: LGPL-2.1-or-later
"""One glance: could a guest's devices concern us at all? Loads nothing that it does not need.

When in doubt, yes: ``lifecycle`` looks again. Source: Documentation/ABI/testing/sysfs-bus-pci.
"""

import os
from collections.abc import Iterable

from ..domain import Controller

DEVICES = "/sys/bus/pci/devices"
RUN = "/run/virt-nvme-reset"
NVME = b"0x010802"


def concerns_us(
    uuid: str, candidates: Iterable[Controller], devices: str = DEVICES, run: str = RUN
) -> bool:
    """Has the guest an NVMe controller, a device that is not there, or a record of ours?"""
    return os.path.lexists(f"{run}/owners/{uuid}") or any(
        each.element == "disk"
        or os.path.lexists(f"{run}/journal/{each.bdf}")
        or _class(f"{devices}/{each.bdf}/class") in (NVME, b"")
        for each in candidates
    )


def _class(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read().strip()
    except OSError:
        return b""
