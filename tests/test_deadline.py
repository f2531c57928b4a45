# SPDX-License-Identifier: LGPL-2.1-or-later
"""Deadline: what is left of it, what puts it off, and how far."""

import pytest

from libvirt_hooks.deadline import Deadline


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_it_ends_after_its_seconds(clock: Clock) -> None:
    deadline = Deadline(clock, 20.0)
    clock.now += 19.0
    assert (deadline.left, deadline.elapsed, deadline.expired) == (1.0, 19.0, False)
    clock.now += 1.0
    assert deadline.expired
    clock.now += 5.0
    assert deadline.left == -5.0


def test_the_slowest_drive_puts_it_off_and_not_their_sum(clock: Clock) -> None:
    deadline = Deadline(clock, 20.0)
    for seconds in (8.0, 30.0, 8.0):
        deadline.allow(seconds)
    assert deadline.left == 50.0


def test_never_past_its_cap(clock: Clock) -> None:
    deadline = Deadline(clock, 20.0, cap=60.0)
    deadline.allow(128.0)
    assert deadline.left == 60.0


def test_a_part_of_it_ends_no_later(clock: Clock) -> None:
    deadline = Deadline(clock, 20.0)
    clock.now += 15.0
    assert deadline.within(2.0).left == 2.0
    assert deadline.within(10.0).left == 5.0
    clock.now += 10.0
    assert deadline.within(10.0).expired
