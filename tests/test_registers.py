# SPDX-License-Identifier: LGPL-2.1-or-later
"""Registers as integers with named fields, and how often the bus is touched."""

import pytest

from libvirt_hooks.registers import Field, Register, flag, read, write


class R32(Register, offset=0x10):
    LOW = flag(0)
    MIDDLE = Field(7, 4, int)
    HIGH = Field(31, 28, int)


class R64(Register, offset=0x28, width=64):
    TOP = Field(63, 32, int)


class Bar:
    """Words by offset; counts every access."""

    def __init__(self, **words: int) -> None:
        self.words = {int(name[1:], 16): value for name, value in words.items()}
        self.accesses: list[tuple[str, int]] = []

    def read32(self, offset: int) -> int:
        self.accesses.append(("r", offset))
        return self.words[offset]

    def write32(self, offset: int, value: int) -> None:
        self.accesses.append(("w", offset))
        self.words[offset] = value


def test_fields_are_cut_out_of_the_value() -> None:
    value = R32(0xA00000B1)
    assert (value.LOW, value.MIDDLE, value.HIGH) == (True, 0xB, 0xA)


def test_replace_keeps_every_other_bit() -> None:
    assert R32(0xFFFFFFFF).replace(LOW=0, MIDDLE=5) == 0xFFFFFF5E


def test_replace_returns_the_same_register() -> None:
    assert type(R32(0).replace(LOW=1)) is R32


@pytest.mark.parametrize("value", [16, -1])
def test_what_does_not_fit_a_field_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=r"R32\.MIDDLE: -?0x\w+ does not fit 0xf"):
        R32(0).replace(MIDDLE=value)


@pytest.mark.parametrize("value", [1 << 32, -1])
def test_what_does_not_fit_a_register_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="does not fit 32 bits"):
        R32(value)


def test_prints_the_number_first_and_then_its_fields() -> None:
    assert str(R32(0xA00000B1)) == "R32=0xa00000b1 (LOW=1 MIDDLE=11 HIGH=10)"


def test_all_ones_depends_on_the_width() -> None:
    assert R32(0xFFFFFFFF).all_ones
    assert not R64(0xFFFFFFFF).all_ones
    assert R64(0xFFFFFFFFFFFFFFFF).all_ones


def test_a_32_bit_register_is_read_with_one_access() -> None:
    bar = Bar(x10=0x1234)
    assert read(bar, R32) == 0x1234
    assert bar.accesses == [("r", 0x10)]


def test_a_64_bit_register_is_read_low_word_first() -> None:
    bar = Bar(x28=0x11111111, x2c=0x22222222)
    assert read(bar, R64) == 0x2222222211111111
    assert bar.accesses == [("r", 0x28), ("r", 0x2C)]


def test_a_write_is_one_access() -> None:
    bar = Bar()
    write(bar, R32(5))
    assert bar.accesses == [("w", 0x10)]
    assert bar.words == {0x10: 5}


def test_a_64_bit_register_is_never_written() -> None:
    with pytest.raises(ValueError, match="never written"):
        write(Bar(), R64(0))
