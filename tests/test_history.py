# SPDX-License-Identifier: LGPL-2.1-or-later
"""Events: what a line of the journal says, and how a page of them reads."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_hooks.history import Event, lines, parse

from .lives import BDF, SECOND

UUID = "0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11"
NOON = 1764244800.0
LINE = {
    "__REALTIME_TIMESTAMP": "1764244800123456",
    "PRIORITY": "6",
    "MESSAGE": "0000:01:00.0: controller: enabled -> disabled",
    "OPERATION": "start",
    "DOMAIN_UUID": UUID,
    "PCI_BDF": "0000:01:00.0",
    "METHOD": "controller",
    "CC_BEFORE": "0x00464061",
    "CC_AFTER": "0x00464060",
    "CSTS_BEFORE": "0x00000009",
    "CSTS_AFTER": "0x00000008",
    "ELAPSED_MS": "5.012",
}
EVENT = Event(
    NOON + 0.123456,
    6,
    "0000:01:00.0: controller: enabled -> disabled",
    "start",
    UUID,
    "0000:01:00.0",
    "controller",
    "0x00464061",
    "0x00464060",
    "0x00000009",
    "0x00000008",
    5.012,
)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_line() -> None:
    assert parse(json.dumps(LINE)) == EVENT
    assert parse(json.dumps({**LINE, "_PID": "1"}) + "\n") == EVENT


def test_the_document_says_when_to_the_millisecond() -> None:
    assert EVENT.document["time"] == "2025-11-27T12:00:00.123+00:00"
    assert list(EVENT.document) == [
        *("time", "priority", "message", "operation", "guest", "bdf", "method"),
        *("cc_before", "cc_after", "csts_before", "csts_after", "elapsed_ms"),
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param([104, 195, 169, 255], "hé\\xff", id="bytes"),
        pytest.param(["one", "two"], "one", id="twice"),
        pytest.param(None, "(too long to be shown)", id="too long"),
        pytest.param("a\x1b[31m\nb", "a\\x1b[31m\nb", id="terminal controls"),
    ],
)
def test_what_journalctl_makes_of_a_message(value: object, message: str) -> None:
    event = parse(json.dumps({**LINE, "MESSAGE": value}))
    assert event is not None
    assert event.message == message


@pytest.mark.parametrize(
    "line",
    [
        "",
        "-- No entries --",
        "[]",
        "3",
        "{}",
        "[" * 100_000,
        json.dumps({**LINE, "__REALTIME_TIMESTAMP": "soon"}),
        json.dumps({**LINE, "PRIORITY": "high"}),
        json.dumps({**LINE, "ELAPSED_MS": "long"}),
        json.dumps({**LINE, "MESSAGE": [300]}),
    ],
)
def test_what_is_no_event(line: str) -> None:
    assert parse(line) is None


@given(st.dictionaries(st.sampled_from(list(LINE)), st.text() | st.integers() | st.none()))
def test_whatever_the_fields_nothing_is_raised(fields: dict[str, object]) -> None:
    event = parse(json.dumps({**LINE, **fields}))
    assert event is None or all(each.isprintable() for each in event.message.split("\n"))


@pytest.mark.parametrize(
    ("event", "concerned"),
    [
        pytest.param(EVENT, True, id="its field"),
        pytest.param(replace(EVENT, bdf=None), True, id="its words"),
        pytest.param(replace(EVENT, bdf=str(SECOND)), False, id="another's, which names it"),
        pytest.param(replace(EVENT, bdf=None, message="x"), False, id="nobody's"),
    ],
)
def test_whom_it_concerns(event: Event, concerned: bool) -> None:
    assert event.concerns(BDF) is concerned


def page(*events: Event, width: int | None = None, registers: bool = False) -> str:
    return "\n".join(text for text, _ in lines(events, width, registers))


STEP = Event(NOON, 6, "0000:01:00.0: clear CC.EN and CC.SHN", "start", UUID, str(BDF), "controller")
CAME = Event(NOON + 1, 6, "0000:01:00.0: disabled: controller, 5.0 ms", "start", UUID, elapsed_ms=9)
FAILED = Event(NOON + 2, 3, "start failed: x\nTraceback", "start", UUID)


def test_a_page() -> None:
    later = replace(FAILED, time=NOON + 40, priority=4)
    other = Event(NOON + 41, 6, "x")
    assert page(STEP, EVENT, CAME, FAILED, later, other) == (
        f"2025-11-27 12:00:00  start  guest {UUID}\n"
        "  12:00:00   0000:01:00.0: clear CC.EN and CC.SHN\n"
        "  12:00:00   0000:01:00.0: controller: enabled -> disabled, 5.0 ms\n"
        "  12:00:01   0000:01:00.0: disabled: controller, 5.0 ms\n"
        "  12:00:02 ! start failed: x\n"
        f"2025-11-27 12:00:40  start  guest {UUID}\n"
        "  12:00:40 ! start failed: x\n"
        "2025-11-27 12:00:41  -\n"
        "  12:00:41   x"
    )


def test_registers_are_told_where_they_are_asked_for() -> None:
    assert page(EVENT, FAILED, registers=True).splitlines()[2:] == [
        "             CC 0x00464061 -> 0x00464060, CSTS 0x00000009 -> 0x00000008",
        "  12:00:02 ! start failed: x",
    ]
    gone = replace(EVENT, cc_after=None, csts_after=None)
    assert page(gone, registers=True).endswith("CC 0x00464061 -> -, CSTS 0x00000009 -> -")


def test_a_terminal_is_not_overrun() -> None:
    long = replace(CAME, message="x" * 100)
    assert [len(line) for line in page(long, width=80).splitlines()] == [70, 80]
    assert page(long, width=80).endswith("x…")
    assert page(long).endswith("x" * 100)


def test_priorities_come_along() -> None:
    assert [priority for _, priority in lines([STEP, FAILED])] == [None, 6, 3]
