# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which NVMe controller a vfio device descriptor is. Never a guess: all that it may be.

Sources: drivers/vfio/vfio_main.c (vfio_device_show_fdinfo, v6.18: "vfio-device-syspath"),
drivers/vfio/device_cdev.c, v6.6; drivers/pci/pci-sysfs.c (enable_show counts pci_enable_device(),
which vfio does at open, before there is a descriptor).
"""

import os
from collections.abc import Collection

from ..bdf import Bdf
from ..errors import DeviceGone, HookError, SysfsError
from ..pci import word
from .processes import vfio_nodes
from .reads import names, text
from .sysfs import DEVICES
from .vfio import Device

NVME = 0x010802
ANONYMOUS = "anon_inode:[vfio-device]"
CDEVS = "/dev/vfio/devices/"
DELETED = " (deleted)"
SYSPATH = "vfio-device-syspath:"


def is_vfio_device(target: str) -> bool:
    """Is a descriptor that links to *target* one of a vfio device, and not of a group?"""
    return target == ANONYMOUS or _cdev(target) is not None


def open_controllers(devices: str = DEVICES) -> tuple[Bdf, ...]:
    """Return the NVMe controllers that somebody has open through vfio, in order."""
    found = (_parse(name) for name in names(devices))
    return tuple(sorted(bdf for bdf in found if bdf is not None and _is_open(bdf, devices)))


def may_be(
    device: Device, target: str, fdinfo: str, opened: Collection[str], devices: str = DEVICES
) -> tuple[Bdf, ...]:
    """Return the NVMe controllers that a vfio device may be; none if it is something else.

    :param target: what its descriptor links to.
    :param fdinfo: what /proc/PID/fdinfo says of it.
    :param opened: what else the process has open: the groups are among them.
    :raises DeviceGone: it reads all ones, so there is no telling.
    :raises HookError: it is a controller, but none of those that sysfs shows.
    :raises SysfsError: the kernel refused to say, as it does before a cdev is bound (EINVAL).
    """
    if not device.is_pci:
        return ()
    config = device.read_config(0, 64)
    if config[8:12] == b"\xff\xff\xff\xff":  # the ids are virtual, so they would not tell
        raise DeviceGone(f"{device.who}: configuration space reads all ones")
    if int.from_bytes(config[9:12], "little") != NVME:
        return ()
    if SYSPATH in fdinfo:
        path = fdinfo.partition(SYSPATH)[2].partition("\n")[0]
        bdf = _parse(os.path.basename(path.strip()))
        return () if bdf is None else (bdf,)  # an mdev has a uuid for a name
    if cdev := _cdev(target):
        owners = map(_parse, (n for n in names(devices) if _has_cdev(n, cdev, devices)))
        found = tuple(bdf for bdf in owners if bdf is not None)
    else:
        found = _by_ids(device, config, opened, devices)
    if not found:
        raise HookError(f"{device.who}: an NVMe controller, but none that is open is like it")
    return found


def _by_ids(
    device: Device, config: bytes, opened: Collection[str], devices: str
) -> tuple[Bdf, ...]:
    alike = [bdf for bdf in open_controllers(devices) if _ids(bdf, devices) == _read_ids(config)]
    # A function is opened through its group, which stays open as long.
    groups = {target.removesuffix(DELETED) for target in opened if not _cdev(target)}
    alike = [bdf for bdf in alike if not groups.isdisjoint(vfio_nodes(bdf, devices))]
    if len(alike) < 2:
        return tuple(alike)
    try:
        near = device.on_its_bus()
    except SysfsError:  # it only cannot help
        near = None
    if near is None:
        return tuple(alike)
    return tuple(bdf for bdf in alike if bdf._replace(domain=bdf.domain & 0xFFFF) in near)


def _read_ids(config: bytes) -> tuple[int, ...]:
    # PCI Local Bus Specification 3.0, 6.1: device, vendor; class, revision; subsystem ids.
    revision, class_code = config[8], int.from_bytes(config[9:12], "little")
    return (*(word(config, at) for at in (0x00, 0x02, 0x2C, 0x2E)), revision, class_code)


def _ids(bdf: Bdf, devices: str) -> tuple[int, ...]:
    wanted = ("vendor", "device", "subsystem_vendor", "subsystem_device", "revision", "class")
    return tuple(_number(f"{devices}/{bdf}/{name}", 16) for name in wanted)


def _is_open(bdf: Bdf, devices: str) -> bool:
    try:
        driver = os.path.basename(os.readlink(f"{devices}/{bdf}/driver"))
    except OSError:
        return False
    return (
        driver == "vfio-pci"
        and _number(f"{devices}/{bdf}/class", 16) == NVME
        and _number(f"{devices}/{bdf}/enable", 10) > 0
    )


def _cdev(target: str) -> str | None:
    # libvirt takes a node out of the guest's /dev while the guest still has it open.
    name = target.removesuffix(DELETED)
    return name.removeprefix(CDEVS) if name.startswith(CDEVS) else None


def _has_cdev(name: str, cdev: str, devices: str) -> bool:
    return os.path.isdir(f"{devices}/{name}/vfio-dev/{cdev}")


def _number(path: str, base: int) -> int:
    try:
        return int(text(path), base)
    except ValueError:  # gone, or refused
        return -1


def _parse(name: str) -> Bdf | None:
    try:
        return Bdf.parse(name)
    except ValueError:
        return None
