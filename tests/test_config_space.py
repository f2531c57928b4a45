# SPDX-License-Identifier: LGPL-2.1-or-later
"""Configuration space for people; the bytes are put together by hand, from the specification."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_hooks.config_space import capabilities, dump, serial_number


def space(**extra: bytes) -> bytes:
    """A drive with PM at 0x40, MSI at 0x50, then AER at 0x100, DSN at 0x148, one unknown."""
    config = bytearray(4096)
    config[0:4] = bytes.fromhex("4d1402a8")
    config[6] = 0x10  # a capability list
    config[0x34] = 0x40
    config[0x40:0x42] = bytes([0x01, 0x50])
    config[0x50:0x52] = bytes([0x05, 0x00])
    config[0x100:0x104] = (0x148 << 20 | 2 << 16 | 0x0001).to_bytes(4, "little")
    config[0x148:0x14C] = (0x160 << 20 | 1 << 16 | 0x0003).to_bytes(4, "little")
    config[0x14C:0x154] = bytes.fromhex("110cb0715b382500")
    config[0x160:0x164] = (0x000 << 20 | 1 << 16 | 0x7777).to_bytes(4, "little")
    for at, data in extra.items():
        offset = int(at.removeprefix("at_"), 16)
        config[offset : offset + len(data)] = data
    return bytes(config)


def test_both_lists() -> None:
    assert list(map(str, capabilities(space()))) == [
        "PM(01)@0x40",
        "MSI(05)@0x50",
        "ERR(0001)@0x100",
        "DSN(0003)@0x148",
        "unknown(7777)@0x160",
    ]


@pytest.mark.parametrize(
    ("config", "names"),
    [
        pytest.param(space()[:256], ["PM", "MSI"], id="no more than 256 bytes"),
        pytest.param(space()[:64], [], id="what anybody may read"),
        pytest.param(b"\xff" * 64, [], id="gone"),
        pytest.param(b"\xff" * 4096, [], id="all ones"),
        pytest.param(b"", [], id="nothing"),
        pytest.param(space(at_6=b"\0")[:256], [], id="no list"),
        pytest.param(space(at_51=b"\x40")[:256], ["PM", "MSI"] * 32, id="a circle"),
        pytest.param(space(at_34=b"\x10")[:256], [], id="into the header"),
    ],
)
def test_lists_that_are_short_or_broken(config: bytes, names: list[str]) -> None:
    assert [str(each).partition("(")[0] for each in capabilities(config)] == names


def test_the_dump_is_as_lspci_s() -> None:
    lines = list(dump(space()))
    assert lines[0] == "00: 4d 14 02 a8 00 00 10 00 00 00 00 00 00 00 00 00"
    assert lines[15].startswith("f0: ")
    assert [line.partition(":")[0] for line in lines[16:]] == ["100", "140", "150", "160"]


def test_a_serial_number_can_be_hidden() -> None:
    text = "\n".join(dump(space(), serial_number(space())))
    assert "140: 00 00 00 00 00 00 00 00 03 00 01 16 .. .. .. ..\n" in text
    assert "150: .. .. .. .. 00" in text
    assert "11 0c b0 71" in "\n".join(dump(space()))


def test_without_one_nothing_is() -> None:
    assert not serial_number(space(at_148=b"\x04"))
    assert not serial_number(space()[:256])


@given(st.binary(max_size=600))
def test_whatever_is_there_it_ends(config: bytes) -> None:
    for each in capabilities(config):
        str(each)
    list(dump(config, serial_number(config)))
