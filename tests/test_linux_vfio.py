# SPDX-License-Identifier: LGPL-2.1-or-later
"""Vfio against a kernel that plays strictly: descriptors are real, ioctl(2) and open(2) are not.

Numbers and layouts are written by hand from include/uapi/linux/vfio.h, and not the module's.
"""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import RegistersUnreadable, SysfsError
from libvirt_hooks.linux import vfio
from libvirt_hooks.linux.vfio import Device, opened

from .strict_vfio import NVME, Kernel

BUSY = "somebody has it open, or another device of its IOMMU group"
DRIVER = "another device of its IOMMU group has a driver of its own"


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """One with a function in group 17, on vfio-pci; no cdev."""
    kernel = Kernel(tmp_path)
    (tmp_path / f"devices/{NVME}").mkdir(parents=True)
    (tmp_path / f"devices/{NVME}/iommu_group").symlink_to("../../../kernel/iommu_groups/17")
    kernel.node("vfio/vfio")
    kernel.node("vfio/17")
    monkeypatch.setattr(vfio, "ioctl", kernel.ioctl)
    monkeypatch.setattr(vfio, "open_node", kernel.open)
    return kernel


@pytest.fixture
def cdev(kernel: Kernel) -> Kernel:
    """The same kernel with iommufd and a cdev."""
    (kernel.root / f"devices/{NVME}/vfio-dev/vfio3").mkdir(parents=True)
    kernel.node("vfio/devices/vfio3")
    kernel.node("iommu")
    return kernel


@pytest.fixture
def device(kernel: Kernel) -> Iterator[Device]:
    device = Device(os.open(kernel.root / "device", os.O_RDWR), NVME)
    yield device
    device.close()


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


def take(kernel: Kernel) -> bytes:
    with opened(NVME, str(kernel.root / "devices"), str(kernel.dev)) as device:
        return device.read_config(0, 4)


def test_the_numbers_are_those_of_the_header(tmp_path: Path) -> None:
    cc, header = shutil.which("cc"), Path("/usr/include/linux/vfio.h")
    if cc is None or not header.exists():
        pytest.skip("no C compiler or no linux/vfio.h")
    text = header.read_text()
    names = [name for name in vars(vfio) if name.startswith("VFIO_") and f"#define {name}" in text]
    layouts = {
        "GROUP_STATUS": "vfio_group_status", "REGION_INFO": "vfio_region_info",
        "HOT_RESET_INFO": "vfio_pci_hot_reset_info",
        "DEPENDENT_DEVICE": "vfio_pci_dependent_device",
    }  # fmt: skip
    lines = [f'printf("{name} %d\\n", (int){name});' for name in names]
    lines += [f'printf("{n} %zu\\n", sizeof(struct {s}));' for n, s in layouts.items()]
    lines += ['printf("DEVICE_INFO %zu\\n", offsetof(struct vfio_device_info, cap_offset));']
    source = "#include <stdio.h>\n#include <stddef.h>\n#include <linux/vfio.h>\n"
    body = " ".join(lines)
    (tmp_path / "n.c").write_text(f"{source}int main(void) {{ {body} return 0; }}\n")
    subprocess.run([cc, "-o", tmp_path / "n", tmp_path / "n.c"], check=True)
    told = subprocess.run([tmp_path / "n"], check=True, capture_output=True, text=True).stdout
    seen = {name: int(value) for name, value in map(str.split, told.splitlines())}
    ours = {name: getattr(vfio, name) for name in names}
    ours |= {name: getattr(vfio, name).size for name in (*layouts, "DEVICE_INFO")}
    assert seen == ours
    assert len(names) >= 9


def test_the_numbers_that_an_old_header_has_not() -> None:
    assert (vfio.VFIO_DEVICE_BIND_IOMMUFD, vfio.BIND_IOMMUFD.size) == (0x3B76, 16)
    assert (vfio.VFIO_PCI_BAR0_REGION_INDEX, vfio.VFIO_PCI_CONFIG_REGION_INDEX) == (0, 7)


def test_registers_are_little_endian_and_at_their_region(device: Device) -> None:
    assert device.registers.read32(0x14) == 0x17161514
    assert device.registers.read32(0xFFC) == 0


def test_a_write_reaches_its_four_bytes_and_no_others(device: Device, kernel: Kernel) -> None:
    before = (kernel.root / "device").read_bytes()
    device.registers.write32(0x14, 0x00460001)
    after = before[:0x2014] + bytes.fromhex("01004600") + before[0x2018:]
    assert (kernel.root / "device").read_bytes() == after


@pytest.mark.parametrize("offset", [-4, 1, 0x16, 0x1000, 0x1004])
def test_what_is_no_register_is_refused(device: Device, offset: int) -> None:
    message = f"offset {offset:#x}: not a 32-bit register below 0x1000"
    with pytest.raises(ValueError, match=message):
        device.registers.read32(offset)
    with pytest.raises(ValueError, match=message):
        device.registers.write32(offset, 0)


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_what_does_not_fit_is_refused(device: Device, value: int) -> None:
    with pytest.raises(ValueError, match=f"{value:#x} does not fit 0xffffffff"):
        device.registers.write32(0x14, value)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EIO, "Input/output error (memory decode is off, or it is asleep)"),
        (errno.EBUSY, "Device or resource busy"),
    ],
)
def test_registers_that_do_not_answer(
    device: Device, monkeypatch: pytest.MonkeyPatch, number: int, told: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pread", refuse)
    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(RegistersUnreadable) as caught:
        device.registers.read32(0x1C)
    assert str(caught.value) == f"0000:03:00.0: reading BAR0 at 0x1c: {told}"
    with pytest.raises(RegistersUnreadable) as caught:
        device.registers.write32(0x14, 0)
    assert str(caught.value) == f"0000:03:00.0: writing BAR0 at 0x14: {told}"


def test_registers_that_answer_in_part(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pread", lambda *_: b"\0\0")
    monkeypatch.setattr(os, "pwrite", lambda *_: 2)
    with pytest.raises(RegistersUnreadable) as caught:
        device.registers.read32(0x1C)
    assert str(caught.value) == "0000:03:00.0: reading BAR0 at 0x1c: 2 B of 4"
    with pytest.raises(RegistersUnreadable) as caught:
        device.registers.write32(0x14, 0)
    assert str(caught.value) == "0000:03:00.0: writing BAR0 at 0x14: 2 B of 4"


def test_no_bar_is_no_registers(device: Device, kernel: Kernel) -> None:
    kernel.bar_size = 0
    with pytest.raises(RegistersUnreadable) as caught:
        _ = device.registers
    assert str(caught.value) == "0000:03:00.0: BAR0 is below 4096 B"


def test_a_bar_that_the_kernel_does_not_tell(device: Device, kernel: Kernel) -> None:
    kernel.refuse[0x3B6C] = errno.ENODEV
    with pytest.raises(RegistersUnreadable) as caught:
        _ = device.registers
    assert str(caught.value) == "0000:03:00.0: asking where BAR0 is: No such device"


def test_config(device: Device, kernel: Kernel) -> None:
    assert device.read_config(0, 4) == bytes.fromhex("4d1402a8")
    assert device.read_config(9, 3) == bytes.fromhex("020801")
    device.write_config(4, b"\x02\x00")
    assert (kernel.root / "device").read_bytes()[0x704:0x708] == bytes.fromhex("02001000")


@pytest.mark.parametrize("offset", [-1, 13, 16])
def test_config_ends_where_it_ends(device: Device, offset: int) -> None:
    with pytest.raises(SysfsError) as caught:
        device.read_config(offset, 4)
    assert str(caught.value) == f"0000:03:00.0: reading config at {offset:#x}: Bad address"
    with pytest.raises(SysfsError) as caught:
        device.write_config(offset, b"\1\2\3\4")
    assert str(caught.value) == (
        f"0000:03:00.0: writing 01020304 to config at {offset:#x}: Bad address"
    )


def test_config_that_is_cut_short(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pread", lambda *_: b"\0")
    monkeypatch.setattr(os, "pwrite", lambda *_: 1)
    with pytest.raises(SysfsError) as caught:
        device.read_config(0, 2)
    assert str(caught.value) == "0000:03:00.0: reading config at 0x0: Input/output error"
    with pytest.raises(SysfsError) as caught:
        device.write_config(4, b"\1\2")
    assert str(caught.value) == "0000:03:00.0: writing 0102 to config at 0x4: File too large"


def test_is_pci(device: Device, kernel: Kernel) -> None:
    assert device.is_pci
    kernel.refuse[0x3B6B] = errno.EINVAL
    with pytest.raises(SysfsError) as caught:
        _ = device.is_pci
    assert str(caught.value) == "0000:03:00.0: asking what vfio device it is: Invalid argument"


def test_who_is_on_its_bus(device: Device, kernel: Kernel) -> None:
    kernel.bus = [(0, 3, 0x00), (1, 0x81, 0xFB)]
    assert device.on_its_bus() == (NVME, Bdf(1, 0x81, 31, 3))


def test_a_bus_that_is_full(device: Device, kernel: Kernel) -> None:
    kernel.bus = [(0, 3, devfn) for devfn in range(200)]
    found = device.on_its_bus()
    assert found is not None
    assert (len(found), found[199]) == (200, Bdf(0, 3, 24, 7))


def test_no_such_reset(device: Device, kernel: Kernel) -> None:
    kernel.refuse[0x3B70] = errno.ENODEV
    assert device.on_its_bus() is None


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EPERM, "Operation not permitted"),
        (errno.EAGAIN, "Resource temporarily unavailable"),
    ],
)
def test_a_bus_that_is_not_told(device: Device, kernel: Kernel, number: int, told: str) -> None:
    kernel.refuse[0x3B70] = number
    with pytest.raises(SysfsError) as caught:
        device.on_its_bus()
    assert str(caught.value) == f"0000:03:00.0: asking what a reset of its bus would hit: {told}"


def test_a_function_that_comes_while_it_counts(
    device: Device, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([OSError(errno.EAGAIN, ""), None])

    def ioctl(fd: int, request: int, argument: bytearray | int) -> int:
        if (error := next(answers)) is not None:
            raise error
        return kernel.ioctl(fd, request, argument)

    monkeypatch.setattr(vfio, "ioctl", ioctl)
    assert device.on_its_bus() == (NVME,)


def test_closed_is_closed(kernel: Kernel) -> None:
    device = Device(os.open(kernel.root / "device", os.O_RDWR), NVME)
    registers = device.registers
    device.close()
    stranger = os.open(kernel.root / "device", os.O_RDWR)  # gets the same number
    device.close()
    assert device.fd == -1
    with pytest.raises(RegistersUnreadable) as caught:
        registers.read32(0)
    assert str(caught.value) == "0000:03:00.0: reading BAR0 at 0x0: Bad file descriptor"
    os.close(stranger)


def test_by_its_group(kernel: Kernel) -> None:
    assert take(kernel) == bytes.fromhex("4d1402a8")
    assert kernel.log == ["open /vfio/vfio", "open /vfio/17", "0x3b67", "0x3b68", "0x3b6c"]


def test_by_an_iommufd(cdev: Kernel) -> None:
    assert take(cdev) == bytes.fromhex("4d1402a8")
    assert cdev.log == ["open /iommu", "open /vfio/devices/vfio3", "0x3b76", "0x3b6c"]


@pytest.mark.parametrize("gone", ["iommu", "vfio/devices/vfio3"])
def test_half_a_cdev_is_none(cdev: Kernel, gone: str) -> None:
    (cdev.dev / gone).unlink()
    take(cdev)
    assert cdev.log[0] == "open /vfio/vfio"


@pytest.mark.parametrize(
    ("what", "number"),
    [("/iommu", errno.ENODEV), ("/vfio3", errno.ENXIO), (0x3B76, errno.ENOTTY)],
)
def test_the_group_where_an_iommufd_fails(cdev: Kernel, what: str | int, number: int) -> None:
    cdev.refuse[what] = number
    assert take(cdev) == bytes.fromhex("4d1402a8")
    assert "open /vfio/17" in cdev.log


@pytest.mark.parametrize("way", ["group", "iommufd"])
def test_the_device_is_closed_first(
    cdev: Kernel, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "group":
        (cdev.dev / "iommu").unlink()
    closed: list[str] = []
    close = os.close

    def note(fd: int) -> None:
        closed.append(os.readlink(f"/proc/self/fd/{fd}").removeprefix(str(cdev.root)))
        close(fd)

    monkeypatch.setattr(os, "close", note)
    with pytest.raises(KeyError), opened(NVME, str(cdev.root / "devices"), str(cdev.dev)):
        raise KeyError
    assert (
        closed
        == {
            "group": ["/device", "/dev/vfio/17", "/dev/vfio/vfio"],
            "iommufd": ["/dev/vfio/devices/vfio3", "/dev/iommu"],
        }[way]
    )


@pytest.mark.parametrize(
    ("what", "number", "told", "hint"),
    [
        pytest.param(
            "/vfio/vfio", errno.ENODEV, "opening {dev}/vfio/vfio: No such device", "",
            id="no container",
        ),
        pytest.param(
            "/vfio/17", errno.EBUSY, "opening {dev}/vfio/17: Device or resource busy", BUSY,
            id="somebody has the group",
        ),
        pytest.param(
            "/vfio/17", errno.ENOENT, "opening {dev}/vfio/17: No such file or directory",
            "is it on vfio-pci?", id="no group",
        ),
        pytest.param(
            0x3B67, errno.ENODEV, "asking for the state of IOMMU group 17: No such device", "",
            id="no state",
        ),
        pytest.param(
            0x3B68, errno.EBUSY, "giving IOMMU group 17 a container: Device or resource busy",
            DRIVER, id="a driver meanwhile",
        ),
        pytest.param(
            0x3B66, errno.EPERM, "choosing VFIO_TYPE1v2_IOMMU: Operation not permitted", "",
            id="unsafe interrupts",
        ),
        pytest.param(
            0x3B6A, errno.EAGAIN,
            "opening it through IOMMU group 17: Resource temporarily unavailable", "",
            id="it is being reset",
        ),
    ],
)  # fmt: skip
def test_a_refused_group_says_why(
    kernel: Kernel, what: str | int, number: int, told: str, hint: str
) -> None:
    kernel.refuse[what] = number
    with pytest.raises(RegistersUnreadable) as caught:
        take(kernel)
    assert str(caught.value) == f"0000:03:00.0: {told.format(dev=kernel.dev)}"
    assert caught.value.hint == hint


def test_a_group_that_is_not_viable(kernel: Kernel) -> None:
    kernel.viable = False
    with pytest.raises(RegistersUnreadable) as caught:
        take(kernel)
    assert str(caught.value) == "0000:03:00.0: IOMMU group 17: not viable"
    assert caught.value.hint == DRIVER
    assert "0x3b68" not in kernel.log


@pytest.mark.parametrize(
    ("what", "number", "told", "hint"),
    [
        ("/iommu", errno.ENODEV, "opening {dev}/iommu: No such device", ""),
        ("/vfio3", errno.ENXIO, "opening {dev}/vfio/devices/vfio3: No such device or address", ""),
        (
            0x3B76, errno.EBUSY, "binding it to an iommufd: Device or resource busy",
            f"somebody has it open, or {DRIVER}",
        ),
        (
            0x3B76, errno.EINVAL, "binding it to an iommufd: Invalid argument",
            f"somebody has it open, or {DRIVER}",
        ),
        (0x3B76, errno.EAGAIN, "binding it to an iommufd: Resource temporarily unavailable", ""),
    ],
)  # fmt: skip
def test_a_refused_iommufd_says_why_where_there_are_no_groups(
    cdev: Kernel, what: str | int, number: int, told: str, hint: str
) -> None:
    cdev.refuse[what] = number
    for node in ("vfio", "17"):
        (cdev.dev / "vfio" / node).unlink()
        with pytest.raises(RegistersUnreadable) as caught:
            take(cdev)
        assert str(caught.value) == f"0000:03:00.0: {told.format(dev=cdev.dev)}"
        assert caught.value.hint == hint
        cdev.node("vfio/vfio")


def test_without_an_iommu(kernel: Kernel) -> None:
    (kernel.root / f"devices/{NVME}/iommu_group").unlink()
    with pytest.raises(RegistersUnreadable) as caught:
        take(kernel)
    assert str(caught.value) == "0000:03:00.0: reading iommu_group: No such file or directory"
    assert caught.value.hint == "is the IOMMU switched on?"


def test_real_ioctls_and_nodes(tmp_path: Path) -> None:
    """That of a file which is no vfio device."""
    path = tmp_path / "file"
    path.write_bytes(bytes(16))
    fd = vfio.open_node(str(path))
    try:
        assert not os.get_inheritable(fd)
        with pytest.raises(OSError, match="Inappropriate ioctl"):
            vfio.ioctl(fd, 0x3B6C, bytearray(32))
    finally:
        os.close(fd)
