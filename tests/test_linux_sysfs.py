# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sysfs on pyfakefs, where a file's side_effect plays the kernel.

The fake's write does not truncate: what a side effect sees of a shorter write ends in the old
contents. So an attribute here begins no longer than what is written to it.
"""

import errno
import io
import os
from collections.abc import Callable

import pytest
from pyfakefs.fake_file import FakeFile
from pyfakefs.fake_filesystem import FakeFilesystem, set_uid
from pyfakefs.helpers import reset_ids

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import SysfsError
from libvirt_hooks.linux import sysfs
from libvirt_hooks.linux.sysfs import Sysfs

NVME = Bdf(0, 3, 0, 0)
ABSENT = Bdf(0, 9, 0, 0)
REAL = "/sys/devices/pci0000:00/0000:00:1c.0/0000:03:00.0"


@pytest.fixture
def machine(fs: FakeFilesystem) -> Sysfs:
    """Lay out a machine as sysfs does: functions are links into the tree of bridges."""
    fs.create_dir(REAL)
    fs.create_dir("/sys/bus/pci/drivers/nvme")
    fs.create_symlink(
        "/sys/bus/pci/devices/0000:03:00.0", "../../../devices/pci0000:00/0000:00:1c.0/0000:03:00.0"
    )
    fs.create_symlink(f"{REAL}/driver", "../../../../bus/pci/drivers/nvme")
    fs.create_file(f"{REAL}/class", contents="0x010802\n")
    fs.create_file(f"{REAL}/power/control", contents="auto\n")
    fs.create_file(f"{REAL}/config", contents=bytes.fromhex("4d1402a806041000") + bytes(56))
    return Sysfs()


def refuse(number: int) -> Callable[[FakeFile], None]:
    def kernel(_: FakeFile) -> None:
        raise OSError(number, os.strerror(number))

    return kernel


def fail_open(monkeypatch: pytest.MonkeyPatch, number: int, then: Callable[[], object]) -> None:
    def kernel(*_: object, **__: object) -> None:
        then()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sysfs, "open", kernel, raising=False)


def test_virtual_functions_are_counted_without_asking_the_device(
    machine: Sysfs, fs: FakeFilesystem
) -> None:
    fs.create_file(f"{REAL}/sriov_numvfs", contents="2\n").side_effect = refuse(errno.EIO)
    assert machine.virtual_functions(NVME) == 0
    for at in (0, 1):
        fs.create_symlink(f"{REAL}/virtfn{at}", f"../0000:03:00.{at + 1}")
    assert machine.virtual_functions(NVME) == 2
    assert machine.virtual_functions(ABSENT) == 0


def test_functions_are_sorted_and_strange_entries_left_out(
    machine: Sysfs, fs: FakeFilesystem
) -> None:
    for name in ("10000:01:00.0", "0000:00:1c.0", "lost+found"):
        fs.create_dir(f"/sys/bus/pci/devices/{name}")
    assert list(map(str, machine.functions())) == [
        "0000:00:1c.0", "0000:03:00.0", "10000:01:00.0",
    ]  # fmt: skip


def test_a_machine_without_pci_has_no_functions(fs: FakeFilesystem) -> None:
    assert list(Sysfs("/sys/bus/pci/none").functions()) == []


def test_functions_that_cannot_be_listed_are_an_error(fs: FakeFilesystem) -> None:
    fs.create_file("/file")
    with pytest.raises(SysfsError, match="/file: listing PCI functions: Not a directory"):
        Sysfs("/file").functions()


@pytest.mark.parametrize(
    ("bdf", "name", "expected"),
    [
        pytest.param(NVME, "class", "0x010802", id="without the newline"),
        pytest.param(NVME, "power/control", "auto", id="in a folder"),
        pytest.param(NVME, "reset_method", None, id="no such attribute"),
        pytest.param(ABSENT, "class", None, id="no such function"),
    ],
)
def test_read_attr(machine: Sysfs, bdf: Bdf, name: str, expected: str | None) -> None:
    assert machine.read_attr(bdf, name) == expected


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        pytest.param(b"\n", "", id="reset_method with no method"),
        pytest.param(b"a\n\n", "a\n", id="one newline only"),
        pytest.param(b"S\xff\n", "S\\xff", id="not UTF-8"),
    ],
)
def test_read_attr_decodes(
    machine: Sysfs, fs: FakeFilesystem, contents: bytes, expected: str
) -> None:
    fs.create_file(f"{REAL}/attr", contents=contents)
    assert machine.read_attr(NVME, "attr") == expected


def test_read_attr_tells_what_the_kernel_refused(machine: Sysfs, fs: FakeFilesystem) -> None:
    os.chmod(f"{REAL}/class", 0o200)
    set_uid(1000)
    try:
        with pytest.raises(SysfsError) as caught:
            machine.read_attr(NVME, "class")
    finally:
        reset_ids()
    assert str(caught.value) == "0000:03:00.0: reading class: Permission denied"
    assert caught.value.number == errno.EACCES


def test_enodev_of_a_function_that_goes_is_absence(
    machine: Sysfs, fs: FakeFilesystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_open(monkeypatch, errno.ENODEV, lambda: os.unlink(f"{REAL}/class"))
    assert machine.read_attr(NVME, "class") is None


def test_enodev_of_an_attribute_that_stays_is_its_answer(
    machine: Sysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_open(monkeypatch, errno.ENODEV, lambda: None)
    with pytest.raises(SysfsError, match="reading class: No such device"):
        machine.read_attr(NVME, "class")


@pytest.mark.parametrize("value", ["\n", "flr", "flr bus"])
def test_write_attr_writes_all_of_it_once(machine: Sysfs, fs: FakeFilesystem, value: str) -> None:
    heard: list[bytes | None] = []
    fs.create_file(f"{REAL}/reset_method", side_effect=lambda f: heard.append(f.byte_contents))
    machine.write_attr(NVME, "reset_method", value)
    assert heard == [value.encode()]


@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.EINVAL, "Invalid argument"), (errno.EBUSY, "Device or resource busy")],
)
def test_write_attr_tells_what_the_kernel_refused(
    machine: Sysfs, fs: FakeFilesystem, number: int, told: str
) -> None:
    fs.create_file(f"{REAL}/reset_method", side_effect=refuse(number))
    with pytest.raises(SysfsError) as caught:
        machine.write_attr(NVME, "reset_method", "bus")
    assert str(caught.value) == f"0000:03:00.0: writing 'bus' to reset_method: {told}"
    assert caught.value.number == number


def test_write_attr_makes_no_file(machine: Sysfs, fs: FakeFilesystem) -> None:
    with pytest.raises(SysfsError, match="writing '1' to reset: No such file"):
        machine.write_attr(NVME, "reset", "1")
    assert not fs.exists(f"{REAL}/reset")


def test_write_attr_refuses_what_the_kernel_ignores(machine: Sysfs) -> None:
    with pytest.raises(ValueError, match="ignores an empty write"):
        machine.write_attr(NVME, "class", "")


def test_a_write_that_was_cut_short_is_an_error(
    machine: Sysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", lambda fd, data: len(data) - 1)
    with pytest.raises(SysfsError, match="writing 'flr bus' to power/control: Message too long"):
        machine.write_attr(NVME, "power/control", "flr bus")


def test_a_line_break_written_does_not_break_the_message(machine: Sysfs) -> None:
    with pytest.raises(SysfsError, match=r"writing '\\n' to reset_method: "):
        machine.write_attr(NVME, "reset_method", "\n")


def test_driver_follows_an_unbind(machine: Sysfs, fs: FakeFilesystem) -> None:
    fs.create_file(
        "/sys/bus/pci/drivers/nvme/unbind",
        side_effect=lambda f: fs.remove(f"{REAL}/driver") if f.byte_contents else None,
    )
    assert machine.driver(NVME) == "nvme"
    machine.write_attr(NVME, "driver/unbind", str(NVME))
    assert machine.driver(NVME) is None
    assert machine.driver(ABSENT) is None


def test_a_driver_that_is_no_link_is_an_error(machine: Sysfs, fs: FakeFilesystem) -> None:
    fs.remove(f"{REAL}/driver")
    fs.create_file(f"{REAL}/driver")
    with pytest.raises(SysfsError, match="reading driver: Invalid argument"):
        machine.driver(NVME)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, None, id="no nvme driver"),
        pytest.param({"nvme0/state": "live\n"}, "live", id="live"),
        pytest.param({"nvme0/dev": "", "nvme1/state": "new\n"}, "new", id="one is on its way out"),
        pytest.param({"nvme0/dev": ""}, None, id="only one on its way out"),
    ],
)
def test_nvme_state(
    machine: Sysfs, fs: FakeFilesystem, files: dict[str, str], expected: str | None
) -> None:
    for name, contents in files.items():
        fs.create_file(f"{REAL}/nvme/{name}", contents=contents)
    assert machine.nvme_state(NVME) == expected


def test_nvme_state_that_cannot_be_listed_is_an_error(machine: Sysfs, fs: FakeFilesystem) -> None:
    fs.create_file(f"{REAL}/nvme")
    with pytest.raises(SysfsError, match="listing nvme: Not a directory"):
        machine.nvme_state(NVME)


def test_iommu_group(machine: Sysfs, fs: FakeFilesystem) -> None:
    assert machine.iommu_group(NVME) is None
    fs.create_symlink(f"{REAL}/iommu_group", "../../../../kernel/iommu_groups/17")
    for name in ("0000:03:00.1", "0000:03:00.0", "0000:00:1c.0"):
        fs.create_file(f"/sys/kernel/iommu_groups/17/devices/{name}")
    bridge, second = Bdf(0, 0, 0x1C, 0), Bdf(0, 3, 0, 1)
    assert machine.iommu_group(NVME) == ("17", [bridge, second])
    assert machine.iommu_group(ABSENT) is None


def test_an_iommu_group_that_is_no_link_is_an_error(machine: Sysfs, fs: FakeFilesystem) -> None:
    fs.create_file(f"{REAL}/iommu_group")
    with pytest.raises(SysfsError, match="reading iommu_group: Invalid argument"):
        machine.iommu_group(NVME)


def test_config_is_read_where_asked(machine: Sysfs) -> None:
    assert machine.read_config(NVME, 0, 2) == b"\x4d\x14"
    assert machine.read_config(NVME, 4, 2) == b"\x06\x04"
    assert machine.read_config(NVME, 62, 4) == b"\0\0"  # the end of the space


def test_config_is_written_where_asked_and_nowhere_else(machine: Sysfs) -> None:
    machine.write_config(NVME, 4, b"\x02\x00")
    assert machine.read_config(NVME, 0, 8) == bytes.fromhex("4d1402a802001000")


def test_a_config_write_that_was_cut_short_is_an_error(
    machine: Sysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Config(io.BytesIO):
        def write(self, _: object) -> int:
            return 1

    monkeypatch.setattr(sysfs, "open", lambda *_, **__: Config(), raising=False)
    with pytest.raises(SysfsError, match="writing 0200 to config at 0x3f: File too large"):
        machine.write_config(NVME, 63, b"\x02\x00")


def test_config_of_an_absent_function_is_an_error(machine: Sysfs, fs: FakeFilesystem) -> None:
    with pytest.raises(SysfsError, match="0000:09:00.0: reading config at 0x4: No such file"):
        machine.read_config(ABSENT, 4, 2)
    with pytest.raises(SysfsError, match="0000:09:00.0: writing 0200 to config at 0x4: No such"):
        machine.write_config(ABSENT, 4, b"\x02\x00")
    assert not fs.exists("/sys/bus/pci/devices/0000:09:00.0")


def test_config_under_lockdown_is_an_error(machine: Sysfs, fs: FakeFilesystem) -> None:
    fs.remove(f"{REAL}/config")
    fs.create_file(f"{REAL}/config", contents=bytes(64), side_effect=refuse(errno.EPERM))
    with pytest.raises(SysfsError) as caught:
        machine.write_config(NVME, 4, b"\x02\x00")
    assert caught.value.number == errno.EPERM
