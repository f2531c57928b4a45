# SPDX-License-Identifier: LGPL-2.1-or-later
"""The disk of a drive that the host has: partitioned by hand, since the image has no tool for it.

Source for the partition table: UEFI 2.10, 5.2.1, Legacy Master Boot Record.
"""

from __future__ import annotations

import base64
import struct

from .drives import DISK, GENERIC, Drive

SECTOR = 512
LINUX = 0x83
# Start and length in sectors: 32 MiB and 31 MiB of the drive's 64 MiB.
PARTITIONS = ((2048, 65536), (67584, 63488))
TABLE_OFFSET, SIGNATURE = 446, b"\x55\xaa"


class Disk:
    """A whole disk with two partitions."""

    def __init__(self, drive: Drive) -> None:
        self.drive = drive
        self.rig = drive.rig
        self.name = self._find(DISK)

    @property
    def path(self) -> str:
        return f"/dev/{self.name}"

    @property
    def controller(self) -> str:
        """The controller's character device.

        Its number is the disk's, unless something had the disk open when the controller went: then
        the subsystem, whose number the disk has, stays, and the controller returns with another.
        """
        return f"/dev/{self.rig.run(f'ls {self.drive.sysfs}/nvme').stdout.strip()}"

    @property
    def generic(self) -> str:
        """The namespace's character device, which is numbered as the controller."""
        return f"/dev/{self._find(GENERIC)}"

    def part(self, number: int) -> str:
        """Name a partition."""
        return f"{self.name}p{number}"

    def partition(self) -> None:
        """Make two partitions on an empty disk."""
        encoded = base64.b64encode(master_boot_record()).decode()
        self.rig.run(
            f"base64 -d | dd of={self.path} conv=fsync status=none"
            f" && {self._reread}"
            f" && test -b /dev/{self.part(1)} && test -b /dev/{self.part(2)}",
            stdin=encoded,
        )

    def wipe(self) -> None:
        """Make it empty, for nothing that was on it is to come to life at the next probe."""
        self.rig.run(f"blkdiscard -z {self.path} && {self._reread}")

    @property
    def _reread(self) -> str:
        """Have the kernel see what partitions there are, as soon as udev has closed the last."""
        busy = f"! blockdev --rereadpt {self.path} 2>/dev/null"
        return f"while {busy}; do sleep 0.1; done && udevadm settle"

    def _find(self, pattern: str) -> str:
        return self.rig.run(self.drive.listing(pattern)).stdout.strip()


def master_boot_record() -> bytes:
    entries = b"".join(
        struct.pack("<B3sB3sII", 0, b"\0\2\0", LINUX, b"\xff\xff\xff", start, length)
        for start, length in PARTITIONS
    )
    return bytes(TABLE_OFFSET) + entries.ljust(64, b"\0") + SIGNATURE
