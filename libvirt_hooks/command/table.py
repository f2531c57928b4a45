# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lines of columns: each as wide as what is in it, and cut where the terminal is narrower."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .output import TITLE, paint

GAP, NARROW_GAP = 2, 1
"""Blanks between two columns."""


class Column(NamedTuple):
    """One column."""

    heading: str
    least: int = 0
    """What it keeps of its width on a narrow terminal; 0: it is never cut."""


class Cell(NamedTuple):
    """What stands in one place of the table, and its colour (see ``output.paint``)."""

    text: str
    colour: str = ""


def lines(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int | None
) -> Iterator[str]:
    """Yield the heading, and a line for each row.

    :param width: columns of the terminal; None: nothing is cut.
    """
    table = [[Cell(each.heading, TITLE) for each in columns], *rows]
    widths = [max(len(row[at].text) for row in table) for at in range(len(columns))]
    gap = GAP
    if width is not None and sum(widths) + GAP * (len(columns) - 1) > width:
        gap = NARROW_GAP
        _shrink(columns, widths, width - gap * (len(columns) - 1))
    for row in table:
        yield _line(row, widths, gap)


def _shrink(columns: Sequence[Column], widths: list[int], room: int) -> None:
    """Take from what has most to spare, until all of it fits or nothing can be spared."""
    sized = zip(columns, widths, strict=True)
    spare = [max(0, has - each.least) if each.least else 0 for each, has in sized]
    while sum(widths) > room and any(spare):
        at = spare.index(max(spare))
        widths[at] -= 1
        spare[at] -= 1


def _line(row: Sequence[Cell], widths: Sequence[int], gap: int) -> str:
    line, blanks = "", 0
    for (text, colour), width in zip(row, widths, strict=True):
        shown = _cut(text, width)
        line += " " * blanks + paint(shown, colour)
        blanks = width - len(shown) + gap  # none after the last that stands there
    return line


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
