# SPDX-License-Identifier: LGPL-2.1-or-later
"""Work on one controller: who may be in the way, what is waited for, in which order it is done."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from libvirt_hooks import custody, journal, marks
from libvirt_hooks.custody import Task
from libvirt_hooks.deadline import Deadline
from libvirt_hooks.engine import look
from libvirt_hooks.errors import (
    DeviceBusy,
    HookError,
    LadderExhausted,
    OutOfTime,
    Stuck,
    SysfsError,
)
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID
from libvirt_hooks.simulator.models import A80C, ORDINARY, P3700, SM951, SM961, Model
from libvirt_hooks.snapshot import Process

from .lives import BDF, at_rest, at_work, call, one, owned

QEMU = Process(4211, "qemu-system-x86")
BROKEN = Fault.RDY_STUCK | Fault.RESET_EIO
DECODE_OFF = b"\x01\x01"
F1AC = replace(P3700, label="Solidigm P44 Pro", vendor=0x025E, device=0xF1AC, device_specific="")
"""Needs its 250 ms after an FLR, on a kernel that does not know that."""


def idle(
    model: Model = SM951, faults: Fault = Fault.NONE, driver: str | None = "vfio-pci"
) -> SimHost:
    host = SimHost()
    host.add(BDF, model, driver, faults)
    host.trace.clear()
    host.effects.clear()
    return host


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]


def keys(host: SimHost) -> set[str]:
    """The journal of the controller, read as the file that it is."""
    data = host.records.load(journal.JOURNAL, str(BDF))
    return set() if data is None else set(json.loads(data)) - {"boot_id"}


def diary(host: SimHost) -> Callable[[], list[str]]:
    """What has been done to the machine since the last look, with what was journaled of it."""
    effect = host.records._effect

    @contextmanager
    def noted(what: str) -> Iterator[None]:
        before = keys(host)
        with effect(what):
            yield
        host.effects.extend(f"keep {each}" for each in sorted(keys(host) - before))
        host.effects.extend(f"forget {each}" for each in sorted(before - keys(host)))

    def read() -> list[str]:
        found = [each.removeprefix(f"{BDF} ") for each in host.effects]
        host.effects.clear()
        return [each for each in found if not each.startswith(("store ", "drop "))]

    host.records._effect = noted
    host.effects.clear()
    return read


WOKEN = ["keep power/control", "power/control=on", "keep COMMAND", "config COMMAND=0x103"]
ASLEEP = ["config COMMAND=0x101", "forget COMMAND"]


def test_what_is_changed_is_journaled_before_and_forgotten_after() -> None:
    host = idle()
    host.write_config(BDF, 0x04, DECODE_OFF)
    done = diary(host)
    assert call(host, "prepare", BDF) == 0
    assert done() == [
        *WOKEN,
        "register 0x14=0x460060",
        *("keep reset_method", "reset_method=flr", "reset=1"),
        *("reset_method=flr bus", "forget reset_method"),
        *(*ASLEEP, "power/control=auto", "forget power/control"),
    ]
    assert call(host, "start", BDF) == 0
    assert done() == [*WOKEN, "keep reset_method", "reset_method=bus", *ASLEEP]
    assert call(host, "stopped", BDF) == 0
    assert done() == [
        *(*WOKEN[2:], *ASLEEP),
        *("reset_method=flr bus", "forget reset_method"),
        *("power/control=auto", "forget power/control"),
    ]
    assert call(host, "release", BDF) == 0
    at_rest(host)


@pytest.mark.parametrize("by", ["enable", "a descriptor"])
@pytest.mark.parametrize("task", [custody.clean, custody.take, custody.tidy])
def test_what_is_open_is_refused_whoever_has_looked_before(task: Task, by: str) -> None:
    host = idle()
    work = at_work(host)
    work.undo.keep("power/control", "on")
    if by == "enable":
        host.device(BDF).enable_count = 1
    else:
        work = replace(work, users=(QEMU,))
    with pytest.raises(DeviceBusy, match="in use: open through vfio already"):
        task(work)
    assert host.texts() == []
    assert work.undo.original("power/control") == "on"


def test_a_start_is_refused_while_a_process_has_the_group_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = idle()
    monkeypatch.setattr(host, "vfio_users", lambda bdfs: dict.fromkeys(bdfs, (QEMU,)))
    assert call(host, "start", BDF) == 1
    assert host.texts() == []
    assert host.records.all == []


def test_tidy_puts_back_what_is_journaled() -> None:
    host = idle()
    work = at_work(host)
    work.undo.keep("reset_method", "bus")
    assert custody.tidy(work) == "everything is as it was"
    assert host.read_attr(BDF, "reset_method") == "bus"
    assert host.records.all == []


@pytest.mark.parametrize("model", [SM951, ORDINARY], ids=["SM951", "ordinary"])
def test_a_start_of_a_drive_that_is_gone_is_refused_whatever_the_policy(model: Model) -> None:
    """QEMU would hang in the kernel for 65 s."""
    host = idle(model, Fault.CONFIG_FROZEN)
    host.policy_text = 'failed_disable = "go-on"'
    assert call(host, "start", BDF) == 1


def test_a_start_that_runs_out_of_time_is_a_failed_disable(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = idle(ORDINARY, Fault.RDY_STUCK)
    host.policy_text = "deadline = 2\ndeadline_cap = 2\n"
    assert call(host, "start", BDF) == 0
    (warning,) = [each for each in caplog.messages if "not disabled, going on: " in each]
    assert "time is up, 2.0 s" in warning
    assert errors(caplog) == []


def test_a_kernel_that_refuses_once_is_a_failed_disable(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host, write, left = idle(ORDINARY), SimHost.write_attr, [1]

    def refuses(bdf: object, name: str, value: str) -> None:
        if name == "power/control" and left:
            left.pop()
            raise SysfsError(bdf, "writing 'on' to power/control", 5)
        write(host, BDF, name, value)

    monkeypatch.setattr(host, "write_attr", refuses)
    assert call(host, "start", BDF) == 0
    assert "not disabled, going on: writing 'on' to power/control" in caplog.text


@pytest.mark.parametrize(
    ("model", "methods", "guard", "status"),
    [
        pytest.param(SM951, "flr bus", "auto", 0, id="the guard is set"),
        pytest.param(SM951, "bus", "auto", 0, id="it says so already"),
        pytest.param(SM951, "\n", "auto", 0, id="there is no reset at all"),
        pytest.param(SM951, "flr bus", "keep", 1, id="the policy wants none"),
        pytest.param(SM961, "device_specific flr bus", "auto", 0, id="the kernel knows the drive"),
        pytest.param(SM961, "flr device_specific", "keep", 1, id="but would do something else"),
    ],
)
def test_an_unread_drive_that_an_flr_kills_goes_only_to_a_guest_that_does_none(
    model: Model, methods: str, guard: str, status: int
) -> None:
    host = SimHost(lockdown=True, policy=f'[drive."{model.vendor:04x}:{model.device:04x}"]\n')
    host.policy_text = f'{host.policy_text}guard = "{guard}"\n'
    host.viable = False
    host.add(BDF, model, driver="vfio-pci")
    host.write_attr(BDF, "reset_method", methods)
    host.trace.clear()
    assert call(host, "start", BDF) == status
    guarded = methods == "flr bus" and not status
    assert host.read_attr(BDF, "reset_method") == ("bus" if guarded else methods.strip())


def test_a_controller_that_went_while_its_guest_ran_leaves_no_journal() -> None:
    host = idle()
    assert call(host, "start", BDF) == 0
    host.write_attr(BDF, "remove", "1")
    assert call(host, "stopped", BDF) == 0
    assert journal.journaled(host) == []


def test_a_controller_that_was_unplugged_is_not_asked_for_its_registers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = SimHost()
    host.add(BDF, SM951)
    assert custody.give_back(at_work(host)) == "already back with the host"
    assert caplog.messages == []


def test_a_guard_stays_until_the_drive_is_clean() -> None:
    """libvirt gives the drive back now, and its unbind is followed by another reset."""
    host = idle()
    assert call(host, "start", BDF) == 0
    function = host.function(BDF)
    function.controller.live()
    function.faults = function.controller.faults = BROKEN
    assert call(host, "stopped", BDF) == 0
    assert host.read_attr(BDF, "reset_method") == "bus"
    assert keys(host) == {"power/control", "reset_method"}


@pytest.mark.parametrize("managed", [True, False], ids=["managed", "unmanaged"])
@pytest.mark.parametrize("model", [A80C, F1AC], ids=lambda model: model.label)
def test_a_drive_that_is_slow_after_vfios_reset_is_waited_for(
    model: Model, managed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    host, life = one(model, managed=managed)
    for _ in range(2):
        assert life.start()
        life.guest_shutdown()
    assert life.verdicts()[0].alive
    assert all(life.guest_saw[BDF])
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []
    at_rest(host)


@pytest.mark.parametrize("task", [custody.give_back, custody.verify])
@pytest.mark.parametrize(
    ("model", "silent", "waited"),
    [
        pytest.param(ORDINARY, 0.5, 0.5, id="half a second"),
        pytest.param(ORDINARY, 60.0, 1.0, id="no longer than PCI Express allows"),
        pytest.param(A80C, 3.0, 3.0, id="a drive that claims Immediate Readiness falsely"),
        pytest.param(A80C, 60.0, 5.1, id="but not for ever"),
    ],
)
def test_how_long_silence_is_borne(
    model: Model, silent: float, waited: float, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = idle(model)
    host.function(BDF).silent_until = host.monotonic() + silent
    monkeypatch.setattr(custody, "_bring", lambda *_, **__: "")
    began = host.monotonic()
    task(at_work(host))
    assert host.monotonic() - began == pytest.approx(waited, abs=0.02)


def test_a_function_that_is_away_is_not_waited_for() -> None:
    host = idle()
    host.write_attr(BDF, "remove", "1")
    host.function(BDF).frozen = True
    with pytest.raises(LadderExhausted):
        custody.verify(at_work(host))
    assert host.records.all == [f"dead/{BDF}"]


@pytest.mark.parametrize("task", [custody.give_back, custody.verify])
@pytest.mark.parametrize("by", ["enable", "a descriptor", "a descriptor, enabled at first"])
def test_the_last_close_is_waited_for(task: Task, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU may be gone and the kernel still at it, or hold the group and no device."""
    host, ends = idle(), 3.0
    dev = host.device(BDF)
    work = at_work(host)
    if by != "a descriptor":
        dev.vfio.closing_until = ends if by == "enable" else 1.0
    if by != "enable":
        users = lambda _: {BDF: (QEMU,) if host.monotonic() < ends else ()}  # noqa: E731
        monkeypatch.setattr(host, "vfio_users", users)
        work = replace(work, users=(QEMU,))
    task(work)
    assert min(each.seconds for each in host.trace) >= ends
    assert host.violations == []


def test_every_process_is_looked_at_only_when_vfio_has_closed_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = idle()
    host.device(BDF).vfio.closing_until = 10.0
    looks: list[float] = []

    def users(_: object) -> dict[object, tuple[Process, ...]]:
        looks.append(host.monotonic())
        return {BDF: ()}

    monkeypatch.setattr(host, "vfio_users", users)
    custody.await_closed(replace(at_work(host), users=(QEMU,)))
    assert looks == [pytest.approx(10.25, abs=0.02)]


def test_a_recovery_that_runs_out_of_time_gives_nothing_up() -> None:
    host = idle(SM951, Fault.CONFIG_FROZEN)
    work = replace(at_work(host), deadline=Deadline(host.monotonic, 0.0))
    with pytest.raises(OutOfTime):
        custody.verify(work)
    assert host.records.all == []
    journal.claim(host, UUID, [BDF])
    host.policy_text = "deadline = 0.5\ndeadline_cap = 0.5\n"
    assert call(host, "release", BDF) == 0
    assert owned(host, UUID) == (BDF,)


def test_what_the_hosts_driver_does_not_bring_up_is_put_back_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = SimHost()
    host.add(BDF, SM951)
    work = at_work(host)
    work.undo.keep("reset_method", "bus")
    monkeypatch.setattr(host, "nvme_state", lambda _: "connecting")
    with pytest.raises(HookError, match="back with the host, not live"):
        custody.verify(work)
    assert host.read_attr(BDF, "reset_method") == "bus"
    assert host.records.all == []


def test_a_driver_that_gives_up_while_it_is_waited_for_leaves_a_drive_to_mend() -> None:
    host = SimHost()
    host.add(BDF, ORDINARY, faults=Fault.RDY_STUCK)
    host.device(BDF).set_driver("nvme", "connecting")
    host.device(BDF).set_driver_later(host.monotonic() + 2.0, None, None)
    assert custody.verify(at_work(host)).startswith("live: controller and flr and probe, ")


def test_what_cannot_be_verified_is_told(caplog: pytest.LogCaptureFixture) -> None:
    host = SimHost(lockdown=True)
    host.viable = False
    host.add(BDF, ORDINARY, driver="vfio-pci")
    assert custody.clean(at_work(host)) == "not verified: its registers cannot be read"
    assert len([each for each in caplog.messages if "registers cannot be read: " in each]) == 1


def test_only_release_takes_a_function_away() -> None:
    host = idle(SM951, Fault.RESCAN_CURES)
    assert call(host, "start", BDF) == 0
    host.function(BDF).frozen = True
    assert call(host, "stopped", BDF) == 0
    assert "remove=1" not in host.texts()
    assert call(host, "release", BDF) == 0
    assert "remove=1" in host.texts()


@pytest.mark.parametrize(
    ("operation", "hint"),
    [
        ("stopped", f"virt-nvme-reset recover {BDF}; if that fails, power the host off and on"),
        ("release", "power the host off and on: nothing less brings such a drive back"),
    ],
)
def test_the_last_word_on_a_drive_that_is_gone_says_what_a_person_can_do(
    operation: str, hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    """libvirt shows nobody what these two print: the journal is all there is."""
    host = idle()
    journal.claim(host, UUID, [BDF])
    host.function(BDF).frozen = True
    assert call(host, operation, BDF) == 0
    assert errors(caplog)[-1].endswith(f" (hint: {hint})")


def test_lockdown_hides_no_drive_that_the_hosts_driver_does_not_bring_up() -> None:
    """What cannot be read cannot be verified; but whether nvme is live can be seen."""
    host = SimHost(lockdown=True)
    host.add(BDF, ORDINARY, driver=None, faults=Fault.RDY_STUCK, beside=["0000:01:00.1"])
    with pytest.raises(LadderExhausted, match="not live after probe, remove/rescan, probe: "):
        custody.verify(at_work(host))


@pytest.mark.parametrize("operation", ["prepare", "start", "stopped", "release"])
def test_a_controller_that_a_process_is_stuck_with_is_left_alone(
    operation: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even its lock is waited for: that process has it."""
    host = idle()
    journal.claim(host, UUID, [BDF])
    marks.mark_stuck(host, BDF, Stuck(f"{BDF}: writing '1' to reset", pid=7, started=7))
    monkeypatch.setattr(host, "runs", lambda *_: True)
    host.occupy(BDF, 1000.0)
    began = host.monotonic()
    assert call(host, operation, BDF) == int(operation in ("prepare", "start"))
    assert host.monotonic() == began
    assert "an earlier hook is still in the kernel with it: writing '1' to reset" in caplog.text
    assert host.texts() == []
    assert owned(host, UUID) == (BDF,)


@pytest.mark.parametrize(
    ("taken", "policy", "status", "seconds"),
    [
        pytest.param(3.0, "", 0, 3.0, id="waited for"),
        pytest.param(60.0, "", 1, 5.0, id="not for ever"),
        pytest.param(60.0, "deadline = 2\n", 1, 2.0, id="nor past the deadline"),
    ],
)
def test_a_lock_that_another_hook_has(
    taken: float, policy: str, status: int, seconds: float
) -> None:
    host = idle()
    host.policy_text = policy
    host.occupy(BDF, taken)
    began = host.monotonic()
    assert call(host, "start", BDF) == status
    assert host.monotonic() - began == pytest.approx(seconds, abs=0.05)


def test_who_watches_is_told_what_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should it take for ever, these words are what is reported."""
    host, said = idle(), list[str]()
    monkeypatch.setattr(host, "doing", said.append)
    journal.claim(host, UUID, [BDF])
    assert call(host, "stopped", BDF) == 0
    assert said == [
        "waiting for another hook to finish with it",
        "waiting for vfio's last close",
        "clear CC.EN and CC.SHN",
        "wait for CSTS.RDY=0, 30.5 s at most",
        "reset by flr",
        "wait for configuration space, 5.0 s at most",
    ]


@pytest.mark.parametrize("opened", [False, True], ids=["the host's", "a guest's"])
def test_power_and_command_are_the_owners(opened: bool) -> None:
    """laptop-mode lets disks sleep, too; and vfio's COMMAND is the guest's."""
    host = idle(driver="vfio-pci" if opened else "nvme")
    host.write_attr(BDF, "power/control", "auto")
    host.device(BDF).enable_count = 1
    host.trace.clear()
    work = at_work(host)
    host.function(BDF).write_config(0x04, DECODE_OFF)
    look(work)
    assert (host.texts(), host.records.all) == ([], [])
    work.undo.keep("power/control", "on")
    work.undo.keep("COMMAND", "0x0507")
    custody.put_back(work)
    assert host.texts() == []
    # What is put back while a guest has it would be its guard, too.
    assert host.records.all == ([f"journal/{BDF}"] if opened else [])
    assert host.violations == []


def test_what_lockdown_forbids_to_put_back_is_given_up() -> None:
    host = idle()
    work = at_work(host)
    work.undo.keep("COMMAND", "0x0101")
    host.lockdown = True
    assert custody.put_back(work) == "everything is as it was"
    assert host.records.all == []


@pytest.mark.parametrize("driver", ["vfio-pci", None])
def test_decoding_changes_one_bit_of_command(driver: str | None) -> None:
    host = idle(driver=driver)
    host.write_config(BDF, 0x04, b"\x05\x01")
    look(at_work(host))
    assert host.read_config(BDF, 0x04, 2) == b"\x07\x01"
