# SPDX-License-Identifier: LGPL-2.1-or-later
"""The capability walk over configuration space written by hand."""

import pytest

from libvirt_hooks import pci


def config(*, listed: bool = True, chain: dict[int, tuple[int, int]], pmcsr: int = 0) -> bytes:
    """256 bytes; *chain* maps an offset to (capability id, next)."""
    space = bytearray(256)
    space[0x06] = 0x10 if listed else 0
    space[0x34] = next(iter(chain), 0)
    for at, (identity, following) in chain.items():
        space[at : at + 2] = bytes((identity, following))
    space[0x64:0x66] = pmcsr.to_bytes(2, "little")
    return bytes(space)


@pytest.mark.parametrize(
    ("space", "found"),
    [
        pytest.param(config(chain={0x60: (0x01, 0)}), 0x60, id="first"),
        pytest.param(config(chain={0x40: (0x11, 0x60), 0x60: (0x01, 0)}), 0x60, id="second"),
        pytest.param(config(chain={0x40: (0x11, 0)}), None, id="not there"),
        pytest.param(config(listed=False, chain={0x60: (0x01, 0)}), None, id="no list"),
        pytest.param(config(chain={0x40: (0x11, 0x40)}), None, id="a circle ends"),
        pytest.param(config(chain={0x10: (0x01, 0)}), None, id="inside the header"),
        pytest.param(b"\xff" * 256, None, id="all ones"),
    ],
)
def test_find_capability(space: bytes, found: int | None) -> None:
    assert pci.find_capability(space, 0x01) == found


@pytest.mark.parametrize(
    ("pmcsr", "state"), [(0x0000, "D0"), (0x0001, "D1"), (0x0102, "D2"), (0x000B, "D3hot")]
)
def test_power_state(pmcsr: int, state: str) -> None:
    assert pci.power_state(config(chain={0x60: (0x01, 0)}, pmcsr=pmcsr)) == state


def test_a_function_without_power_management_is_awake() -> None:
    assert pci.power_state(config(chain={})) == "D0"


@pytest.mark.parametrize(
    ("chain", "words", "found"),
    [
        pytest.param(
            {0x40: (0x01, 0x50), 0x50: (0x10, 0x80), 0x80: (0x11, 0)},
            {0x44: 0x0008, 0x54: 0x8FC0, 0x56: 0x1000, 0x82: 0x800F},
            pci.Capabilities(flr=True, no_soft_reset=True, msix_size=16),
            id="all of them",
        ),
        pytest.param(
            {0x40: (0x01, 0x50), 0x50: (0x10, 0x80), 0x80: (0x11, 0)},
            {0x44: 0x0103, 0x54: 0xFFFF, 0x56: 0xEFFF, 0x82: 0x07FF},
            pci.Capabilities(flr=False, no_soft_reset=False, msix_size=2048),
            id="their other bits",
        ),
        pytest.param({}, {}, pci.Capabilities(False, None, None), id="none"),
    ],
)
def test_capabilities(
    chain: dict[int, tuple[int, int]], words: dict[int, int], found: pci.Capabilities
) -> None:
    space = bytearray(config(chain=chain))
    for at, word in words.items():
        space[at : at + 2] = word.to_bytes(2, "little")
    assert pci.capabilities(bytes(space)) == found
