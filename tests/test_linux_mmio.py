# SPDX-License-Identifier: LGPL-2.1-or-later
"""Registers on a real file: pyfakefs does not fake mmap.

That a call is one access on the bus is counted in tests/vm (QEMU's pci_nvme_mmio trace).
"""

import errno
import mmap
import os
from pathlib import Path

import pytest

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import RegistersUnreadable
from libvirt_hooks.linux.mmio import MappedRegisters, map_registers

NVME = Bdf(0, 3, 0, 0)


@pytest.fixture
def bar(tmp_path: Path) -> Path:
    """A BAR0 of 16 KiB whose bytes tell where they are."""
    path = tmp_path / "resource0"
    path.write_bytes(bytes(range(256)) * 64)
    return path


def words(raw: bytearray, swap: bool) -> MappedRegisters:
    return MappedRegisters(memoryview(raw).cast("I"), swap)


def test_reads_are_little_endian_on_the_bus(bar: Path) -> None:
    with map_registers(str(bar), NVME) as registers:
        assert registers.read32(0x14) == 0x17161514
        assert registers.read32(0xFFC) == 0xFFFEFDFC


def test_a_write_reaches_its_four_bytes_and_no_others(bar: Path) -> None:
    before = bar.read_bytes()
    with map_registers(str(bar), NVME) as registers:
        registers.write32(0x14, 0x00460001)
    assert bar.read_bytes() == before[:0x14] + bytes.fromhex("01004600") + before[0x18:]


def test_a_big_endian_machine_swaps() -> None:
    raw = bytearray(range(8))
    swapped = words(raw, swap=True)
    assert swapped.read32(4) == int.from_bytes(
        words(raw, swap=False).read32(4).to_bytes(4), "little"
    )
    swapped.write32(0, swapped.read32(4))
    assert raw[:4] == raw[4:]


@pytest.mark.parametrize("offset", [-4, 1, 0x16, 0x1000, 0x1004])
def test_what_is_no_register_is_refused(bar: Path, offset: int) -> None:
    with map_registers(str(bar), NVME) as registers:
        with pytest.raises(ValueError, match="not a 32-bit register below 0x1000"):
            registers.read32(offset)
        with pytest.raises(ValueError, match="not a 32-bit register below 0x1000"):
            registers.write32(offset, 0)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_what_does_not_fit_is_refused(value: int, swap: bool) -> None:
    raw = bytearray(4)
    with pytest.raises(ValueError, match="for format|does not fit"):
        words(raw, swap).write32(0, value)
    assert raw == bytes(4)


def test_nothing_stays_open_or_usable(bar: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with map_registers(str(bar), NVME) as registers:
        registers.read32(0)
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(ValueError, match="released"):
        registers.read32(0)
    assert str(bar) not in Path("/proc/self/maps").read_text()


def test_an_error_inside_comes_through_and_unmaps(bar: Path) -> None:
    with pytest.raises(KeyError), map_registers(str(bar), NVME):
        raise KeyError
    assert str(bar) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(
    ("number", "told", "hint"),
    [
        pytest.param(
            errno.EINVAL, "Invalid argument (a driver has claimed BAR0)", "iomem", id="claimed"
        ),
        pytest.param(
            errno.EPERM, "Operation not permitted (kernel lockdown)", "lockdown", id="lockdown"
        ),
        pytest.param(errno.ENOMEM, "Cannot allocate memory", "", id="anything else"),
    ],
)
def test_a_refused_mapping_says_why(
    bar: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: str, hint: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(mmap, "mmap", refuse)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(RegistersUnreadable) as caught, map_registers(str(bar), NVME):
        pass
    assert str(caught.value) == f"0000:03:00.0: mapping resource0: {told}"
    assert hint in caught.value.hint
    assert os.listdir("/proc/self/fd") == before


def test_no_resource0_is_unreadable(tmp_path: Path) -> None:
    path = str(tmp_path / "resource0")
    with (
        pytest.raises(RegistersUnreadable, match="opening resource0: No such file"),
        map_registers(path, NVME),
    ):
        pass


def test_a_bar_too_small_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "resource0").write_bytes(bytes(256))
    with (
        pytest.raises(RegistersUnreadable, match="0000:03:00.0: .*BAR0 is below 4096 B"),
        map_registers(str(tmp_path / "resource0"), NVME),
    ):
        pass
