# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table at the end of the run."""

import pytest

from . import tally


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = tally.table(len(terminalreporter.stats.get("failed", [])))
    if lines:
        terminalreporter.section("safety")
        for line in lines:
            terminalreporter.line(line)
