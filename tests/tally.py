# SPDX-License-Identifier: LGPL-2.1-or-later
"""What this run has tried, for the table that it ends with: each try is counted as it is made."""

from collections import Counter

TRIED: Counter[str] = Counter()

FAULTS = "faults tried"
CRASHES = "crash points tried"
HOSTILE = "hostile inputs tried"
STEPS = "state-machine steps run"

ROWS = (FAULTS, CRASHES, HOSTILE, STEPS)


def tried(what: str) -> None:
    """Count one more."""
    TRIED[what] += 1


def table(failed: int) -> list[str]:
    """The lines of the table; empty if nothing of it was run."""
    if not TRIED:
        return []
    held = "all held" if not failed else f"{failed} tests failed"
    rows = [f"{what:24}{TRIED[what]:>8}" for what in ROWS]
    return [*rows, held]
