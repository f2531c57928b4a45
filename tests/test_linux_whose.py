# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which controller a vfio device is, by a tree of /sys and a device that is a file.

Configuration space is written by hand, from PCI Local Bus Specification 3.0, 6.1.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import DeviceGone, HookError, SysfsError
from libvirt_hooks.linux import vfio, whose
from libvirt_hooks.linux.vfio import Device

from .trees import NVME, OTHER, Tree

GROUP = "anon_inode:[vfio-device]"
OPENED = ("socket:[5]", "/dev/vfio/vfio", "/dev/vfio/17", "/dev/vfio/18 (deleted)")
# An SM951: 144d:a802, revision 01, class 010802, subsystem 144d:a801.
SM951 = bytes.fromhex(
    "4d1402a8 06041000 01020801 10000000"
    "00000000 00000000 00000000 00000000"
    "00000000 00000000 00000000 4d1401a8"
    "00000000 40000000 00000000 0b010000"
)
ATTRS = {
    "vendor": "0x144d", "device": "0xa802", "subsystem_vendor": "0x144d",
    "subsystem_device": "0xa801", "revision": "0x01", "class": "0x010802", "enable": "1",
}  # fmt: skip


class Machine(Tree):
    """A tree with drives, and one vfio device of it."""

    @property
    def devices(self) -> str:
        return str(self.sys / "bus/pci/devices")

    def drive(self, bdf: Bdf, group: int, driver: str = "vfio-pci", **attrs: str) -> None:
        folder = f"sys/bus/pci/devices/{bdf}"
        for name, value in (ATTRS | attrs).items():
            self.write(f"{folder}/{name}", f"{value}\n")
        self.link(f"{folder}/driver", f"../../drivers/{driver}")
        self.link(f"{folder}/iommu_group", f"../../iommu_groups/{group}")

    def who(self, target: str = GROUP, fdinfo: str = "pos:\t0\n") -> tuple[Bdf, ...]:
        device = Device(os.open(self.root / "device", os.O_RDWR), "QEMU 42: descriptor 30")
        try:
            return whose.may_be(device, target, fdinfo, OPENED, self.devices)
        finally:
            device.close()

    def is_made_of(self, config: bytes) -> None:
        (self.root / "device").write_bytes(config)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    machine.is_made_of(SM951)
    machine.drive(NVME, 17)
    bus(monkeypatch, lambda: None)
    return machine


def bus(
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[], tuple[Bdf, ...] | None],
    is_pci: bool = True,
) -> None:
    monkeypatch.setattr(Device, "is_pci", is_pci)
    monkeypatch.setattr(Device, "on_its_bus", lambda _: answer())
    monkeypatch.setattr(Device, "_region", lambda *_: (0, 64))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("anon_inode:[vfio-device]", True),
        ("/dev/vfio/devices/vfio0", True),
        ("/dev/vfio/devices/vfio12 (deleted)", True),
        ("/dev/vfio/17", False),
        ("/dev/vfio/vfio", False),
        ("/dev/iommu", False),
        ("anon_inode:kvm-vm", False),
        ("/x/dev/vfio/devices/vfio0", False),
        ("", False),
    ],
)
def test_what_is_a_vfio_device(target: str, expected: bool) -> None:
    assert whose.is_vfio_device(target) == expected


def test_what_is_open(machine: Machine) -> None:
    machine.drive(Bdf(0, 5, 0, 0), 19, driver="nvme")
    machine.drive(Bdf(0, 6, 0, 0), 20, enable="0")
    machine.drive(Bdf(0, 7, 0, 0), 21, **{"class": "0x030000"})
    machine.drive(Bdf(0, 8, 0, 0), 22, enable="2")
    machine.write("sys/bus/pci/devices/0000:09:00.0/class", "0x010802\n")
    machine.write("sys/bus/pci/devices/nonsense/class", "0x010802\n")
    assert whose.open_controllers(machine.devices) == (NVME, Bdf(0, 8, 0, 0))
    assert whose.open_controllers(f"{machine.root}/nowhere") == ()


def test_the_kernel_says_who_it_is(machine: Machine) -> None:
    path = "/sys/devices/pci0000:00/0000:00:1c.0/0000:04:00.0"
    assert machine.who(fdinfo=f"pos:\t0\nvfio-device-syspath: {path}\nino:\t5\n") == (OTHER,)


def test_the_kernel_says_that_it_is_no_function(machine: Machine) -> None:
    path = "/sys/devices/virtual/mtty/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
    assert machine.who(fdinfo=f"vfio-device-syspath: {path}\n") == ()


@pytest.mark.parametrize("deleted", ["", " (deleted)"])
def test_a_cdev_is_named_in_sysfs(machine: Machine, deleted: str) -> None:
    machine.drive(OTHER, 18)
    (machine.sys / f"bus/pci/devices/{NVME}/vfio-dev/vfio1").mkdir(parents=True)
    (machine.sys / f"bus/pci/devices/{OTHER}/vfio-dev/vfio11").mkdir(parents=True)
    assert machine.who(f"/dev/vfio/devices/vfio1{deleted}") == (NVME,)
    assert machine.who(f"/dev/vfio/devices/vfio11{deleted}") == (OTHER,)
    with pytest.raises(HookError) as caught:
        machine.who("/dev/vfio/devices/vfio2")
    assert str(caught.value) == (
        "QEMU 42: descriptor 30: an NVMe controller, but none that is open is like it"
    )


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(SM951[:9] + bytes.fromhex("000003") + SM951[12:], id="a display"),
        pytest.param(SM951[:9] + bytes.fromhex("010801") + SM951[12:], id="NVM, but not NVMe"),
    ],
)
def test_what_is_no_controller(machine: Machine, config: bytes) -> None:
    machine.is_made_of(config)
    path = f"/sys/devices/pci0000:00/{NVME}"
    assert machine.who(fdinfo=f"vfio-device-syspath: {path}\n") == ()


def test_what_is_not_pci_is_not_read(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    bus(monkeypatch, lambda: None, is_pci=False)
    monkeypatch.setattr(os, "pread", lambda *_: pytest.fail("its registers may be anything"))
    assert machine.who() == ()


def test_one_that_is_gone(machine: Machine) -> None:
    machine.is_made_of(SM951[:4] + b"\xff" * 60)  # the ids are vfio's own
    with pytest.raises(DeviceGone) as caught:
        machine.who()
    assert str(caught.value) == "QEMU 42: descriptor 30: configuration space reads all ones"


def test_one_that_is_not_bound_yet(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    def ioctl(*_: object) -> int:
        raise OSError(errno.EINVAL, "")

    monkeypatch.setattr(vfio, "ioctl", ioctl)
    with pytest.raises(SysfsError) as caught:
        machine.who()
    assert str(caught.value) == (
        "QEMU 42: descriptor 30: asking what vfio device it is: Invalid argument"
    )


def test_the_only_one_of_its_kind(machine: Machine) -> None:
    assert machine.who() == (NVME,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vendor", "0x144e"), ("device", "0xa803"), ("subsystem_vendor", "0x1028"),
        ("subsystem_device", "0xa802"), ("revision", "0x02"), ("class", "0x010801"),
    ],
)  # fmt: skip
def test_another_kind_is_not_it(machine: Machine, name: str, value: str) -> None:
    machine.drive(OTHER, 18)
    assert machine.who() == (NVME, OTHER)
    machine.write(f"sys/bus/pci/devices/{NVME}/{name}", f"{value}\n")
    assert machine.who() == (OTHER,)


def test_one_of_a_group_that_is_not_open_here_is_not_it(machine: Machine) -> None:
    machine.drive(OTHER, 18)
    machine.drive(Bdf(0, 5, 0, 0), 19)  # another guest's
    assert machine.who() == (NVME, OTHER)


def test_one_that_is_open_by_its_cdev_is_not_it(machine: Machine) -> None:
    machine.drive(OTHER, 19)
    (machine.sys / f"bus/pci/devices/{OTHER}/vfio-dev/vfio0").mkdir(parents=True)
    device = Device(os.open(machine.root / "device", os.O_RDWR), "it")
    opened = (*OPENED, "/dev/vfio/devices/vfio0")
    assert whose.may_be(device, GROUP, "", opened, machine.devices) == (NVME,)
    device.close()


def test_none_is_like_it(machine: Machine) -> None:
    machine.write(f"sys/bus/pci/devices/{NVME}/enable", "0\n")
    with pytest.raises(HookError) as caught:
        machine.who()
    assert str(caught.value) == (
        "QEMU 42: descriptor 30: an NVMe controller, but none that is open is like it"
    )


def test_two_alike_are_told_apart_by_their_bus(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.drive(OTHER, 18)
    bus(monkeypatch, lambda: (OTHER, Bdf(0, 4, 0, 1)))
    assert machine.who() == (OTHER,)
    bus(monkeypatch, lambda: (NVME, OTHER))
    assert machine.who() == (NVME, OTHER)


def test_a_domain_has_more_bits_than_vfio_tells(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = Bdf(0x10001, 4, 0, 0)
    machine.drive(far, 18)
    bus(monkeypatch, lambda: (Bdf(1, 4, 0, 0),))
    assert machine.who() == (far,)


def test_two_alike_on_a_bus_that_is_not_told_are_two(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.drive(OTHER, 18)

    def refuse() -> None:
        raise SysfsError(NVME, "asking", errno.EPERM)

    bus(monkeypatch, refuse)
    assert machine.who() == (NVME, OTHER)
