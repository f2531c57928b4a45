# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table at the end of the run; and nothing of it stays in the log of our own.

A hook that is run for real writes that log where there is no journald, as in a container.
"""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from libvirt_hooks.linux import logfile

from . import tally

OWN = Path(logfile.PATH)
BEFORE = OWN.stat().st_size if OWN.exists() else None


def pytest_sessionfinish() -> None:
    if BEFORE is None:
        OWN.unlink(missing_ok=True)
    else:
        # Of two sessions side by side, the other may have removed it.
        with suppress(FileNotFoundError):
            os.truncate(OWN, BEFORE)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = tally.table(len(terminalreporter.stats.get("failed", [])))
    if lines:
        terminalreporter.section("safety")
        for line in lines:
            terminalreporter.line(line)
