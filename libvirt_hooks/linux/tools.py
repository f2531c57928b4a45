# SPDX-License-Identifier: LGPL-2.1-or-later
"""Other programs, for the command only: by their full path, for a while, without a terminal.

The hook starts none.
"""

import os
import subprocess
from collections.abc import Iterable, Sequence
from typing import NamedTuple

PATIENCE = 20.0
"""Seconds; a journal on a slow disk takes some."""


class Said(NamedTuple):
    """What a program said, and how it ended."""

    out: str
    error: str
    status: int


def find(paths: Iterable[str]) -> str | None:
    """Return the first of *paths* that can be run."""
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def run(command: Sequence[str]) -> Said | None:
    """Run a program to its end; None if it cannot be started, or takes too long."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    out, error = (each.decode("utf-8", "backslashreplace") for each in (done.stdout, done.stderr))
    return Said(out, error, done.returncode)
