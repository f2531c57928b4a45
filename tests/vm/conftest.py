# SPDX-License-Identifier: LGPL-2.1-or-later
"""One rig for the whole session, its two drives, and the results at the end.

`make vm-test` has two of them side by side, each of whose workers (pytest-xdist) hands its results
to the process that prints.
A drive is handed to each test live on the host's driver, whatever the test before did to it.
When a test fails, its report has what the hook, libvirtd and the kernel said meanwhile.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from . import hooks, image, machine, outer, parts, report
from .drives import Double, Drive
from .lives import Row
from .rig import CommandFailed, Rig

ROWS = pytest.StashKey[list[Row]]()
LINES = pytest.StashKey[list[report.Line]]()
EVIDENCE = (
    "journalctl -q --no-pager -o short-monotonic -n 40 -t virt-nvme-reset -t libvirtd"
    f"; find {hooks.STATE} -type f 2>/dev/null; dmesg | tail -n 20"
)


LONGEST_FIRST = (
    "test_twenty_lives",
    "test_lives",
    "test_recovery",
    "test_killed",
    "test_keeper",
    "test_lockdown",
    "test_stuck",
)
"""Files, by how long they take; what is not named takes less than these."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vm: runs in the rig, a Debian with libvirtd under QEMU")
    config.stash[ROWS] = []
    config.stash[LINES] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is begun last decides how long one of two rigs has nothing to do."""
    order = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def disk_image() -> image.Image:
    return image.ensure()


@pytest.fixture(scope="session")
def built_parts(disk_image: image.Image) -> Path:
    return parts.ensure(disk_image)


@pytest.fixture(scope="session")
def session_rig(disk_image: image.Image, built_parts: Path) -> Iterator[Rig]:
    with machine.ready(disk_image, built_parts) as rig:
        yield rig


@pytest.fixture
def rig(session_rig: Rig) -> Rig:
    hooks.clear(session_rig)
    return session_rig


@pytest.fixture
def double(rig: Rig) -> Double:
    drive = Double(rig, outer.DOUBLE, "double")
    _make_ready(drive)
    return drive


@pytest.fixture
def ordinary(rig: Rig) -> Drive:
    drive = Drive(rig, outer.ORDINARY, "ordinary")
    _make_ready(drive)
    return drive


@pytest.fixture(params=["double", "ordinary"])
def drive(request: pytest.FixtureRequest) -> Drive:
    """Each of the two in turn."""
    chosen = request.getfixturevalue(request.param)
    assert isinstance(chosen, Drive)
    return chosen


@pytest.fixture
def rows(pytestconfig: pytest.Config) -> list[Row]:
    """The table of this session, to be added to."""
    return pytestconfig.stash[ROWS]


def _make_ready(drive: Drive) -> None:
    """A drive that has been detached or worse since is enumerated anew."""
    if drive.is_live():
        drive.settle()
    else:
        drive.heal()
    drive.keep_awake()
    drive.clear()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, None, None]:
    outcome = yield
    result = outcome.get_result()  # type: ignore[attr-defined]
    rig = getattr(item, "funcargs", {}).get("rig")
    if result.failed and isinstance(rig, Rig):
        try:
            said = rig.run(EVIDENCE, check=False).stdout
        except CommandFailed as error:
            said = str(error)
        result.sections.append(("in the rig", said))


def pytest_sessionfinish(session: pytest.Session) -> None:
    lines = session.config.stash[LINES]
    lines += [report.line(row) for row in session.config.stash[ROWS]]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["lines"] = lines


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    # It has none where its worker crashed.
    node.config.stash[LINES] += getattr(node, "workeroutput", {}).get("lines", [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = config.stash[LINES]
    if lines:
        terminalreporter.section("guest lives")
        for line in report.table(lines):
            terminalreporter.line(line)
