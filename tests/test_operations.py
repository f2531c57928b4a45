# SPDX-License-Identifier: LGPL-2.1-or-later
"""Single operations: what each does to a drive, what it refuses, what it leaves alone."""

import errno
import logging

import pytest

from libvirt_hooks import custody, journal
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import Stuck, SysfsError
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID
from libvirt_hooks.simulator.models import A80C, ORDINARY, SM951, Model

from .lives import BDF, OTHER, SECOND, at_rest, call, called, one, owned

BDF_GONE = f"{BDF}: does not answer"


def test_what_start_does_to_an_sm951() -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    host.trace.clear()
    assert call(host, "start", BDF) == 0
    assert host.texts(BDF) == [
        "power/control=on",
        "power_state=D0",
        "CC=0x00460060",
        "CSTS.RDY=0",
        "reset_method=bus",
    ]
    assert owned(host, UUID) == (BDF,)


def test_an_ordinary_drive_keeps_its_resets() -> None:
    host = SimHost()
    host.add(BDF, ORDINARY, driver="vfio-pci")
    assert call(host, "start", BDF) == 0
    assert host.read_attr(BDF, "reset_method") == "flr bus"
    assert not any(text.startswith("reset_method") for text in host.texts(BDF))


def test_a_neighbour_is_never_reset() -> None:
    host = SimHost()
    neighbour = Bdf.parse("0000:01:00.1")
    host.add(BDF, SM951, driver="vfio-pci", beside=[neighbour])
    assert host.read_attr(BDF, "reset_method") == "flr bus"  # probed before it had a neighbour
    assert call(host, "start", BDF) == 0
    assert host.read_attr(BDF, "reset_method") == ""
    assert host.nvme_state(neighbour) == "live"
    assert call(host, "stopped", BDF) == 0
    assert call(host, "release", BDF) == 0
    # The kernel takes back only what it would offer now.
    assert "bus reset" not in host.texts()


def test_a_dead_drive_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci", faults=Fault.CONFIG_FROZEN)
    began = host.monotonic()
    assert call(host, "start", BDF) == 1
    assert host.monotonic() - began < 0.05
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "0000:01:00.0: does not answer: configuration space reads 0xffff, expected 144d:a802\n"
        "  hint: virt-nvme-reset recover 0000:01:00.0; if that fails, power the host off and on\n"
    )
    assert "reset=1" not in host.texts()


def test_a_drive_that_freezes_while_a_guest_has_it_stops_nobody() -> None:
    host, life = one(ORDINARY, faults=Fault.GONE_AFTER_FLR)
    life.start()
    life.destroy()
    assert dict(life.statuses)["stopped"] == dict(life.statuses)["release"] == 0
    assert host.records.all == [f"dead/{BDF}"]


@pytest.mark.parametrize(
    ("model", "faults", "status"),
    [
        pytest.param(SM951, Fault.RDY_STUCK, 0, id="SM951 that a bus reset disables: goes on"),
        pytest.param(
            SM951, Fault.RDY_STUCK | Fault.RESET_EIO, 1, id="SM951 that nothing disables: refused"
        ),
        pytest.param(
            ORDINARY, Fault.RDY_STUCK | Fault.RESET_EIO, 0, id="ordinary: goes on with a warning"
        ),
    ],
)
def test_start_of_a_drive_that_does_not_disable(model: Model, faults: Fault, status: int) -> None:
    host = SimHost()
    host.add(BDF, model, driver="vfio-pci", faults=faults)
    assert call(host, "start", BDF) == status
    assert "reset flr" not in host.texts() or model is ORDINARY


@pytest.mark.parametrize("viable", [True, False], ids=["through vfio", "by the guard alone"])
@pytest.mark.parametrize("model", [SM951, ORDINARY], ids=["SM951", "ordinary"])
def test_under_lockdown_a_guest_starts_and_its_drive_survives(model: Model, viable: bool) -> None:
    host, life = one(model)
    host.lockdown, host.viable = True, viable
    assert life.start()
    life.guest_reboot()
    life.guest_shutdown()
    assert life.verdicts()[0].alive
    at_rest(host)


def test_under_lockdown_a_drive_without_a_guard_is_refused() -> None:
    host = SimHost(lockdown=True)
    host.viable = False
    host.add(BDF, SM951, driver="vfio-pci", faults=Fault.NO_RESET_METHOD)
    assert call(host, "start", BDF) == 1


def test_several_controllers_at_once() -> None:
    host = SimHost()
    for bdf in (BDF, SECOND):
        host.add(bdf, ORDINARY, driver="vfio-pci", faults=Fault.SLOW_RDY)
    began = host.monotonic()
    assert call(host, "start", BDF, SECOND) == 0
    assert host.monotonic() - began == pytest.approx(3.0, abs=0.1)


def test_no_record_no_touch() -> None:
    """A failed start of one guest brings `stopped` and `release` for another guest's drive."""
    host, life = one(SM951)
    assert life.start()
    events = len(host.trace)
    for operation in ("stopped", "release"):
        assert call(host, operation, BDF, uuid=OTHER) == 0
    assert len(host.trace) == events
    assert owned(host, UUID) == (BDF,)
    life.guest_shutdown()
    at_rest(host)


def test_a_second_guest_is_refused_while_the_first_runs(capsys: pytest.CaptureFixture[str]) -> None:
    host, life = one(SM951)
    assert life.start()
    assert call(host, "prepare", BDF, uuid=OTHER) == 1
    assert f"in use by the guest with uuid {UUID}" in capsys.readouterr().err
    assert call(host, "start", BDF, uuid=OTHER) == 1
    assert journal.owner(host, OTHER) is None
    assert host.violations == []


def test_a_hot_plugged_controller_is_cleaned_too() -> None:
    host, life = one(SM951)
    assert life.start()
    host.add(SECOND, ORDINARY, driver="vfio-pci")
    host.trace.clear()
    assert call(host, "stopped", SECOND) == 0
    assert "reset flr" in host.texts(SECOND)


def test_a_hot_unplugged_controller_gets_its_resets_back() -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    assert call(host, "start", BDF) == 0
    host.write_attr(BDF, "driver_override", "\n")
    host.write_attr(BDF, "driver/unbind", str(BDF))
    host.write_attr(BDF, "subsystem/drivers_probe", str(BDF))
    host.sleep(1.0)
    assert (host.driver(BDF), host.read_attr(BDF, "power/control")) == ("nvme", "on")
    host.trace.clear()
    assert call(host, "stopped") == 0  # no longer in the XML
    assert host.texts() == ["reset_method=flr bus"]
    assert call(host, "release") == 0
    assert host.nvme_state(BDF) == "live"
    at_rest(host)


def test_reconnect_guards_what_the_hook_never_saw_start() -> None:
    host, life = one(SM951)
    life.hook = None
    host.device(BDF).function.controller.reset()
    host.write_attr(BDF, "reset_method", "bus")
    assert life.start()
    host.write_attr(BDF, "reset_method", "flr bus")
    life.hook = called
    life.daemon_restart()
    assert life.running
    assert host.read_attr(BDF, "reset_method") == "bus"
    assert host.violations == []
    life.guest_reboot()
    life.guest_shutdown()
    assert life.verdicts()[0].alive
    assert host.read_attr(BDF, "reset_method") == "flr bus"
    at_rest(host)


def test_stopped_leaves_alone_what_is_still_open() -> None:
    host, life = one(SM951)
    assert life.start()
    events = len(host.trace)
    assert call(host, "stopped", BDF) == 0
    assert len(host.trace) == events
    assert host.violations == []
    assert host.read_attr(BDF, "reset_method") == "bus"


def test_release_mends_what_the_hosts_driver_gave_up() -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    assert call(host, "start", BDF) == 0
    host.write_attr(BDF, "driver_override", "\n")
    host.write_attr(BDF, "driver/unbind", str(BDF))
    assert call(host, "release", BDF) == 0
    host.sleep(1.0)
    assert host.nvme_state(BDF) == "live"
    at_rest(host)


@pytest.mark.parametrize(("driver", "cleaned"), [("vfio-pci", True), (None, True), ("nvme", False)])
def test_prepare_cleans_what_is_idle(driver: str | None, cleaned: bool) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver=driver)
    before = (host.driver(BDF), host.read_attr(BDF, "power/control"))
    assert call(host, "prepare", BDF) == 0
    assert ("reset flr" in host.texts()) is cleaned
    assert "FLR killed it" not in host.texts()
    assert (host.driver(BDF), host.read_attr(BDF, "power/control")) == before
    at_rest(host)


def test_prepare_leaves_alone_what_another_guest_is_about_to_open() -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    assert call(host, "start", BDF, uuid=OTHER) == 0
    host.trace.clear()
    assert call(host, "prepare", BDF) == 0
    assert host.texts() == []


def test_prepare_leaves_an_absent_hostdev_to_libvirt() -> None:
    assert call(SimHost(), "prepare", BDF) == 0


def test_prepare_refuses_an_absent_nvme_disk(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(SimHost(), "prepare", BDF, disk=True) == 1
    assert "there is no such PCI function" in capsys.readouterr().err


def test_prepare_refuses_a_denied_controller(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host, _ = one(SM951)
    host.policy_text = 'deny = ["01:00.0"]'
    assert call(host, "prepare", BDF) == 1
    assert "denied by /etc/virt-nvme-reset.toml" in capsys.readouterr().err


def test_a_broken_policy_stops_only_guests_with_nvme(monkeypatch: pytest.MonkeyPatch) -> None:
    host, _ = one(SM951)
    host.policy_text = "deny = ["
    assert call(host, "prepare", BDF) == 1
    assert call(host, "prepare", SECOND) == 0
    assert call(host, "start", BDF) == 0


def test_prepare_refuses_enabled_vfs(capsys: pytest.CaptureFixture[str]) -> None:
    host = SimHost()
    host.add(BDF, ORDINARY, total_vfs=4)
    host.write_attr(BDF, "sriov_numvfs", "2")
    assert call(host, "prepare", BDF) == 1
    assert "2 virtual functions are enabled" in capsys.readouterr().err


def test_an_owner_record_that_cannot_be_believed_stops_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whose the controller is, the open descriptor says; the next claim replaces the record."""
    host, life = one(SM951)
    host.records.store(journal.OWNERS, UUID, b"nonsense")
    assert call(host, "stopped", BDF) == 0
    assert host.records.load(journal.OWNERS, UUID) == b"nonsense"
    assert life.start()
    assert owned(host, UUID) == (BDF,)
    assert f"owners/{UUID}: not a record of virt-nvme-reset" in caplog.text
    life.guest_shutdown()
    at_rest(host)


def test_a_journal_that_cannot_be_believed_refuses_the_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    host.records.store(journal.JOURNAL, str(BDF), b"nonsense")
    assert call(host, "start", BDF) == 1
    assert f"remove /run/virt-nvme-reset/journal/{BDF} when" in capsys.readouterr().err
    assert host.texts() == []


def test_what_a_hook_left_undone_is_put_back_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """`stopped` was killed: the guard stays, and `release` takes it off."""
    host, life = one(SM951)
    assert life.start()

    def dies(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(custody, "give_back", dies)
    with pytest.raises(KeyboardInterrupt):
        call(host, "stopped", BDF)
    monkeypatch.undo()
    assert host.read_attr(BDF, "reset_method") == "bus"
    life.guest_shutdown()
    assert host.read_attr(BDF, "reset_method") == "flr bus"
    at_rest(host)


@pytest.mark.parametrize(
    ("model", "faults", "status"),
    [
        pytest.param(
            SM951, Fault.RDY_STUCK | Fault.RESET_EIO, 1, id="SM951 that nothing disables: refused"
        ),
        pytest.param(SM951, Fault.RESET_EIO, 0, id="SM951 seen disabled: goes on, not pristine"),
        pytest.param(ORDINARY, Fault.RDY_STUCK | Fault.RESET_EIO, 0, id="ordinary: goes on"),
        pytest.param(ORDINARY, Fault.CONFIG_FROZEN, 1, id="gone: refused"),
    ],
)
def test_prepare_of_a_drive_that_does_not_come_clean(
    model: Model, faults: Fault, status: int
) -> None:
    host = SimHost()
    host.add(BDF, model, driver="vfio-pci", faults=faults)
    assert call(host, "prepare", BDF) == status
    assert host.read_attr(BDF, "power/control") == "auto"
    at_rest(host)


def test_a_drive_that_is_not_ready_when_vfio_has_closed_it() -> None:
    host, life = one(A80C)
    assert life.start()
    life.guest_shutdown()
    assert life.verdicts()[0].alive
    at_rest(host)


def test_release_leaves_alone_what_is_still_open(caplog: pytest.LogCaptureFixture) -> None:
    host, life = one(SM951)
    assert life.start()
    host.trace.clear()
    began = host.monotonic()
    assert call(host, "release", BDF) == 0
    assert host.monotonic() - began == pytest.approx(20.0, abs=0.3)
    assert host.texts() == []
    assert owned(host, UUID) == (BDF,)
    assert host.read_attr(BDF, "reset_method") == "bus"
    assert host.violations == []
    assert ", by 4211 (qemu-system-x86)" in caplog.text


def test_release_does_not_wait_for_a_driver_that_gave_up() -> None:
    host = SimHost()
    host.add(BDF, SM951, faults=Fault.CONFIG_FROZEN)
    journal.claim(host, UUID, [BDF])
    assert host.nvme_state(BDF) == "dead"
    began = host.monotonic()
    assert call(host, "release", BDF) == 0
    assert host.monotonic() - began < 4  # remove, rescan; reset of the empty bus, rescan
    assert host.records.all == [f"dead/{BDF}"]


def test_release_waits_for_a_driver_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    host, _ = one(SM951)
    journal.claim(host, UUID, [BDF])
    monkeypatch.setattr(host, "nvme_state", lambda _: "connecting")
    began = host.monotonic()
    assert call(host, "release", BDF) == 0
    assert host.monotonic() - began == pytest.approx(10.0, abs=0.1)


def test_a_kernel_that_does_not_take_bus_gets_no_method_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    write = host.write_attr

    def refuses_bus(bdf: Bdf, name: str, value: str) -> None:
        if value == "bus":
            raise SysfsError(bdf, "writing 'bus' to reset_method", errno.EINVAL)
        write(bdf, name, value)

    monkeypatch.setattr(host, "write_attr", refuses_bus)
    assert call(host, "start", BDF) == 0
    assert host.read_attr(BDF, "reset_method") == ""


def test_a_controller_that_another_hook_works_on_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    host.occupy(BDF, 60.0)
    assert call(host, "start", BDF) == 1
    assert "lock" in capsys.readouterr().err
    assert host.texts(BDF, who=["hook"]) == []


@pytest.mark.parametrize("told", [True, False], ids=["by the worker", "by nobody yet"])
def test_an_error_is_told_once(
    told: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    assert call(host, "start", BDF) == 0
    stuck = Stuck(f"{BDF}: reset by flr: not done after 20.0 s")
    stuck.told = told
    monkeypatch.setattr(host, "each", lambda *_: {BDF: stuck})
    assert call(host, "stopped", BDF) == 0
    assert caplog.messages.count(stuck.message) == (0 if told else 1)


def test_a_worker_tells_its_error_itself(caplog: pytest.LogCaptureFixture) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci", faults=Fault.CONFIG_FROZEN)
    call(host, "start", BDF)
    assert [record.levelname for record in caplog.records if BDF_GONE in record.message] == [
        "ERROR",  # from the worker
        "ERROR",  # that the start is refused for it
    ]


def test_stopped_without_any_record_touches_nothing() -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    for operation in ("stopped", "release"):
        assert call(host, operation, BDF) == 0
    assert host.texts() == []


def test_stopped_touches_nothing_that_is_another_guests() -> None:
    host = SimHost()
    for bdf in (BDF, SECOND):
        host.add(bdf, SM951, driver="vfio-pci")
    assert call(host, "start", BDF) == 0
    assert call(host, "start", SECOND, uuid=OTHER) == 0
    host.trace.clear()
    assert call(host, "stopped", BDF, SECOND) == 0
    assert host.texts(BDF) != []
    assert host.texts(SECOND) == []


def test_a_controller_that_was_removed_meanwhile_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    assert call(host, "start", BDF) == 0
    host.write_attr(BDF, "remove", "1")
    for operation in ("stopped", "release"):
        assert call(host, operation, BDF) == 0
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert host.records.names(journal.OWNERS) == []


def test_start_leaves_alone_what_is_not_on_vfio() -> None:
    host, _ = one(SM951)
    assert call(host, "start", BDF) == 0
    assert host.texts() == []
    at_rest(host)


def test_release_leaves_power_control_to_the_driver_that_bound_since() -> None:
    """`stopped` could not clean it, so its journal still held vfio-pci's power/control."""
    host, life = one(SM951, faults=Fault.RDY_STUCK | Fault.RESET_EIO)
    life.hook = None
    assert life.start()
    journal.claim(host, UUID, [BDF])
    undo = journal.Undo(host, BDF)
    undo.keep("power/control", "auto")
    life.guest_shutdown()
    before = host.read_attr(BDF, "power/control")
    assert (host.driver(BDF), before) == ("nvme", "on")
    assert call(host, "release", BDF) == 0
    assert host.read_attr(BDF, "power/control") == "on"
    at_rest(host)


def test_reconnect_wakes_nobody() -> None:
    """QEMU may have died while libvirtd was away: what it left is not looked at here."""
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    host.trace.clear()
    assert call(host, "reconnect", BDF) == 0
    assert host.texts() == ["reset_method=bus"]
    assert owned(host, UUID) == (BDF,)
