# SPDX-License-Identifier: LGPL-2.1-or-later
"""The engine on simulated drives: every fault, and the whole trace of what was done to the drive.

A drive here is on vfio-pci, awake and idle, as the host's nvme driver left it at unbind:
CC=0x00464061 CSTS=0x00000009.
"""

import errno
from contextlib import nullcontext

import pytest

from libvirt_hooks import custody
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.engine import Outcome, await_ready, clear_enable, reach
from libvirt_hooks.errors import (
    DeviceBusy,
    DeviceGone,
    HookError,
    LadderExhausted,
    RegistersUnreadable,
    SysfsError,
)
from libvirt_hooks.journal import Undo
from libvirt_hooks.ladder import Method
from libvirt_hooks.methods import write_methods
from libvirt_hooks.plan import Goal
from libvirt_hooks.power import decode, wake
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.models import A80C, ORDINARY, P3700, PM1725, SM951, SM2262, Model

from .lives import BDF, at_work

CLEARED = "CC=0x00460060"
CONTROLLER, FLR, BUS = Method.CONTROLLER, Method.FLR, Method.BUS


def drive(model: Model, faults: Fault = Fault.NONE, *, pristine: bool = False) -> SimHost:
    """A machine with one awake drive; what happened until now is forgotten."""
    host = SimHost()
    host.add(BDF, model, driver="vfio-pci", faults=faults, pristine=pristine)
    host.write_attr(BDF, "power/control", "on")
    host.trace.clear()
    return host


def run(host: SimHost, goal: Goal) -> Outcome:
    return reach(at_work(host), goal)


def flr(*inside: str, restore: str = "flr bus") -> list[str]:
    """What an FLR by the kernel looks like."""
    return ["reset_method=flr", "reset=1", "reset flr", *inside, f"reset_method={restore}"]


def bus(*inside: str) -> list[str]:
    return ["reset_method=bus", "reset=1", "bus reset", *inside, "reset_method=flr bus"]


DISABLED = [CLEARED, "CSTS.RDY=0"]


@pytest.mark.parametrize(
    ("model", "faults", "goal", "expected", "seconds"),
    [
        pytest.param(SM951, Fault.NONE, Goal.DISABLED, DISABLED, 0.002, id="disable"),
        pytest.param(
            ORDINARY,
            Fault.KEEPS_QUEUES,
            Goal.PRISTINE,
            DISABLED + flr(),
            0.104,
            id="queue registers that outlive an FLR: one is enough",
        ),
        pytest.param(
            SM951, Fault.NONE, Goal.PRISTINE, DISABLED + flr(), 0.104, id="disable, then FLR"
        ),
        pytest.param(
            ORDINARY, Fault.SLOW_RDY, Goal.DISABLED, DISABLED, 3.0, id="RDY falls after 3 s"
        ),
        pytest.param(
            ORDINARY,
            Fault.RDY_STUCK,
            Goal.DISABLED,
            [CLEARED, *flr()],
            8.1,
            id="RDY stuck, ordinary: FLR",
        ),
        pytest.param(
            SM951,
            Fault.RDY_STUCK,
            Goal.DISABLED,
            [CLEARED, *bus()],
            30.6,
            id="RDY stuck, SM951: bus",
        ),
        pytest.param(
            ORDINARY, Fault.CFS, Goal.DISABLED, [CLEARED, *flr()], 0.6, id="CFS: 0.5 s, then FLR"
        ),
        pytest.param(
            SM951, Fault.CFS, Goal.DISABLED, [CLEARED, *bus()], 0.6, id="CFS, SM951: never FLR"
        ),
        pytest.param(
            ORDINARY,
            Fault.CFS_ON_DISABLE,
            Goal.DISABLED,
            [CLEARED, "CSTS.CFS=1", *flr()],
            0.6,
            id="CFS when disabled",
        ),
        pytest.param(
            ORDINARY,
            Fault.ENABLING,
            Goal.DISABLED,
            ["CSTS.RDY=1", "CC=0x00460060", "CSTS.RDY=0"],
            2.0,
            id="EN=1 RDY=0: waits for RDY before it clears EN",
        ),
        pytest.param(
            PM1725, Fault.NONE, Goal.DISABLED, DISABLED, 2.3, id="CSTS left alone for 2.3 s"
        ),
        pytest.param(
            P3700,
            Fault.NONE,
            Goal.PRISTINE,
            DISABLED + flr(restore="device_specific flr bus"),
            0.354,
            id="left alone for 250 ms after the FLR",
        ),
        pytest.param(
            A80C, Fault.NONE, Goal.PRISTINE, DISABLED + flr(), 0.154, id="false Immediate Readiness"
        ),
        pytest.param(
            SM2262, Fault.NONE, Goal.PRISTINE, DISABLED + bus(), 0.116, id="bus, where FLR damages"
        ),
        pytest.param(
            ORDINARY,
            Fault.RESET_EIO,
            Goal.DISABLED,
            DISABLED,
            0.002,
            id="a kernel that cannot reset is not asked to",
        ),
    ],
)
def test_reaches_its_goal(
    model: Model, faults: Fault, goal: Goal, expected: list[str], seconds: float
) -> None:
    host = drive(model, faults)
    began = host.monotonic()
    outcome = run(host, goal)
    assert goal.reached(outcome.after, was_reset=FLR in outcome.tried)
    assert host.texts(BDF) == expected
    assert host.monotonic() - began == pytest.approx(seconds, abs=0.02, rel=0.02)
    assert host.violations == []


@pytest.mark.parametrize(
    ("model", "faults", "expected", "said"),
    [
        pytest.param(
            ORDINARY,
            Fault.RESET_EIO,
            [
                *DISABLED,
                *("reset_method=flr", "reset=1", "reset failed: EIO", "reset: EIO"),
                "reset_method=flr bus",
                *("reset_method=bus", "reset=1", "reset failed: EIO", "reset: EIO"),
                "reset_method=flr bus",
            ],
            "0000:01:00.0: not pristine after controller, flr, bus: CC=0x00460060"
            " CSTS=0x00000000 (RDY=0 CFS=0 SHST=0 NSSRO=0 PP=0);"
            " pm: the kernel does not offer it for this device",
            id="EIO: the next rung, reset_method back each time",
        ),
        pytest.param(
            ORDINARY,
            Fault.RESET_ENOTTY,
            [
                *DISABLED,
                *("reset_method=flr", "reset=1", "reset failed: ENOTTY", "reset: ENOTTY"),
                "reset_method=flr bus",
                *("reset_method=bus", "reset=1", "reset failed: ENOTTY", "reset: ENOTTY"),
                "reset_method=flr bus",
            ],
            "0000:01:00.0: not pristine after controller, flr, bus: CC=0x00460060"
            " CSTS=0x00000000 (RDY=0 CFS=0 SHST=0 NSSRO=0 PP=0);"
            " pm: the kernel does not offer it for this device",
            id="ENOTTY",
        ),
        pytest.param(
            ORDINARY,
            Fault.NO_RESET_METHOD,
            DISABLED,
            "0000:01:00.0: not pristine after controller: CC=0x00460060"
            " CSTS=0x00000000 (RDY=0 CFS=0 SHST=0 NSSRO=0 PP=0);"
            " flr: the kernel does not offer it for this device;"
            " pm: the kernel does not offer it for this device;"
            " bus: the kernel does not offer it for this device",
            id="no reset_method: says so for each",
        ),
    ],
)
def test_says_what_it_tried_and_why_no_more(
    model: Model, faults: Fault, expected: list[str], said: str
) -> None:
    host = drive(model, faults)
    with pytest.raises(LadderExhausted) as caught:
        run(host, Goal.PRISTINE)
    assert caught.value.message == said
    assert host.texts(BDF) == expected
    assert host.violations == []


class AllOnes:
    """A BAR that nobody answers, though configuration space does; counts accesses."""

    def __init__(self, answer: int = 0xFFFFFFFF) -> None:
        self.reads: list[int] = []
        self.answer = answer

    def read32(self, offset: int) -> int:
        self.reads.append(offset)
        return self.answer

    def write32(self, offset: int, value: int) -> None:
        raise AssertionError(f"{value:#x} written to {offset:#x} of a controller that is gone")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> tuple[SimHost, AllOnes]:
    host, bar = drive(ORDINARY), AllOnes()
    monkeypatch.setattr(host, "registers", lambda _: nullcontext(bar))
    return host, bar


def test_a_bar_that_reads_all_ones_is_asked_for_cap_and_no_more(
    silent: tuple[SimHost, AllOnes],
) -> None:
    host, bar = silent
    with pytest.raises(DeviceGone, match="registers read CAP=0xffffffffffffffff"):
        run(host, Goal.PRISTINE)
    assert bar.reads == [0x00, 0x04]


def test_a_bar_that_reads_zeros_is_not_taken_for_pristine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = drive(SM951)
    monkeypatch.setattr(host, "registers", lambda _: nullcontext(AllOnes(answer=0)))
    with pytest.raises(DeviceGone, match="registers read CAP=0x0000000000000000"):
        run(host, Goal.DISABLED)
    assert host.texts(BDF) == []


def test_a_drive_that_goes_between_two_looks_is_not_written(
    silent: tuple[SimHost, AllOnes],
) -> None:
    host, bar = silent
    assert clear_enable(at_work(host)) == "CC=0xffffffff: nobody answers"
    assert bar.reads == [0x14]


def test_a_wait_for_a_drive_that_went_ends_at_once(silent: tuple[SimHost, AllOnes]) -> None:
    host, bar = silent
    assert await_ready(at_work(host), False, 8.0) == "CSTS=0xffffffff: nobody answers"
    assert bar.reads == [0x1C]


def test_all_ones_are_no_capability_that_puts_the_deadline_off(
    silent: tuple[SimHost, AllOnes],
) -> None:
    host, _ = silent
    work = at_work(host)
    with pytest.raises(DeviceGone):
        reach(work, Goal.DISABLED)
    assert work.deadline.left <= 200.0


def test_a_drive_that_never_gets_ready_is_not_disabled_but_reset() -> None:
    """With EN=1 and RDY=0 a change of EN is undefined: what the wait came to ends the rung."""
    host = drive(ORDINARY, Fault.ENABLING)
    host.function(BDF).controller._rdy_due = None
    assert run(host, Goal.DISABLED).tried == (CONTROLLER, FLR)
    assert host.texts(BDF) == flr()


def test_every_rung_is_told_with_what_it_changed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run(drive(SM951), Goal.DISABLED)
    told = caplog.records[-1]
    assert told.getMessage() == "0000:01:00.0: controller: shut down -> disabled"
    fields = vars(told)["fields"]
    assert float(fields.pop("ELAPSED_MS")) == pytest.approx(2.0, abs=0.5)
    assert fields == {
        "PCI_BDF": "0000:01:00.0",
        "METHOD": "controller",
        "CC_BEFORE": "0x00464061",
        "CSTS_BEFORE": "0x00000009",
        "CC_AFTER": "0x00460060",
        "CSTS_AFTER": "0x00000000",
    }


def refuses(host: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither power nor COMMAND can be changed."""

    def refused(bdf: Bdf, name: object, *_: object) -> None:
        raise SysfsError(bdf, f"writing to {name}", errno.EPERM)

    monkeypatch.setattr(host, "write_config", refused)
    monkeypatch.setattr("libvirt_hooks.power.wake", lambda _: None)


def test_memory_decode_off_is_seen_before_a_register_is_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = drive(SM951)
    host.write_config(BDF, 0x04, b"\x00\x01")
    refuses(host, monkeypatch)
    with pytest.raises(RegistersUnreadable, match="memory decode is off: COMMAND=0x0100"):
        run(host, Goal.DISABLED)
    assert host.violations == []


def test_the_journal_knows_reset_method_before_it_is_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = drive(ORDINARY)
    undo, kept = Undo(host, BDF), []
    write = host.write_attr

    def spy(bdf: Bdf, name: str, value: str) -> None:
        kept.append((name, value, undo.original("reset_method")))
        write(bdf, name, value)

    monkeypatch.setattr(host, "write_attr", spy)
    run(host, Goal.PRISTINE)
    assert kept == [
        ("reset_method", "flr", "flr bus"),
        ("reset", "1", "flr bus"),
        ("reset_method", "flr bus", "flr bus"),
    ]
    assert host.records.names("journal") == []


def test_a_reset_under_a_guard_leaves_the_guards_entry() -> None:
    host = drive(ORDINARY)
    undo = Undo(host, BDF)
    undo.keep("reset_method", "flr bus")
    host.write_attr(BDF, "reset_method", "bus")
    run(host, Goal.PRISTINE)
    assert host.read_attr(BDF, "reset_method") == "bus"
    assert undo.original("reset_method") == "flr bus"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("flr bus", "flr", id="most of it"),
        pytest.param("bus", "device_specific flr", id="default"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_methods_that_the_kernel_takes_no_more(before: str, after: str) -> None:
    """`bus` was offered until the bus had a neighbour."""
    host = drive(P3700)
    host.add("0000:01:00.1")
    write_methods(at_work(host), before.split())
    assert host.read_attr(BDF, "reset_method") == after


def test_waking_waits_until_the_function_is_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    host = drive(SM951)
    states = iter(["D3hot", "D3hot", "D0"])
    monkeypatch.setattr("libvirt_hooks.power.read_power_state", lambda *_: next(states))
    wake(at_work(host))
    assert next(states, None) is None


def test_a_function_without_power_control_is_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = drive(SM951)
    monkeypatch.setattr(host, "read_attr", lambda *_: None)
    wake(at_work(host))
    assert host.texts() == []


def test_command_of_a_function_that_goes_is_not_believed() -> None:
    host = drive(SM951)
    host.function(BDF).frozen = True
    decode(at_work(host))
    assert (host.texts(), host.records.all) == ([], [])


def test_waking_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    host = drive(SM951)
    monkeypatch.setattr("libvirt_hooks.power.read_power_state", lambda *_: "D3cold")
    began = host.monotonic()
    wake(at_work(host))
    assert host.monotonic() - began == pytest.approx(1.0, abs=0.01)


def test_a_drive_that_an_flr_freezes_is_gone() -> None:
    host = drive(ORDINARY, Fault.GONE_AFTER_FLR)
    with pytest.raises(DeviceGone) as caught:
        run(host, Goal.PRISTINE)
    assert caught.value.message == (
        "0000:01:00.0: does not answer: configuration space reads 0xffff, expected 1b36:0010"
    )
    assert host.texts(BDF) == [
        *DISABLED,
        *("reset_method=flr", "reset=1", "reset flr", "gone after FLR"),
        *("not ready 65535ms; giving up", "reset: ENOTTY"),
        "reset_method=flr bus",
    ]


def test_nothing_is_done_to_a_drive_that_is_gone() -> None:
    host = drive(SM951, Fault.CONFIG_FROZEN)
    began = host.monotonic()
    with pytest.raises(DeviceGone):
        run(host, Goal.PRISTINE)
    assert host.texts(BDF) == []
    assert host.monotonic() - began < 0.05


def test_nothing_is_done_to_a_pristine_drive() -> None:
    host = drive(SM951, pristine=True)
    assert run(host, Goal.PRISTINE).tried == ()
    assert host.texts(BDF) == []


def test_registers_are_not_believed_in_d3hot(monkeypatch: pytest.MonkeyPatch) -> None:
    for faults in (Fault.NONE, Fault.D3HOT_READS_ZERO):
        host = drive(SM951, faults)
        host.write_attr(BDF, "power/control", "auto")
        host.trace.clear()
        refuses(host, monkeypatch)
        with pytest.raises(RegistersUnreadable, match="asleep in D3hot"):
            run(host, Goal.DISABLED)
        assert host.texts(BDF) == []
        assert host.violations == []


def test_waking_comes_first_in_every_job() -> None:
    for faults in (Fault.NONE, Fault.D3HOT_READS_ZERO):
        host = SimHost()
        host.add(BDF, SM951, driver="vfio-pci", faults=faults)
        assert custody.clean(at_work(host)) == "pristine: controller and flr, 112.0 ms"
        assert host.read_attr(BDF, "power/control") == "auto"
        assert host.read_attr(BDF, "power_state") == "D3hot"
        assert host.violations == []


def test_memory_decode_is_put_back_as_it_was() -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    host.write_config(BDF, 0x04, (0x0100).to_bytes(2, "little"))
    custody.clean(at_work(host))
    assert host.read_config(BDF, 0x04, 2) == (0x0100).to_bytes(2, "little")
    assert host.violations == []


def test_under_lockdown_nothing_is_reset_blindly() -> None:
    host = SimHost(lockdown=True)
    host.viable = False
    host.add(BDF, ORDINARY, driver="vfio-pci")
    assert custody.clean(at_work(host)) == "not verified: its registers cannot be read"
    assert "reset=1" not in host.texts(BDF)


def test_an_open_device_is_left_alone() -> None:
    host = drive(SM951)
    host.device(BDF).vfio.references = 1
    host.device(BDF).enable_count = 1
    with pytest.raises(HookError, match="open through vfio already"):
        custody.clean(at_work(host))
    with pytest.raises(DeviceBusy, match="vfio has it open by now"):
        run(host, Goal.PRISTINE)
    assert host.texts(BDF) == []
    assert host.violations == []


def test_a_driver_that_owns_the_registers_is_left_alone() -> None:
    host = SimHost()
    host.add(BDF, SM951)
    with pytest.raises(DeviceBusy, match="driver nvme has it by now"):
        run(host, Goal.PRISTINE)
    assert host.texts(BDF) == []
    assert host.violations == []
