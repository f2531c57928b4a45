# SPDX-License-Identifier: LGPL-2.1-or-later
"""What verbs print: lines for people, or one JSON document for programs; and how errors look.

A document has stable keys, and ``version``, which changes when one of them does.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import TextIO

from ..errors import HookError
from .parser import PROGRAM

VERSION = 1

BAD, WARN, GOOD, TITLE = "31", "33", "32", "1"
"""SGR parameters (ECMA-48, 8.3.117): red, yellow, green, bold."""


def emit(arguments: Namespace, document: Mapping[str, object], lines: Iterable[str]) -> None:
    """Print *document* or *lines*, as `-o` asks for."""
    if arguments.output == "json":
        import json  # only for programs

        print(json.dumps({"version": VERSION, **document}, indent=2))
    else:
        for line in lines:
            print(line)


def complain(error: HookError) -> None:
    """Say what is wrong, and the hint on a line of its own."""
    print(f"{PROGRAM}: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {error.hint}", file=sys.stderr)


def is_colourful(out: TextIO | None = None) -> bool:
    """May there be colour? On a terminal, unless NO_COLOR is set (no-color.org)."""
    return (out or sys.stdout).isatty() and "NO_COLOR" not in os.environ


def width() -> int | None:
    """Return the columns of the terminal that stdout is; None: it is none, and nothing is cut."""
    return size().columns if sys.stdout.isatty() else None


def size() -> os.terminal_size:
    """Return columns and lines of the terminal, of 80 and 24 where stdout is none.

    As shutil.get_terminal_size, which takes six archive formats to load.
    """
    try:
        found = os.get_terminal_size(sys.stdout.fileno())
    except (ValueError, OSError):  # closed, or no terminal
        found = os.terminal_size((80, 24))
    wanted = os.environ.get("COLUMNS", "")
    columns = int(wanted) if wanted.isdecimal() and int(wanted) else found.columns
    return os.terminal_size((columns or 80, found.lines or 24))


def paint(text: str, parameter: str) -> str:
    """Return *text* in colour, where there may be any; an empty *parameter* is none."""
    return f"\x1b[{parameter}m{text}\x1b[0m" if parameter and is_colourful() else text
