# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much room there is on the terminal."""

import os
import sys
from typing import TextIO


def width() -> int | None:
    """Return the columns of the terminal that stdout is; None: it is none, and nothing is cut."""
    return size().columns if sys.stdout.isatty() else None


def size(out: TextIO | None = None) -> os.terminal_size:
    """Return columns and lines of the terminal that *out* is, or stdout; 80 and 24 if it is none.

    As shutil.get_terminal_size, but shutil loads every kind of archive there is.
    """
    try:
        found = os.get_terminal_size((out or sys.stdout).fileno())
    except (ValueError, OSError):  # closed, or no terminal
        found = os.terminal_size((80, 24))
    wanted = os.environ.get("COLUMNS", "")
    columns = int(wanted) if wanted.isdecimal() else 0
    return os.terminal_size((columns or found.columns or 80, found.lines or 24))
