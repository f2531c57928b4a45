# SPDX-License-Identifier: LGPL-2.1-or-later
"""Deadline: what is left of it, what puts it off, and how far; and that every wait is a part."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from libvirt_hooks.deadline import Deadline
from libvirt_hooks.engine import await_config, await_live, await_ready, is_wanted_by_host, reach
from libvirt_hooks.errors import OutOfTime
from libvirt_hooks.plan import Goal
from libvirt_hooks.power import wake
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.models import ORDINARY
from libvirt_hooks.work import Work

from .lives import BDF, at_work


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


def working(host: SimHost, seconds: float, cap: float = float("inf")) -> Work:
    return replace(at_work(host), deadline=Deadline(host.monotonic, seconds, cap))


def machine(driver: str | None = "vfio-pci", faults: Fault = Fault.NONE) -> SimHost:
    host = SimHost()
    host.add(BDF, ORDINARY, driver, faults)
    host.write_attr(BDF, "power/control", "on")
    return host


@pytest.mark.parametrize(
    ("driver", "faults", "wait", "told"),
    [
        pytest.param(
            "vfio-pci",
            Fault.RDY_STUCK,
            lambda work: await_ready(work, False, 60.0),
            "CSTS.RDY is not 0: CSTS=0x00000009 (RDY=1 CFS=0 SHST=2 NSSRO=0 PP=0),"
            " waited 0.4 s of CAP.TO 60.0 s",
            id="for RDY",
        ),
        pytest.param(
            "vfio-pci",
            Fault.CONFIG_FROZEN,
            lambda work: await_config(work, 60.0),
            "configuration space reads all ones after 0.4 s",
            id="for configuration space",
        ),
        pytest.param(
            "nvme",
            Fault.NONE,
            lambda work: await_live(work, 60.0),
            "host's nvme driver: connecting after 0.4 s",
            id="for the host's driver",
        ),
        pytest.param("vfio-pci", Fault.NONE, wake, None, id="for D0"),
    ],
)
def test_no_wait_goes_past_it(
    driver: str,
    faults: Fault,
    wait: Callable[[Work], str | None],
    told: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = machine(driver, faults)
    monkeypatch.setattr(host, "nvme_state", lambda _: "connecting")
    monkeypatch.setattr("libvirt_hooks.power.read_power_state", lambda *_: "D3cold")
    began = host.monotonic()
    assert wait(working(host, 0.4, cap=0.4)) == told
    assert host.monotonic() - began == pytest.approx(0.4, abs=0.02)


def test_the_hosts_driver_gets_its_time_on_top_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    host = machine("nvme")
    monkeypatch.setattr(host, "nvme_state", lambda _: "connecting")
    assert await_live(working(host, 1.0), 10.0) == "host's nvme driver: connecting after 10.0 s"


@pytest.mark.parametrize(
    ("driver", "binds_after", "told", "seconds"),
    [
        pytest.param(None, 0.7, None, 0.7, id="newer kernels probe beside the caller"),
        pytest.param(None, 30.0, "host's nvme driver: gave up after 1.0 s", 1.0, id="but at once"),
        pytest.param("vfio-pci", 30.0, None, 0.0, id="who has it is not waited for"),
    ],
)
def test_a_driver_that_has_not_bound_yet(
    driver: str | None, binds_after: float, told: str | None, seconds: float
) -> None:
    host = machine(driver)
    began = host.monotonic()
    host.device(BDF).set_driver_later(began + binds_after, "nvme", "live")
    assert await_live(at_work(host), 10.0) == told
    assert host.monotonic() - began == pytest.approx(seconds, abs=0.02)


@pytest.mark.parametrize(
    ("driver", "loaded", "override", "wanted"),
    [
        pytest.param("nvme", True, "", True, id="it has it"),
        pytest.param(None, True, "", True, id="it would bind"),
        pytest.param(None, True, "nvme", True, id="and is told to"),
        pytest.param(None, True, "vfio-pci", False, id="driver_override says another"),
        pytest.param(None, False, "", False, id="it is not loaded"),
        pytest.param("vfio-pci", True, "", False, id="another has it"),
    ],
)
def test_whether_the_hosts_driver_wants_it(
    driver: str | None, loaded: bool, override: str, wanted: bool
) -> None:
    host = machine(driver)
    host.write_attr(BDF, "driver_override", override or "\n")
    if not loaded:
        host.drivers.discard("nvme")
    assert is_wanted_by_host(at_work(host)) is wanted


def test_a_goal_that_is_reached_is_reached_however_late() -> None:
    host = SimHost()
    host.add(BDF, ORDINARY, driver="vfio-pci", pristine=True)
    assert reach(working(host, 0.0), Goal.PRISTINE).tried == ()


@pytest.mark.parametrize(
    ("cap", "seconds"),
    [pytest.param(100.0, 8.1, id="on top"), pytest.param(3.0, 3.0, id="but not past the cap")],
)
def test_what_a_drive_may_legally_take(cap: float, seconds: float) -> None:
    host = machine(faults=Fault.RDY_STUCK)
    began = host.monotonic()
    with suppress(OutOfTime):
        reach(working(host, 1.0, cap), Goal.DISABLED)
    assert host.monotonic() - began == pytest.approx(seconds, abs=0.1)
