# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel's side of vfio that plays strictly: wrong sizes and wrong order are refused.

Numbers and layouts are written by hand from include/uapi/linux/vfio.h, and not the module's.
"""

import errno
import os
import struct
from pathlib import Path

from libvirt_hooks.bdf import Bdf

NVME = Bdf.parse("0000:03:00.0")
BAR0, CONFIG = 0x2000, 0x700
"""Where the regions are in the device's file; the real kernel has them 1 TiB apart."""
CONFIG_BYTES = bytes.fromhex("4d1402a8 06001000 01020801 00000000")


class Kernel:
    """What the kernel answers. Descriptors are told apart by the files that they are of."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dev = root / "dev"
        self.refuse: dict[str | int, int] = {}
        """errno of an open by the end of its path, or of an ioctl by its number."""
        self.viable = True
        self.bar_size = 0x4000
        self.bus = [(0, 3, 0x00)]
        self.added = 0
        """How many functions appear between the first question and the second."""
        self.log: list[str] = []
        self.bound = self.attached = self.iommu = False
        (self.dev / "vfio/devices").mkdir(parents=True)
        image = bytearray(0x6000)
        image[CONFIG : CONFIG + len(CONFIG_BYTES)] = CONFIG_BYTES
        image[BAR0 : BAR0 + 0x40] = bytes(range(0x40))
        (root / "device").write_bytes(image)

    def node(self, name: str) -> None:
        path = self.dev / name
        if name.startswith("vfio/devices"):
            os.link(self.root / "device", path)
        else:
            path.touch()

    def open(self, path: str) -> int:
        for end, number in self.refuse.items():
            if isinstance(end, str) and path.endswith(end):
                raise OSError(number, os.strerror(number))
        if path.endswith("/vfio/17") and self.holds("iommu"):
            raise OSError(errno.EBUSY, "Device or resource busy")
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.log.append(f"open {path.removeprefix(str(self.dev))}")
        return fd

    def holds(self, name: str) -> bool:
        return any(
            os.path.lexists(link) and os.readlink(link) == f"{self.dev}/{name}"
            for link in (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
        )

    def ioctl(self, fd: int, request: int, argument: bytearray | int) -> int:
        name = os.readlink(f"/proc/self/fd/{fd}").removeprefix(f"{self.root}/")
        if request in self.refuse:
            raise OSError(self.refuse[request], os.strerror(self.refuse[request]))
        if isinstance(argument, int):
            return self.set_iommu(name, request, argument)
        match request:
            case 0x3B67 if name == "dev/vfio/17":
                need(struct.unpack("=II", argument) == (8, 0))
                argument[4:8] = struct.pack("=I", int(self.viable))
            case 0x3B68 if name == "dev/vfio/17":
                (container,) = struct.unpack("=i", argument)
                need(os.readlink(f"/proc/self/fd/{container}").endswith("/dev/vfio/vfio"))
                self.attached = True
            case 0x3B6A if name == "dev/vfio/17":
                need(self.iommu and bytes(argument) == b"0000:03:00.0\0")
                return os.open(self.root / "device", os.O_RDWR | os.O_CLOEXEC)
            case 0x3B76 if name.startswith("dev/vfio/devices/"):
                size, flags, iommufd, _ = struct.unpack("=IIiI", argument)
                need((size, flags) == (16, 0))
                need(os.readlink(f"/proc/self/fd/{iommufd}").endswith("/dev/iommu"))
                self.bound = True
            case 0x3B6B | 0x3B6C | 0x3B70 if name == "device" or self.bound:
                self.of_device(request, argument)
            case _:
                raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")
        self.log.append(f"{request:#x}")
        return 0

    def set_iommu(self, name: str, request: int, kind: int) -> int:
        need(self.attached and (name, request, kind) == ("dev/vfio/vfio", 0x3B66, 3))
        self.iommu = True
        return 0

    def of_device(self, request: int, argument: bytearray) -> None:
        size, flags = struct.unpack_from("=II", argument)
        need(flags == 0)
        if request == 0x3B6B:
            need(size == 16 and len(argument) >= size)
            argument[4:16] = struct.pack("=III", 0b10, 9, 5)
        elif request == 0x3B6C:
            need(size == 32 and len(argument) >= size)
            index = struct.unpack_from("=I", argument, 8)[0]
            length, offset = {0: (self.bar_size, BAR0), 7: (16, CONFIG)}[index]
            # There are capabilities, and no room for them: argsz grows, and that is no error.
            argument[:] = struct.pack("=IIIIQQ", 48, 0b1111, index, 0, length, offset)
        else:
            need(12 <= size <= len(argument))
            self.bus += [(0, 4, n) for n in range(self.added)]
            self.added = 0
            argument[4:12] = struct.pack("=II", 0, len(self.bus))
            if size < 12 + 8 * len(self.bus):
                raise OSError(errno.ENOSPC, "No space left on device")
            for at, (segment, bus, devfn) in enumerate(self.bus):
                struct.pack_into("=IHBB", argument, 12 + 8 * at, 17, segment, bus, devfn)


def need(true: bool) -> None:
    if not true:
        raise OSError(errno.EINVAL, "Invalid argument")
