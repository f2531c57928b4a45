# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was true when an operation began, and is not when it has the lock: then hands off."""

from collections.abc import Callable

import pytest

from libvirt_hooks import custody, journal, lifecycle, marks, recovery
from libvirt_hooks.errors import DeviceBusy, HookError, OutOfTime
from libvirt_hooks.operation import Operation
from libvirt_hooks.policy import Policy
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID
from libvirt_hooks.simulator.models import ORDINARY, SM951
from libvirt_hooks.work import Work

from .lives import BDF, OTHER, SECOND, at_work, call, owned


def idle() -> SimHost:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    return host


def meanwhile(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, event: Callable[[], object]
) -> None:
    """Have *event* happen once, just before *name* is called."""
    real = getattr(owner, name)
    events = [event]

    def delayed(*arguments: object, **named: object) -> object:
        if events:
            events.pop()()
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, delayed)


def start_of_another(host: SimHost) -> None:
    assert call(host, "start", BDF, uuid=OTHER) == 0
    assert host.read_attr(BDF, "reset_method") == "bus"
    host.trace.clear()


def test_who_starts_while_another_prepares_keeps_its_guard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = idle()
    meanwhile(monkeypatch, lifecycle, "_admit", lambda: start_of_another(host))
    assert call(host, "prepare", BDF) == 1
    assert f"left alone: the guest with uuid {OTHER} has it" in capsys.readouterr().err
    assert host.texts() == []
    assert host.read_attr(BDF, "reset_method") == "bus"


@pytest.mark.parametrize("operation", ["stopped", "release"])
def test_who_starts_while_another_ends_keeps_its_guard(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = idle()
    journal.claim(host, UUID, [BDF])
    meanwhile(monkeypatch, Operation, "each", lambda: start_of_another(host))
    assert call(host, operation, BDF) == 0
    assert host.texts() == []
    assert host.read_attr(BDF, "reset_method") == "bus"
    assert (owned(host, UUID), owned(host, OTHER)) == (None, (BDF,))


@pytest.mark.parametrize("named", [True, False])
def test_who_starts_while_a_person_recovers_keeps_its_guard(
    named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = idle()
    at_work(host).undo.keep("reset_method", "flr bus")
    meanwhile(monkeypatch, Operation, "each", lambda: start_of_another(host))
    if named:
        with pytest.raises(DeviceBusy, match="has it"):
            recovery.recover_one(host, Policy(), BDF)
    else:
        said = list(recovery.recover_all(host, Policy()))
        assert [type(each) for each in said] == [DeviceBusy]
    assert host.texts() == []
    assert host.read_attr(BDF, "reset_method") == "bus"


@pytest.mark.parametrize("task", [custody.clean, custody.give_back, custody.verify])
def test_who_opens_it_before_the_first_look_keeps_its_guard(
    task: custody.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = idle()
    assert call(host, "start", BDF) == 0
    host.trace.clear()

    def opened() -> None:
        host.device(BDF).enable_count = 1

    meanwhile(monkeypatch, custody, "_bring", opened)
    with pytest.raises(DeviceBusy, match="vfio has it open by now"):
        task(at_work(host))
    assert host.read_attr(BDF, "reset_method") == "bus"
    assert at_work(host).undo.original("reset_method") == "flr bus"


def test_a_drive_whose_driver_is_still_at_it_is_not_given_up() -> None:
    """A probe may take CAP.TO, and longer than any hook waits."""
    host = SimHost()
    host.add(BDF, SM951, driver=None)
    probing = meanwhile_probing(host)
    with pytest.raises(OutOfTime, match="the host's nvme driver says connecting: it may still"):
        custody.verify(probing)
    assert marks.dead(host, BDF) is None


def meanwhile_probing(host: SimHost) -> Work:
    """The driver binds in the middle of the ladder, and does not come up."""
    write_bus = host.write_bus

    def bound(name: str, value: str) -> None:
        if name == "drivers_probe":
            host.device(BDF).set_driver("nvme", "connecting")
        else:
            write_bus(name, value)

    host.write_bus = bound  # type: ignore[method-assign]
    return at_work(host)


def test_what_was_not_read_is_not_revived() -> None:
    host = SimHost(lockdown=True)
    host.viable = False
    host.add(BDF, ORDINARY, driver="vfio-pci")
    marks.mark_dead(host, BDF, HookError(f"{BDF}: all ones"))
    assert custody.verify(at_work(host)) == "not verified: its registers cannot be read"
    assert marks.dead(host, BDF) == "all ones"


def test_what_libvirt_takes_for_the_next_guest_is_left_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver=None, slot="7")

    def detached() -> None:
        host.device(BDF).set_driver("vfio-pci")
        host.trace.clear()

    meanwhile(monkeypatch, custody, "_bring", detached)
    with pytest.raises(DeviceBusy, match="driver vfio-pci has it by now"):
        custody.verify(at_work(host))
    assert not any(text.startswith(("reset", "remove", "CC=")) for text in host.texts())
    assert marks.dead(host, BDF) is None


def test_a_release_does_not_take_back_what_another_guest_has_claimed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = SimHost()
    for bdf in (BDF, SECOND):
        host.add(bdf, SM951, driver="vfio-pci")
    journal.claim(host, UUID, [BDF, SECOND])
    meanwhile(monkeypatch, lifecycle, "_unfinished", lambda: start_of_another(host))
    assert call(host, "release", BDF, SECOND) == 0
    assert (owned(host, UUID), owned(host, OTHER)) == (None, (BDF,))
    assert call(host, "stopped", BDF, uuid=OTHER) == 0
    assert host.read_attr(BDF, "reset_method") == "flr bus"


def test_records_change_under_their_lock() -> None:
    host = idle()
    journal.claim(host, UUID, [BDF])
    host._workers.locked_until["owners"] = 1000.0
    for change in (journal.claim, journal.keep_only):
        with pytest.raises(DeviceBusy, match="owners: lock"):
            change(host, UUID, [])
    assert owned(host, UUID) == (BDF,)


def test_a_slot_that_stays_dark_is_no_reason_to_try_nothing_else() -> None:
    """A hook was killed while it was off, and the drive does not come back with it."""
    host = SimHost()
    host.add(BDF, SM951, "vfio-pci", slot="7")
    host.function(BDF).frozen = True
    work = at_work(host)
    for name, value in (("port", "0000:00:01.0"), ("driver", "vfio-pci"), ("slot", "7")):
        work.undo.keep(name, value)
    host.write_bus("slots/7/power", "0")
    with pytest.raises(HookError, match="not pristine after remove/rescan, .*slot power"):
        recovery.recover_one(host, Policy(), BDF)
    assert host.records.all == [f"dead/{BDF}"]


def test_a_drive_that_is_given_up_where_it_is_keeps_its_reset_methods() -> None:
    host = SimHost()
    host.add(BDF, SM951, total_vfs=4)
    host.write_attr(BDF, "sriov_numvfs", "1")
    host.device(BDF).set_driver("nvme", "dead")
    work = at_work(host)
    host.write_attr(BDF, "reset_method", "\n")
    work.undo.keep("reset_method", "flr")
    with pytest.raises(HookError, match="not live"):
        custody.verify(work)
    assert host.read_attr(BDF, "reset_method") == "flr"
    assert host.records.all == [f"dead/{BDF}"]


@pytest.mark.parametrize("named", [True, False])
def test_who_comes_back_while_a_person_recovers_it_keeps_its_guard_and_its_record(
    named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = idle()
    journal.claim(host, UUID, [BDF])
    host.clock.advance(1000.0)
    meanwhile(monkeypatch, Operation, "each", lambda: call(host, "start", BDF))
    if named:
        with pytest.raises(DeviceBusy, match=f"the guest with uuid {UUID} has it"):
            recovery.recover_one(host, Policy(), BDF)
    else:
        said = list(recovery.recover_all(host, Policy()))
        assert isinstance(said[0], DeviceBusy)
    assert host.read_attr(BDF, "reset_method") == "bus"
    assert owned(host, UUID) == (BDF,)


def test_a_drive_that_somebody_elses_driver_has_is_let_go_of() -> None:
    host = idle()
    assert call(host, "start", BDF) == 0
    host.clock.advance(1000.0)
    host.device(BDF).set_driver("uio_pci_generic")
    said = [str(each) for each in recovery.recover_all(host, Policy())]
    assert said == [
        f"{BDF}: driver uio_pci_generic has it",
        f"guest {UUID}: gone, and no hook came: forgotten",
    ]
    assert host.read_attr(BDF, "reset_method") == "flr bus"
    assert host.records.all == []


def test_what_was_unplugged_and_is_another_guests_by_now_is_that_guests() -> None:
    """No hook has seen either."""
    host = idle()
    host.add(SECOND, ORDINARY, driver="vfio-pci")
    assert call(host, "start", BDF, SECOND) == 0
    host.device(BDF).enable_count = 1
    began = host.monotonic()
    for operation in ("stopped", "release"):
        assert call(host, operation, SECOND) == 0
    assert host.monotonic() - began < 1.0
    assert owned(host, UUID) is None
    assert host.read_attr(BDF, "reset_method") == "bus"

    journal.claim(host, OTHER, [])
    host.device(BDF).enable_count = 0
    assert call(host, "stopped", BDF, uuid=OTHER) == 0
    assert host.read_attr(BDF, "reset_method") == "flr bus"


@pytest.mark.parametrize("operation", ["stopped", "release"])
def test_nobody_waits_for_a_drive_that_its_guest_never_had(operation: str) -> None:
    """A hook has left it half done, and a guest that no hook has seen has it open."""
    host = idle()
    at_work(host).undo.keep("power/control", "auto")
    host.device(BDF).enable_count = 1
    began = host.monotonic()
    assert call(host, operation, BDF) == 0
    assert host.monotonic() - began < 0.1
    assert at_work(host).undo.original("power/control") == "auto"


def test_a_record_that_cannot_be_written_leaves_no_running_guest_unguarded() -> None:
    host = idle()
    host._workers.locked_until["owners"] = 1000.0
    assert call(host, "reconnect", BDF) == 0
    assert host.read_attr(BDF, "reset_method") == "bus"


def test_recover_by_name_forgets_no_other_controller_of_that_guest() -> None:
    host = SimHost()
    for bdf in (BDF, SECOND):
        host.add(bdf, SM951, driver="vfio-pci")
    journal.claim(host, UUID, [BDF, SECOND])
    host.clock.advance(1000.0)
    recovery.recover_one(host, Policy(), BDF)
    assert owned(host, UUID) == (SECOND,)
    assert "pristine" in recovery.recover_one(host, Policy(), SECOND)
    assert owned(host, UUID) is None


@pytest.mark.parametrize("state", ["dead", "connecting"])
def test_recover_takes_no_disk_away_that_is_mounted(state: str) -> None:
    host = SimHost()
    host.add(BDF, SM951, mounted="/srv")
    host.device(BDF).set_driver("nvme", state)
    journal.claim(host, UUID, [BDF])
    host.clock.advance(1000.0)
    host.trace.clear()
    said = [str(each) for each in recovery.recover_all(host, Policy())]
    assert said == [
        f"{BDF}: may not be recovered: in use by the host: mount@nvme0n1p1:/srv",
        f"guest {UUID}: gone, and no hook came: {BDF} not finished",
    ]
    assert host.texts() == []
    # Not forgotten, nor taken for one that has just been heard of.
    assert [str(each) for each in recovery.recover_all(host, Policy())] == said


def test_recover_says_what_is_not_finished() -> None:
    host = idle()
    journal.claim(host, UUID, [BDF])
    host.clock.advance(1000.0)
    host.occupy(BDF, 1000.0)
    said = [str(each) for each in recovery.recover_all(host, Policy())]
    assert said[-1] == f"guest {UUID}: gone, and no hook came: {BDF} not finished"
    assert owned(host, UUID) == (BDF,)
