# SPDX-License-Identifier: LGPL-2.1-or-later
"""The most seconds that each operation may take, one line a case."""

import pytest

from libvirt_hooks import keepers
from libvirt_hooks.linux import detached
from libvirt_hooks.policy import Mode, Policy
from libvirt_hooks.worst import Drive, seconds

IDLE = Drive(ready_timeout=8.0, idle=True, to_host=False, keeper=False)
HOSTS = Drive(ready_timeout=30.5, idle=False, to_host=True, keeper=True)
UNREAD = Drive(ready_timeout=None, idle=False, to_host=True, keeper=False)


@pytest.mark.parametrize(
    ("policy", "drives", "expected"),
    [
        pytest.param(Policy(), [IDLE], [28, 28, 0, 28, 28, 112], id="prepare cleans it"),
        pytest.param(Policy(), [HOSTS], [20, 50.5, 5, 50.5, 60.5, 186.5], id="the host's"),
        pytest.param(Policy(), [IDLE, HOSTS], [28, 50.5, 5, 50.5, 60.5, 194.5], id="the slowest's"),
        pytest.param(Policy(), [UNREAD], [20, 148, 0, 148, 150, 466], id="128 s, and the cap"),
        pytest.param(
            Policy(deadline=30, deadline_cap=40), [HOSTS], [30, 40, 5, 40, 40, 155], id="the policy"
        ),
        pytest.param(Policy(mode=Mode.OBSERVE), [HOSTS], [20, 20, 20, 20, 20, 100], id="observe"),
        pytest.param(Policy(mode=Mode.OFF), [HOSTS], [20, 0, 0, 0, 0, 20], id="off"),
    ],
)
def test_seconds(policy: Policy, drives: list[Drive], expected: list[float]) -> None:
    names = ["prepare", "start", "started", "stopped", "release", "in all"]
    assert seconds(policy, drives) == dict(zip(names, expected, strict=True))


def test_of_a_guest_that_runs_only_its_end_is_left() -> None:
    assert seconds(Policy(), [HOSTS], running=True) == {
        "stopped": 50.5,
        "release": 60.5,
        "in all": 111.0,
    }


def test_a_keeper_has_the_time_that_its_start_is_given() -> None:
    assert detached.READY_TIMEOUT == keepers.START_TIMEOUT
