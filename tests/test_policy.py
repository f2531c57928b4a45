# SPDX-License-Identifier: LGPL-2.1-or-later
"""The administrator's file: what it says, and what is wrong with it."""

import pytest

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import BadPolicy
from libvirt_hooks.policy import Policy, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", Policy(), id="empty"),
        pytest.param("deny = []", Policy(), id="nothing denied"),
        pytest.param(
            'deny = ["0000:03:00.0", "04:00.0"]',
            Policy(frozenset({Bdf(0, 3, 0, 0), Bdf(0, 4, 0, 0)})),
            id="two controllers",
        ),
    ],
)
def test_parse(text: str, expected: Policy) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("deny = [", "Invalid value", id="not TOML"),
        pytest.param("denny = []", "unknown key 'denny', expected deny", id="a slip of the pen"),
        pytest.param('deny = "03:00.0"', "deny: '03:00.0', expected a list", id="no list"),
        pytest.param("deny = [3]", "deny: [3], expected a list", id="no string"),
        pytest.param('deny = ["nvme0"]', "'nvme0': not a PCI address", id="no address"),
    ],
)
def test_refused(text: str, said: str) -> None:
    with pytest.raises(BadPolicy) as caught:
        parse(text)
    assert caught.value.message.startswith("/etc/virt-nvme-reset.toml: ")
    assert said in caught.value.message
