# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bdf: spellings, order and refusals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_hooks.bdf import Bdf

BDFS = st.builds(
    Bdf,
    domain=st.integers(0, 0xFFFFFFFF),
    bus=st.integers(0, 0xFF),
    slot=st.integers(0, 0x1F),
    function=st.integers(0, 7),
)


@pytest.mark.parametrize(
    "text, expected",
    [
        pytest.param("0000:03:00.0", Bdf(0, 3, 0, 0), id="as the kernel prints it"),
        pytest.param("03:00.0", Bdf(0, 3, 0, 0), id="without the domain, as lspci prints it"),
        pytest.param("pci_0000_03_00_0", Bdf(0, 3, 0, 0), id="as libvirt names the node device"),
        pytest.param("0000:C1:1F.7", Bdf(0, 0xC1, 0x1F, 7), id="upper case"),
        pytest.param("10000:01:00.0", Bdf(0x10000, 1, 0, 0), id="a VMD domain of five digits"),
        pytest.param("ffffffff:ff:1f.7", Bdf(0xFFFFFFFF, 0xFF, 0x1F, 7), id="the last of all"),
    ],
)
def test_parse(text: str, expected: Bdf) -> None:
    assert Bdf.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("0000:03:00", id="no function"),
        pytest.param("0000:03:00.8", id="a function above 7"),
        pytest.param("0000:03:20.0", id="a slot above 1f"),
        pytest.param("000:03:00.0", id="a domain of three digits"),
        pytest.param("100000000:03:00.0", id="a domain of more than 32 bits"),
        pytest.param("0000:3:00.0", id="a bus of one digit"),
        pytest.param(" 0000:03:00.0", id="space in front"),
        pytest.param("0000:03:00.0\n", id="a newline at the end"),
        pytest.param("0000:٠٣:00.0", id="digits of another script"),
        pytest.param("0000:03:00.0/../..", id="a path"),
        pytest.param("pci_0000:03:00.0", id="two spellings mixed"),
        pytest.param(
            "pc\N{LATIN SMALL LETTER DOTLESS I}_0000_03_00_0", id="an i of another script"
        ),
        pytest.param("pci_03_00_0", id="a node device without its domain"),
    ],
)
def test_parse_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="not a PCI address"):
        Bdf.parse(text)


@given(BDFS)
def test_what_is_printed_is_read_back(bdf: Bdf) -> None:
    assert Bdf.parse(str(bdf)) == bdf
    assert Bdf.parse(f"pci_{str(bdf).replace(':', '_').replace('.', '_')}") == bdf


def test_order_is_that_of_the_numbers_not_of_the_text() -> None:
    texts = ["10000:00:00.0", "ffff:00:00.0", "0000:10:00.0", "0000:02:1f.0", "0000:02:00.1"]
    assert [str(bdf) for bdf in sorted(map(Bdf.parse, texts))] == texts[::-1]


@pytest.mark.parametrize(
    "other, expected",
    [
        pytest.param("0000:03:00.1", True, id="another function of the same slot"),
        pytest.param("0000:03:01.0", True, id="another slot"),
        pytest.param("0000:04:00.0", False, id="another bus"),
        pytest.param("0001:03:00.0", False, id="the same bus number of another domain"),
    ],
)
def test_same_bus(other: str, expected: bool) -> None:
    assert Bdf(0, 3, 0, 0).same_bus(Bdf.parse(other)) is expected
