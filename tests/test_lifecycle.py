# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whole lives: every drive, every end, and what is left afterwards; whom an operation concerns."""

import logging

import pytest

from libvirt_hooks import custody, journal
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import (
    DeviceBusy,
    HookError,
    LadderExhausted,
    OutOfTime,
    Stuck,
    SysfsError,
)
from libvirt_hooks.journal import Undo
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID, Life
from libvirt_hooks.simulator.models import ORDINARY, QEMU_7_2, SM951, SM961, Model
from libvirt_hooks.work import Work

from .lives import BDF, OTHER, SECOND, End, at_rest, call, one, owned


def reboot_and_shut_down(life: Life) -> None:
    life.guest_reboot()
    life.guest_reboot(clean=False)
    life.guest_shutdown()


ENDS = [
    pytest.param(Life.guest_shutdown, id="clean shutdown"),
    pytest.param(Life.destroy, id="destroy"),
    pytest.param(Life.kill, id="kill -9"),
    pytest.param(reboot_and_shut_down, id="reboots, then shutdown"),
]


@pytest.mark.parametrize("managed", [True, False], ids=["managed", "unmanaged"])
@pytest.mark.parametrize("model", [SM951, SM961, ORDINARY, QEMU_7_2], ids=lambda model: model.label)
@pytest.mark.parametrize("end", ENDS)
def test_a_whole_life(model: Model, managed: bool, end: End) -> None:
    host, life = one(model, managed=managed)
    before = host.read_attr(BDF, "reset_method")
    assert life.start()
    end(life)
    (verdict,) = life.verdicts()
    assert verdict.alive, verdict.text
    assert "FLR killed it" not in host.texts()
    assert life.guest_saw[BDF] and all(life.guest_saw[BDF])
    assert host.read_attr(BDF, "reset_method") == before
    assert host.nvme_state(BDF) == ("live" if managed else None)
    assert not host.function(BDF).controller.flr_is_lethal or managed
    assert [status for _, status in life.statuses] == [0] * 5
    at_rest(host)


@pytest.mark.parametrize("managed", [True, False], ids=["managed", "unmanaged"])
def test_without_the_hook_the_same_life_kills_the_drive(managed: bool) -> None:
    host, life = one(SM951, managed=managed)
    life.hook = None
    life.start()
    assert host.texts(BDF).count("FLR killed it") == 1
    assert not life.verdicts()[0].alive


@pytest.mark.parametrize("managed", [True, False], ids=["managed", "unmanaged"])
@pytest.mark.parametrize("refuse", ["prepare", "start", "started"])
def test_a_start_that_another_script_refuses(refuse: str, managed: bool) -> None:
    host, life = one(SM951, managed=managed)
    life.refuse = refuse
    assert not life.start()
    assert life.verdicts()[0].alive
    assert host.read_attr(BDF, "reset_method") == "flr bus"
    assert "FLR killed it" not in host.texts()
    at_rest(host)


def test_two_lives_one_after_the_other() -> None:
    host, life = one(SM951)
    for _ in range(2):
        assert life.start()
        life.guest_shutdown()
        assert life.verdicts()[0].alive
    at_rest(host)


def on_vfio(*bdfs: Bdf, faults: Fault = Fault.NONE) -> SimHost:
    host = SimHost()
    for bdf in bdfs or (BDF,):
        host.add(bdf, SM951, driver="vfio-pci", faults=faults)
    host.trace.clear()
    return host


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_a_record_lives_from_start_to_release() -> None:
    host = on_vfio()
    host.clock.advance(1000.0)
    seen = {}
    for operation in ("prepare", "start", "stopped", "release"):
        host.clock.advance(100.0)
        assert call(host, operation, BDF) == 0
        record = journal.owner(host, UUID)
        seen[operation] = record and host.monotonic() - record.since
    assert seen == {
        "prepare": None,
        "start": pytest.approx(0.0, abs=0.1),
        "stopped": pytest.approx(0.0, abs=0.1),  # libvirt gives the controllers back now
        "release": None,
    }


def test_a_refused_start_keeps_its_record_for_what_follows() -> None:
    host = on_vfio(faults=Fault.RDY_STUCK | Fault.RESET_EIO)
    assert call(host, "start", BDF) == 1
    assert owned(host, UUID) == (BDF,)
    host.function(BDF).faults = host.function(BDF).controller.faults = Fault.NONE
    assert call(host, "stopped", BDF) == 0
    assert call(host, "release", BDF) == 0
    assert host.function(BDF).controller.pristine
    at_rest(host)


@pytest.mark.parametrize("operation", ["prepare", "stopped", "release"])
@pytest.mark.parametrize("record", ["none", "its own, of a life that nobody ended"])
def test_what_a_dead_hook_has_left_is_put_back_by_the_guests_next(
    operation: str, record: str
) -> None:
    host = SimHost()
    host.add(BDF, SM951)
    Undo(host, BDF).keep("reset_method", "flr")
    if record != "none":
        journal.claim(host, UUID, [BDF])
    assert call(host, operation, BDF) == 0
    assert host.read_attr(BDF, "reset_method") == "flr"
    assert journal.journaled(host) == []
    assert owned(host, OTHER) is None


@pytest.mark.parametrize("operation", ["prepare", "stopped", "release"])
@pytest.mark.parametrize(
    ("of", "owner"),
    [
        pytest.param(SECOND, None, id="what is not this guest's"),
        pytest.param(BDF, OTHER, id="what another guest has"),
    ],
)
def test_what_a_dead_hook_has_left_elsewhere_stays(
    of: Bdf, owner: str | None, operation: str
) -> None:
    host = SimHost()
    for bdf in (BDF, SECOND):
        host.add(bdf, SM951)
    Undo(host, of).keep("reset_method", "flr")
    if owner is not None:
        journal.claim(host, owner, [of])
    assert call(host, operation, BDF) == 0
    assert Undo(host, of).original("reset_method") == "flr"
    assert owned(host, UUID) is None


@pytest.mark.parametrize("operation", ["prepare", "stopped", "release"])
@pytest.mark.parametrize("record", [False, True], ids=["no record", "its record"])
def test_a_function_that_a_dead_hook_has_taken_away_is_looked_for(
    record: bool, operation: str
) -> None:
    host = on_vfio()
    undo = Undo(host, BDF)
    for name, value in (("port", "0000:00:01.0"), ("driver_override", ""), ("driver", "vfio-pci")):
        undo.keep(name, value)
    host.write_attr(BDF, "remove", "1")
    if record:
        journal.claim(host, UUID, [BDF])
    assert call(host, operation, BDF) == 0
    assert host.driver(BDF) == "vfio-pci"
    assert host.function(BDF).controller.pristine
    assert journal.journaled(host) == []


def test_a_function_that_somebody_else_has_taken_away_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = on_vfio()
    journal.claim(host, UUID, [BDF])
    host.write_attr(BDF, "remove", "1")
    host.trace.clear()
    for operation in ("stopped", "release"):
        assert call(host, operation, BDF) == 0
    assert host.texts() == []
    assert warnings(caplog) == []
    at_rest(host)


@pytest.mark.parametrize("operation", ["prepare", "start", "reconnect", "stopped", "release"])
def test_a_gpu_is_nobodys_business(
    operation: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host = on_vfio()
    read = host.read_attr
    gpu = {"class": "0x030000"}
    monkeypatch.setattr(host, "read_attr", lambda bdf, name: gpu.get(name) or read(bdf, name))
    monkeypatch.setattr(host, "policy", lambda: pytest.fail("its policy was read"))
    assert call(host, operation, BDF) == 0
    assert host.texts() == []
    assert host.records.all == []
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("operation", "driver", "told"),
    [
        pytest.param("prepare", None, "no such PCI function: left to libvirt", id="not there"),
        pytest.param(
            "start", "nvme", "driver is nvme, expected vfio-pci: left alone", id="the host's"
        ),
        pytest.param(
            "reconnect", "nvme", "driver is nvme, expected vfio-pci: left alone", id="the host's"
        ),
    ],
)
def test_what_is_left_alone_is_told(
    operation: str, driver: str | None, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    host = SimHost()
    if driver is not None:
        host.add(BDF, SM951, driver)
    assert call(host, operation, BDF) == 0
    assert warnings(caplog) == [f"{BDF}: {told}"]


def test_prepare_asks_the_hosts_driver_for_no_register(caplog: pytest.LogCaptureFixture) -> None:
    host, _ = one(SM951)
    assert call(host, "prepare", BDF) == 0
    assert warnings(caplog) == []
    assert host.effects == []


@pytest.mark.parametrize(
    ("error", "journaled", "kept"),
    [
        pytest.param(DeviceBusy("still open"), False, True, id="busy"),
        pytest.param(OutOfTime("time is up"), False, True, id="out of time"),
        pytest.param(Stuck("in the kernel"), False, True, id="stuck"),
        pytest.param(LadderExhausted("dead"), False, False, id="given up"),
        pytest.param(HookError("not live"), False, False, id="the driver's"),
        pytest.param(SysfsError(BDF, "reading", 5), True, True, id="something is to be put back"),
        pytest.param(SysfsError(BDF, "reading", 5), False, False, id="nothing is to be put back"),
    ],
)
def test_a_guest_is_remembered_for_what_is_not_finished(
    error: HookError, journaled: bool, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = on_vfio(BDF, SECOND)
    journal.claim(host, UUID, [BDF, SECOND])
    if journaled:
        Undo(host, BDF).keep("power/control", "auto")

    def fails(work: Work) -> str:
        if work.bdf == BDF:
            raise error
        return "well"

    monkeypatch.setattr(custody, "verify", fails)
    assert call(host, "release", BDF, SECOND) == 0
    assert owned(host, UUID) == ((BDF,) if kept else None)
