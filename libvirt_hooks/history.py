# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the hook has done, as its journal lines tell it: read, chosen, and worded. Pure.

An event is a line of the journal in its JSON form (systemd docs/JOURNAL_EXPORT_FORMATS.md), or of
``linux.logfile``, which has the same.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from .bdf import Bdf
from .snapshot import printable

FIELDS = {
    "operation": "OPERATION",
    "guest": "DOMAIN_UUID",
    "bdf": "PCI_BDF",
    "method": "METHOD",
    "cc_before": "CC_BEFORE",
    "cc_after": "CC_AFTER",
    "csts_before": "CSTS_BEFORE",
    "csts_after": "CSTS_AFTER",
}
"""Of an Event, as the journal calls them."""

GAP = 10.0
"""Seconds without a word, after which the same operation is told as another."""
ERROR, WARNING = 3, 4
"""Priorities of <syslog.h>; a higher number matters less."""

Line = tuple[str, int | None]
"""What to print, and its priority; None: a heading."""


@dataclass(frozen=True)
class Event:
    """One line of the journal."""

    time: float
    """Seconds since 1970, UTC."""
    priority: int
    message: str
    operation: str | None = None
    guest: str | None = None
    """Its uuid."""
    bdf: str | None = None
    method: str | None = None
    cc_before: str | None = None
    cc_after: str | None = None
    csts_before: str | None = None
    csts_after: str | None = None
    elapsed_ms: float | None = None

    def concerns(self, bdf: Bdf) -> bool:
        """Is it about this controller? What a whole operation says, names it in its words."""
        return self.bdf == str(bdf) or (self.bdf is None and str(bdf) in self.message)

    @property
    def document(self) -> dict[str, object]:
        """The event as JSON has it."""
        when = datetime.fromtimestamp(self.time, UTC).isoformat(timespec="milliseconds")
        return {**asdict(self), "time": when}


def parse(line: str) -> Event | None:
    """Read one line; None if it is no event of ours."""
    try:
        content = json.loads(line)
        said = {ours: _text(content.get(theirs)) for ours, theirs in FIELDS.items()}
        elapsed = _text(content.get("ELAPSED_MS"))
        return Event(
            time=int(content["__REALTIME_TIMESTAMP"]) / 1e6,
            priority=int(_text(content.get("PRIORITY")) or 6),
            message=_text(content["MESSAGE"]) or "(too long to be shown)",
            elapsed_ms=float(elapsed) if elapsed else None,
            **said,
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, OverflowError):
        return None


def _text(value: Any) -> str | None:
    """A field: bytes that are no text come as a list of numbers, one given twice as a list."""
    match value:
        case str():
            return "\n".join(map(printable, value.split("\n")))
        case [int(), *_]:
            return _text(bytes(value).decode("utf-8", "backslashreplace"))
        case [str(first), *_]:
            return _text(first)
    return None


def lines(
    events: Iterable[Event], width: int | None = None, registers: bool = False
) -> Iterator[Line]:
    """Word them, a heading for each operation.

    :param width: columns to cut at; None: nothing is cut.
    :param registers: add what they said before and after.
    """
    before: Event | None = None
    for event in events:
        if before is None or not _belongs(before, event):
            yield _cut(_heading(event), width), None
        mark = "!" if event.priority <= WARNING else " "
        words = f"  {_clock(event.time, '%H:%M:%S')} {mark} {_worded(event)}"
        yield _cut(words, width), event.priority
        if registers and (changes := ", ".join(_changes(event))):
            yield _cut(f"{'':13}{changes}", width), event.priority
        before = event


def _belongs(before: Event, event: Event) -> bool:
    same = (before.operation, before.guest) == (event.operation, event.guest)
    return same and event.time - before.time < GAP


def _heading(event: Event) -> str:
    guest = f"  guest {event.guest}" if event.guest else ""
    return f"{_clock(event.time, '%Y-%m-%d %H:%M:%S')}  {event.operation or '-'}{guest}"


def _clock(seconds: float, how: str) -> str:
    return datetime.fromtimestamp(seconds).strftime(how)


def _worded(event: Event) -> str:
    first = event.message.partition("\n")[0]
    # What an operation came to says how long it took; of one method the field does.
    took = event.elapsed_ms if event.method else None
    return first if took is None else f"{first}, {took:.1f} ms"


def _changes(event: Event) -> Iterator[str]:
    for name in ("CC", "CSTS"):
        old = getattr(event, f"{name.lower()}_before")
        new = getattr(event, f"{name.lower()}_after")
        if old or new:
            yield f"{name} {old or '-'} -> {new or '-'}"


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else f"{text[: width - 1]}…"
