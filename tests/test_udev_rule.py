# SPDX-License-Identifier: LGPL-2.1-or-later
"""The udev rule that is offered: of the table of drives, and of nothing else."""

import re

from libvirt_hooks.quirks import QUIRKS
from tools.udev_rule import KERNEL_KNOWS, RULE, draw


def rules() -> list[str]:
    return [line for line in RULE.read_text().splitlines() if line and line[0] != "#"]


def test_is_what_the_table_makes_of_it() -> None:
    assert RULE.read_text() == draw(), "run: python -m tools.udev_rule"


def test_guards_the_lethal_drives_that_the_kernel_does_not_know() -> None:
    assert [re.findall(r'"(0x[0-9a-f]{4})"', line) for line in rules()] == [["0x144d", "0xa802"]]
    assert all(QUIRKS[ids].flr_lethal_while_enabled for ids in KERNEL_KNOWS)


def test_asks_before_it_sets() -> None:
    """One `=` too many or too few, and udev writes the ids or compares the guard."""
    for line in rules():
        *asked, last = line.split(", ")
        assert all(re.fullmatch(r'[A-Z]+(\{\w+\})?=="\w+"', term) for term in asked), line
        assert last == 'ATTR{reset_method}="bus"'
