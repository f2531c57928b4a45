# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hooks of many guests at once, as real processes, on controllers that they share.

A controller is worked on by one hook at a time; hooks with different controllers do not wait.
"""

import os
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest

from libvirt_hooks import hook
from libvirt_hooks.bdf import Bdf

from .realtime import LOG, TreeHost, build, domain

HOOKS, CONTROLLERS = 16, 8
SCRIPT = str(Path(__file__).parent / "realtime.py")

Span = tuple[float, float]


def bdfs(count: int) -> list[Bdf]:
    return [Bdf(0xFFFE, bus, 0, 0) for bus in range(1, count + 1)]


def spans(root: Path) -> dict[str, list[Span]]:
    """When each controller was worked on, by the lock's own log."""
    found: dict[str, list[Span]] = {}
    began: dict[tuple[str, str], float] = {}
    for line in (root / LOG).read_text().splitlines():
        moment, pid, what = line.split()
        if what[0] == "+":
            began[pid, what[1:]] = float(moment)
        else:
            found.setdefault(what[1:], []).append((began[pid, what[1:]], float(moment)))
    return {what: sorted(each) for what, each in found.items()}


def overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def test_sixteen_hooks_on_eight_controllers(tmp_path: Path) -> None:
    all_bdfs = bdfs(CONTROLLERS)
    build(tmp_path, all_bdfs)
    hooks = []
    for at in range(HOOKS):
        wanted = [all_bdfs[at % CONTROLLERS], all_bdfs[(3 * at + 1) % CONTROLLERS]]
        process = subprocess.Popen(
            ["/usr/bin/python3", "-I", SCRIPT, str(tmp_path), "prepare", "begin"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        hooks.append((process, domain(f"guest{at}", at, wanted)))
    for process, xml in hooks:
        assert process.stdin is not None
        process.stdin.write(xml)
        process.stdin.close()
    for process, _ in hooks:
        assert process.stdout is not None
        said = process.stdout.read()
        process.stdout.close()
        assert (process.wait(30), said) == (0, b"")

    worked = spans(tmp_path)
    # Twice where a hook found another one's journal, and waited to see what it was.
    assert sum(map(len, worked.values())) >= 2 * HOOKS
    assert set(worked) == {str(bdf) for bdf in all_bdfs}
    for each in worked.values():
        assert not any(overlap(one, after) for one, after in pairwise(each))
    every = [(what, span) for what, each in worked.items() for span in each]
    assert any(overlap(one[1], other[1]) for one in every for other in every if one[0] < other[0])


def test_the_lock_of_a_hook_that_is_killed_is_free(tmp_path: Path) -> None:
    (bdf,) = bdfs(1)
    build(tmp_path, [bdf])
    host = TreeHost(tmp_path)
    child = os.fork()
    if child == 0:
        with host.lock(bdf, 1.0):
            time.sleep(60)
        os._exit(0)
    while not (tmp_path / LOG).exists():
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with host.lock(bdf, 1.0):
        pass


def test_a_life_in_real_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The tree is worth something only if all of the hook runs on it."""
    two = bdfs(2)
    build(tmp_path, two)
    host = TreeHost(tmp_path)
    for operation in ("prepare", "start", "stopped", "release"):
        sub = "end" if operation in ("stopped", "release") else "begin"
        argv = ["hook", "guest", operation, sub, "-"]
        assert hook.main(argv, domain("guest", 1, two, operation), host) == 0
    assert not [record for record in caplog.records if record.levelname != "INFO"]
    for bdf in two:
        assert host.read_attr(bdf, "power/control") == "auto"
        assert host.read_attr(bdf, "reset_method") == "flr bus"
    assert [path.name for path in (tmp_path / "run" / "owners").iterdir()] == []
