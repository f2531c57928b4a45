# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table that `make vm-test` ends with: one line a life."""

from __future__ import annotations

from collections.abc import Sequence

from .lives import Row

Line = tuple[str, ...]
HEADINGS = (
    "hook",
    "drive",
    "managed",
    "life",
    "lethal FLR",
    "good FLR",
    "bus reset",
    "guest saw CAP",
    "host after",
    "reset_method",
    "left",
    "seconds",
)


def table(lines: Sequence[Line]) -> list[str]:
    """Return the lines below their headings, columns aligned."""
    return aligned([HEADINGS, *lines])


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with their cells below each other."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def line(row: Row) -> Line:
    """Return a life's cells."""
    counted = row.counters
    return (
        _yes(row.hook),
        row.drive,
        _yes(row.managed),
        row.life.value,
        *((_number(counted.flr_lethal), _number(counted.flr_good)) if counted else ("-", "-")),
        _number(counted.bus_resets) if counted else "-",
        f"{row.caps[-1]:016x}" if row.caps else "-",
        row.after.where if row.after else "-",
        _change(row),
        _number(len(row.left)),
        f"{row.seconds:.1f}",
    )


def _change(row: Row) -> str:
    """What reset_method said before and after; once where it is the same."""
    if row.before is None or row.after is None:
        return "-"
    before, after = row.before.reset_method, row.after.reset_method
    return before if before == after else f"{before} -> {after or '(none)'}"


def _yes(flag: bool | None) -> str:
    return {True: "yes", False: "no", None: "-"}[flag]


def _number(value: int) -> str:
    return str(value)
