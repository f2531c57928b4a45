# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of drives, against the list that was asked for."""

import pytest

from libvirt_hooks import quirks

LETHAL = [(0x144D, 0xA802), (0x144D, 0xA804)]
SETTLE = [
    ((0x8086, 0x0953), 0.25),
    ((0x8086, 0x0A54), 0.25),
    ((0x025E, 0xF1AC), 0.25),
    ((0x144D, 0xA80C), 0.1),
    ((0x144D, 0xA80D), 0.1),
]
READY_CHECK = [
    (0x1BB1, 0x0100),
    (0x1C58, 0x0003),
    (0x1C58, 0x0023),
    (0x1C5F, 0x0540),
    (0x144D, 0xA821),
    (0x144D, 0xA822),
]
PREFER_BUS = [(0x8086, 0xF1A6), (0x126F, 0x2262), (0x126F, 0x2263)]


@pytest.mark.parametrize("ids", LETHAL)
def test_flr_is_lethal_while_enabled(ids: tuple[int, int]) -> None:
    assert quirks.find(*ids).flr_lethal_while_enabled


@pytest.mark.parametrize(("ids", "seconds"), SETTLE)
def test_settle_time(ids: tuple[int, int], seconds: float) -> None:
    assert quirks.find(*ids).settle_after_reset == seconds


@pytest.mark.parametrize("ids", READY_CHECK)
def test_ready_check_delay(ids: tuple[int, int]) -> None:
    assert quirks.find(*ids).ready_check_delay == 2.3


@pytest.mark.parametrize("ids", PREFER_BUS)
def test_prefer_bus(ids: tuple[int, int]) -> None:
    assert quirks.find(*ids).prefer_bus


def test_no_drive_is_in_the_table_that_nobody_asked_for() -> None:
    asked = {*LETHAL, *(ids for ids, _ in SETTLE), *READY_CHECK, *PREFER_BUS}
    assert quirks.QUIRKS.keys() == asked


def test_every_row_has_a_name_a_symptom_and_a_source() -> None:
    for quirk in quirks.QUIRKS.values():
        assert quirk.name and quirk.symptom and quirk.source


def test_an_unknown_drive_is_ordinary() -> None:
    assert quirks.find(0x1B36, 0x0010) == quirks.ORDINARY
