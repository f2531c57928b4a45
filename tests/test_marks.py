# SPDX-License-Identifier: LGPL-2.1-or-later
"""Marks: what is known of a drive that died, and of a process that is stuck with one."""

import pytest

from libvirt_hooks import marks
from libvirt_hooks.errors import HookError, Stuck
from libvirt_hooks.simulator.host import SimHost

from .lives import BDF, SECOND


@pytest.fixture
def host() -> SimHost:
    return SimHost()


def test_a_dead_drive_is_remembered_until_it_is_seen_alive(host: SimHost) -> None:
    assert marks.dead(host, BDF) is None
    marks.mark_dead(host, BDF, HookError(f"{BDF}: does not answer: nothing"))
    assert marks.dead(host, BDF) == "does not answer: nothing"
    assert marks.dead(host, SECOND) is None
    marks.revive(host, BDF)
    marks.revive(host, BDF)
    assert marks.dead(host, BDF) is None


def test_a_power_cycle_revives_every_drive(host: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    marks.mark_dead(host, BDF, HookError("x"))
    monkeypatch.setattr(host, "boot_id", lambda: "another")
    assert marks.dead(host, BDF) is None


def test_stuck_as_long_as_that_process_runs(host: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    running = {(4211, 77)}
    monkeypatch.setattr(host, "runs", lambda pid, started: (pid, started) in running)
    marks.mark_stuck(host, BDF, Stuck(f"{BDF}: writing '1' to reset", pid=4211, started=77))
    assert marks.stuck(host, BDF) == "writing '1' to reset"
    running.clear()
    running.add((4211, 78))  # the number came round again
    assert marks.stuck(host, BDF) is None
    assert host.records.all == []


@pytest.mark.parametrize("folder", [marks.DEAD, marks.STUCK])
@pytest.mark.parametrize("data", [b"nonsense", b'{"boot_id": "%s", "why": 3, "pid": "x"}'])
def test_a_mark_that_cannot_be_read_marks_nothing(host: SimHost, folder: str, data: bytes) -> None:
    host.records.store(folder, str(BDF), data.replace(b"%s", host.boot_id().encode()))
    assert marks.dead(host, BDF) is None
    assert marks.stuck(host, BDF) is None
