# SPDX-License-Identifier: LGPL-2.1-or-later
"""What verbs print: lines for people, or one JSON document for programs; and how errors look.

A document has stable keys, and ``version``, which changes when one of them does.
"""

import errno
import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import TextIO

from ..errors import HookError
from .parser import PROGRAM

VERSION = 1

DENIED = (os.strerror(errno.EACCES), os.strerror(errno.EPERM))

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
    from ..snapshot import printable  # --help needs none

    print(f"{PROGRAM}: {printable(error.message)}", file=sys.stderr)
    hint = error.hint
    # By the last words, which are the kernel's: from a worker no cause comes back.
    if not hint and error.message.endswith(DENIED) and os.geteuid() != 0:
        hint = "run it as root"
    if hint:
        print(f"  hint: {printable(hint)}", file=sys.stderr)


def is_colourful(out: TextIO | None = None) -> bool:
    """May there be colour? On a terminal, unless NO_COLOR is set (no-color.org)."""
    return (out or sys.stdout).isatty() and "NO_COLOR" not in os.environ


def paint(text: str, parameter: str) -> str:
    """Return *text* in colour, where there may be any; an empty *parameter* is none."""
    return f"\x1b[{parameter}m{text}\x1b[0m" if parameter and is_colourful() else text
