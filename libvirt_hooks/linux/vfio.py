# SPDX-License-Identifier: LGPL-2.1-or-later
"""Vfio: a device by its descriptor, and opening one as the only user of it.

Nobody else can have it meanwhile, it is in D0, and lockdown allows it: what a mapping of resource0
cannot say. But each first open and last close is a reset, by what ``reset_method`` says then.
Sources: include/uapi/linux/vfio.h, v6.6; drivers/vfio/group.c, device_cdev.c, vfio_main.c and
pci/vfio_pci_core.c, pci/vfio_pci_rdwr.c, pci/vfio_pci_config.c, v6.6; drivers/iommu/iommufd.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ..bdf import Bdf
from ..errors import RegistersUnreadable, SysfsError
from ..host import Registers
from .mmio import SIZE
from .reads import names
from .sysfs import DEVICES

# _IO(';', 100 + n), as include/uapi/asm-generic/ioctl.h has it: nothing but the two bytes.
VFIO_SET_IOMMU = 0x3B66
VFIO_GROUP_GET_STATUS = 0x3B67
VFIO_GROUP_SET_CONTAINER = 0x3B68
VFIO_GROUP_GET_DEVICE_FD = 0x3B6A
VFIO_DEVICE_GET_INFO = 0x3B6B
VFIO_DEVICE_GET_REGION_INFO = 0x3B6C
VFIO_DEVICE_GET_PCI_HOT_RESET_INFO = 0x3B70
VFIO_DEVICE_BIND_IOMMUFD = 0x3B76  # v6.6

VFIO_TYPE1v2_IOMMU = 3
VFIO_GROUP_FLAGS_VIABLE = 1 << 0
VFIO_DEVICE_FLAGS_PCI = 1 << 1
VFIO_PCI_BAR0_REGION_INDEX = 0
VFIO_PCI_CONFIG_REGION_INDEX = 7

GROUP_STATUS = struct.Struct("=II")  # argsz, flags
DEVICE_INFO = struct.Struct("=IIII")  # argsz, flags, num_regions, num_irqs
REGION_INFO = struct.Struct("=IIIIQQ")  # argsz, flags, index, cap_offset, size, offset
BIND_IOMMUFD = struct.Struct("=IIiI")  # argsz, flags, iommufd, out_devid
HOT_RESET_INFO = struct.Struct("=III")  # argsz, flags, count, and devices[count]
DEPENDENT_DEVICE = struct.Struct("=IHBB")  # group_id or devid, segment, bus, devfn

ROOM = 32
"""Functions that we make room for, before the kernel says how many there are."""
TRIES = 4

_BUSY = "somebody has it open, or another device of its IOMMU group"
_DRIVER = "another device of its IOMMU group has a driver of its own"


def ioctl(fd: int, request: int, argument: bytearray | int) -> int:
    """ioctl(2). What the kernel writes is in a bytearray afterwards, also after an error."""
    return fcntl.ioctl(fd, request, argument)


def open_node(path: str) -> int:
    """open(2) of a device node, for reading and writing."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


class Device:
    """A vfio device, by its descriptor: registers and configuration space.

    Vendor and device id are what they were when it was opened (vfio_pci_config.c virtualizes
    them): they do not tell that a function is gone, as they do in sysfs. All the rest does.

    :param fd: of which this is the owner from now on.
    :param who: the BDF, or what it is known by until that is found out, for messages.
    """

    def __init__(self, fd: int, who: object) -> None:
        self._fd = fd
        self.who = who
        self._regions: dict[int, tuple[int, int]] = {}

    @property
    def fd(self) -> int:
        """The descriptor, -1 once it is closed."""
        return self._fd

    @property
    def is_pci(self) -> bool:
        """Are the regions those of a PCI function?

        :raises SysfsError: the kernel will not say.
        """
        info = bytearray(DEVICE_INFO.pack(DEVICE_INFO.size, 0, 0, 0))
        try:
            ioctl(self._fd, VFIO_DEVICE_GET_INFO, info)
        except OSError as error:
            raise _refused(self.who, "asking what vfio device it is", error) from error
        flags: int = DEVICE_INFO.unpack(info)[1]
        return bool(flags & VFIO_DEVICE_FLAGS_PCI)

    @property
    def registers(self) -> Registers:
        """The first 4 KiB of BAR0; dead once the device is closed.

        :raises RegistersUnreadable: there is no such BAR.
        """
        try:
            _, size = self._region(VFIO_PCI_BAR0_REGION_INDEX)
        except OSError as error:
            raise _unreadable(self.who, "asking where BAR0 is", error) from error
        if size < SIZE:
            raise RegistersUnreadable(f"{self.who}: BAR0 is below {SIZE} B")
        return self

    def read32(self, offset: int) -> int:
        """See host.Registers.

        :raises RegistersUnreadable: EIO: memory decode is off, or it is asleep.
        """
        what = f"reading BAR0 at {offset:#x}"
        try:
            data = os.pread(self._fd, 4, self._register(offset))
        except OSError as error:
            raise _unreadable(self.who, what, error) from error
        if len(data) != 4:
            raise RegistersUnreadable(f"{self.who}: {what}: {len(data)} B of 4")
        return int.from_bytes(data, "little")

    def write32(self, offset: int, value: int) -> None:
        """See host.Registers.

        :raises RegistersUnreadable: as ``read32``.
        :raises ValueError: *value* does not fit 32 bits.
        """
        if not 0 <= value <= 0xFFFFFFFF:
            raise ValueError(f"{value:#x} does not fit 0xffffffff")
        what = f"writing BAR0 at {offset:#x}"
        try:
            written = os.pwrite(self._fd, value.to_bytes(4, "little"), self._register(offset))
        except OSError as error:
            raise _unreadable(self.who, what, error) from error
        if written != 4:
            raise RegistersUnreadable(f"{self.who}: {what}: {written} B of 4")

    def _register(self, offset: int) -> int:
        # vfio_pci_rdwr.c makes one access of four aligned bytes, and two or more of any others.
        if offset % 4 or not 0 <= offset < SIZE:
            raise ValueError(f"offset {offset:#x}: not a 32-bit register below {SIZE:#x}")
        return self._region(VFIO_PCI_BAR0_REGION_INDEX)[0] + offset

    def read_config(self, offset: int, length: int) -> bytes:
        """Read configuration space as vfio shows it, little-endian as on the bus.

        :raises SysfsError: the kernel refused, or it ends before.
        """
        what = f"reading config at {offset:#x}"
        try:
            data = os.pread(self._fd, length, self._config(offset, length))
        except OSError as error:
            raise _refused(self.who, what, error) from error
        if len(data) != length:
            raise SysfsError(self.who, what, errno.EIO)
        return data

    def write_config(self, offset: int, data: bytes) -> None:
        """Write configuration space, as far as vfio lets its user.

        :raises SysfsError: the kernel refused, or it ends before.
        """
        what = f"writing {data.hex()} to config at {offset:#x}"
        try:
            written = os.pwrite(self._fd, data, self._config(offset, len(data)))
        except OSError as error:
            raise _refused(self.who, what, error) from error
        if written != len(data):
            raise SysfsError(self.who, what, errno.EFBIG)

    def _config(self, offset: int, length: int) -> int:
        at, size = self._region(VFIO_PCI_CONFIG_REGION_INDEX)
        if offset < 0 or offset + length > size:  # the next region begins far off, but it does
            raise OSError(errno.EFAULT, "")
        return at + offset

    def _region(self, index: int) -> tuple[int, int]:
        # Neither changes while the device is open.
        if index not in self._regions:
            info = bytearray(REGION_INFO.pack(REGION_INFO.size, 0, index, 0, 0, 0))
            ioctl(self._fd, VFIO_DEVICE_GET_REGION_INFO, info)
            *_, size, offset = REGION_INFO.unpack(info)
            self._regions[index] = (offset, size)
        return self._regions[index]

    def on_its_bus(self) -> tuple[Bdf, ...] | None:
        """Return the functions that a reset of its bus or slot would hit, itself among them.

        None where the kernel has no such reset. Of a domain the low 16 bits (the field segment).

        :raises SysfsError: EPERM: one of them has no IOMMU group; EAGAIN: they come and go.
        """
        what, room = "asking what a reset of its bus would hit", ROOM
        for _ in range(TRIES):
            info = bytearray(HOT_RESET_INFO.size + room * DEPENDENT_DEVICE.size)
            HOT_RESET_INFO.pack_into(info, 0, len(info), 0, 0)
            try:
                ioctl(self._fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, info)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return None
                if error.errno == errno.ENOSPC:
                    room = HOT_RESET_INFO.unpack_from(info)[2]
                elif error.errno != errno.EAGAIN:  # that: one was added while it was counting
                    raise _refused(self.who, what, error) from error
            else:
                return _dependent(info)
        raise SysfsError(self.who, what, errno.EAGAIN)

    def close(self) -> None:
        """Close the descriptor; twice is once. The last one of the device resets it.

        May take as long as that reset: 65 s and more for a dead function.
        """
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _dependent(info: bytearray) -> tuple[Bdf, ...]:
    head, size = HOT_RESET_INFO.size, DEPENDENT_DEVICE.size
    count: int = HOT_RESET_INFO.unpack_from(info)[2]
    each = DEPENDENT_DEVICE.iter_unpack(info[head : head + count * size])
    return tuple(Bdf(segment, bus, devfn >> 3, devfn & 7) for _, segment, bus, devfn in each)


@contextmanager
def opened(bdf: Bdf, devices: str = DEVICES, dev: str = "/dev") -> Iterator[Device]:
    """Open a function that is on vfio-pci and that nobody has open, exclusively.

    The kernel sees to that, by the iommufd that the device is bound to or by its group. The
    context begins and ends with a reset by ``reset_method``: empty it, or choose.

    :raises RegistersUnreadable: the kernel will not have it; the hint says who is in the way.
    """
    with ExitStack() as files:
        yield _claimed(bdf, devices, dev, files)


def _claimed(bdf: Bdf, devices: str, dev: str, files: ExitStack) -> Device:
    group = _group(bdf, devices)
    cdev = next(iter(names(f"{devices}/{bdf}/vfio-dev")), "")
    nodes = (f"{dev}/vfio/devices/{cdev}", f"{dev}/iommu")
    if cdev and all(map(os.path.exists, nodes)):
        try:
            return _by_iommufd(bdf, *nodes, files)
        except RegistersUnreadable:
            # Whatever it was, the group tells better: its errors are not shared by two causes
            # each, and its IOMMU driver asks for less (vfio_iommu_type1's own module options).
            # Without CONFIG_VFIO_GROUP there is none.
            files.close()
            if not all(map(os.path.exists, (f"{dev}/vfio/{group}", f"{dev}/vfio/vfio"))):
                raise
    return _by_group(bdf, group, dev, files)


def _by_iommufd(bdf: Bdf, node: str, iommu: str, files: ExitStack) -> Device:
    # Files are closed last to first. The device has to be the first to go.
    with _step(bdf, f"opening {iommu}"):
        iommufd = _kept(open_node(iommu), files)
    with _step(bdf, f"opening {node}"):
        device = Device(open_node(node), bdf)
    files.callback(device.close)
    bind = bytearray(BIND_IOMMUFD.pack(BIND_IOMMUFD.size, 0, iommufd, 0))
    # EBUSY: by its group, or by another driver in it. EINVAL: by its cdev (vfio_df_open).
    why = f"somebody has it open, or {_DRIVER}"
    with _step(bdf, "binding it to an iommufd", {errno.EBUSY: why, errno.EINVAL: why}):
        ioctl(device.fd, VFIO_DEVICE_BIND_IOMMUFD, bind)
    return device


def _by_group(bdf: Bdf, group: str, dev: str, files: ExitStack) -> Device:
    with _step(bdf, f"opening {dev}/vfio/vfio"):
        container = _kept(open_node(f"{dev}/vfio/vfio"), files)
    node, hints = f"{dev}/vfio/{group}", {errno.EBUSY: _BUSY, errno.ENOENT: "is it on vfio-pci?"}
    with _step(bdf, f"opening {node}", hints):
        fd = _kept(open_node(node), files)
    status = bytearray(GROUP_STATUS.pack(GROUP_STATUS.size, 0))
    with _step(bdf, f"asking for the state of IOMMU group {group}"):
        ioctl(fd, VFIO_GROUP_GET_STATUS, status)
    if not GROUP_STATUS.unpack(status)[1] & VFIO_GROUP_FLAGS_VIABLE:
        raise RegistersUnreadable(f"{bdf}: IOMMU group {group}: not viable", _DRIVER)
    with _step(bdf, f"giving IOMMU group {group} a container", {errno.EBUSY: _DRIVER}):
        ioctl(fd, VFIO_GROUP_SET_CONTAINER, bytearray(struct.pack("=i", container)))
    with _step(bdf, "choosing VFIO_TYPE1v2_IOMMU"):
        ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)
    with _step(bdf, f"opening it through IOMMU group {group}"):
        device = Device(ioctl(fd, VFIO_GROUP_GET_DEVICE_FD, bytearray(f"{bdf}\0".encode())), bdf)
    files.callback(device.close)
    return device


def _group(bdf: Bdf, devices: str) -> str:
    with _step(bdf, "reading iommu_group", {errno.ENOENT: "is the IOMMU switched on?"}):
        return os.path.basename(os.readlink(f"{devices}/{bdf}/iommu_group"))


def _kept(fd: int, files: ExitStack) -> int:
    files.callback(os.close, fd)
    return fd


@contextmanager
def _step(bdf: Bdf, what: str, hints: dict[int, str] | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        number = error.errno or errno.EIO
        message = f"{bdf}: {what}: {os.strerror(number)}"
        raise RegistersUnreadable(message, (hints or {}).get(number, "")) from error


def _unreadable(who: object, what: str, error: OSError) -> RegistersUnreadable:
    number = error.errno or errno.EIO
    why = " (memory decode is off, or it is asleep)" if number == errno.EIO else ""
    return RegistersUnreadable(f"{who}: {what}: {os.strerror(number)}{why}")


def _refused(who: object, what: str, error: OSError) -> SysfsError:
    return SysfsError(who, what, error.errno or errno.EIO)
