# SPDX-License-Identifier: LGPL-2.1-or-later
"""decide(): the ladder's choices, one line a case."""

import pytest

from libvirt_hooks.ladder import (
    LADDER,
    PROBE,
    RECOVERY,
    AwaitConfig,
    AwaitReady,
    ClearEnable,
    KernelReset,
    Method,
    Settle,
    Step,
)
from libvirt_hooks.observe import GONE, Observation
from libvirt_hooks.pci import ResetMethod
from libvirt_hooks.plan import Done, GiveUp, Goal, Try, decide

from .observations import NEIGHBOUR, registers, seen, sm951

SHUT_DOWN = (0x00464061, 0x9)
CONTROLLER, FLR, PM, BUS = Method.CONTROLLER, Method.FLR, Method.PM, Method.BUS
DIRTY = registers(aqa=0x001F001F, asq=0x1000)
STUCK = (0x00460060, 0x1)


def choice(observation: Observation, tried: list[Method], goal: Goal) -> Method | str:
    match decide(observation, tried, goal):
        case Done():
            return "done"
        case GiveUp():
            return "give up"
        case Try(method, _):
            return method


@pytest.mark.parametrize(
    ("observation", "tried", "goal", "expected"),
    [
        pytest.param(seen(), [], Goal.DISABLED, "done", id="disabled already"),
        pytest.param(seen(), [], Goal.PRISTINE, "done", id="pristine already"),
        pytest.param(
            seen(registers=DIRTY), [], Goal.DISABLED, "done", id="old queues do not matter at start"
        ),
        pytest.param(
            seen(registers=DIRTY), [], Goal.PRISTINE, FLR, id="old queues need a reset, not EN"
        ),
        pytest.param(sm951(*SHUT_DOWN), [], Goal.DISABLED, CONTROLLER, id="gentlest first"),
        pytest.param(seen(0x0, 0x2), [], Goal.DISABLED, FLR, id="CFS is not disabled, RDY or not"),
        pytest.param(sm951(*SHUT_DOWN), [], Goal.PRISTINE, CONTROLLER, id="never FLR first"),
        pytest.param(
            sm951(registers=DIRTY), [CONTROLLER], Goal.PRISTINE, FLR, id="FLR once EN=0 is seen"
        ),
        pytest.param(
            sm951(*STUCK), [CONTROLLER], Goal.DISABLED, BUS, id="lethal, RDY stuck: bus, not FLR"
        ),
        pytest.param(
            sm951(0, 0x8), [CONTROLLER], Goal.DISABLED, BUS, id="lethal, SHST set: not FLR"
        ),
        pytest.param(
            sm951(*STUCK, neighbours=(NEIGHBOUR,)),
            [CONTROLLER],
            Goal.DISABLED,
            "give up",
            id="never resets a neighbour",
        ),
        pytest.param(seen(*STUCK), [CONTROLLER], Goal.DISABLED, FLR, id="ordinary, RDY stuck: FLR"),
        pytest.param(seen(*STUCK), [CONTROLLER, FLR], Goal.DISABLED, BUS, id="then bus"),
        pytest.param(
            seen(*STUCK, offered=("flr", "pm", "bus")),
            [CONTROLLER, FLR],
            Goal.DISABLED,
            PM,
            id="pm before bus where it exists",
        ),
        pytest.param(
            seen(*STUCK), [CONTROLLER, FLR, BUS], Goal.DISABLED, "give up", id="each rung once"
        ),
        pytest.param(
            seen(*STUCK, virtual_functions=2),
            [CONTROLLER],
            Goal.DISABLED,
            "give up",
            id="never resets a PF with VFs",
        ),
        pytest.param(
            seen(*STUCK, offered=("pm",), virtual_functions=2),
            [CONTROLLER],
            Goal.DISABLED,
            "give up",
            id="not even by pm",
        ),
        pytest.param(
            seen(*STUCK, offered=(), reset_methods=()),
            [CONTROLLER],
            Goal.DISABLED,
            "give up",
            id="only what the kernel offers",
        ),
        pytest.param(
            seen(*STUCK, offered=("bus",), reset_methods=("flr", "bus")),
            [CONTROLLER],
            Goal.DISABLED,
            BUS,
            id="what was ruled out before our guard stays ruled out",
        ),
        pytest.param(seen(registers=GONE), [], Goal.DISABLED, "give up", id="registers all ones"),
        pytest.param(seen(config_vendor=0xFFFF), [], Goal.PRISTINE, "give up", id="config frozen"),
        pytest.param(
            seen(registers=None, unreadable="x"), [], Goal.PRISTINE, "give up", id="never blind"
        ),
        pytest.param(
            seen(registers=DIRTY, vendor=0x8086, device=0xF1A6),
            [],
            Goal.PRISTINE,
            BUS,
            id="a drive that an FLR damages: bus first",
        ),
        pytest.param(
            seen(registers=DIRTY, vendor=0x8086, device=0xF1A6, neighbours=(NEIGHBOUR,)),
            [],
            Goal.PRISTINE,
            FLR,
            id="but not at a neighbour's cost",
        ),
    ],
)
def test_decide(
    observation: Observation, tried: list[Method], goal: Goal, expected: Method | str
) -> None:
    assert choice(observation, tried, goal) == expected


@pytest.mark.parametrize(
    ("observation", "goal", "expected"),
    [
        pytest.param(seen(registers=DIRTY), Goal.PRISTINE, "done", id="disabled: no more to gain"),
        pytest.param(seen(*STUCK), Goal.PRISTINE, BUS, id="not disabled: on to the next rung"),
    ],
)
def test_queues_that_outlive_a_reset(
    observation: Observation, goal: Goal, expected: Method | str
) -> None:
    match decide(observation, [CONTROLLER, FLR], goal, was_reset=True):
        case Try(method, _):
            assert method == expected
        case Done():
            assert expected == "done"


def steps(observation: Observation, tried: list[Method]) -> tuple[Step, ...]:
    decided = decide(observation, tried, Goal.PRISTINE)
    assert isinstance(decided, Try)
    return decided.steps


READY_OFF = AwaitReady(False, 8.0)


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        pytest.param(seen(0x460001, 0x1), (ClearEnable(), READY_OFF), id="ready"),
        pytest.param(seen(*SHUT_DOWN), (ClearEnable(), READY_OFF), id="shut down"),
        pytest.param(
            seen(0x460001, 0x0),
            (AwaitReady(True, 8.0), ClearEnable(), READY_OFF),
            id="EN=1 RDY=0: wait before EN changes",
        ),
        pytest.param(
            seen(0x464001, 0x8),
            (AwaitReady(True, 8.0), ClearEnable(), READY_OFF),
            id="EN=1 RDY=0 whatever SHST says",
        ),
        pytest.param(seen(0x1, 0x2), (ClearEnable(), READY_OFF), id="CFS: RDY will not rise"),
        pytest.param(seen(0x0, 0x1), (READY_OFF,), id="EN=0 RDY=1: only wait"),
        pytest.param(
            seen(0x460001, 0x1, vendor=0x144D, device=0xA821),
            (ClearEnable(), Settle(2.3), READY_OFF),
            id="2.3 s before the first look at CSTS",
        ),
    ],
)
def test_steps_of_the_controller_rung(observation: Observation, expected: tuple[Step, ...]) -> None:
    assert steps(observation, []) == expected


def test_steps_of_an_flr() -> None:
    assert steps(seen(registers=DIRTY), []) == (
        KernelReset(ResetMethod.FLR, ("flr", "bus")),
        AwaitConfig(5.0),
    )


def test_a_reset_puts_back_the_guard_and_not_what_was_before_it() -> None:
    guarded = seen(registers=DIRTY, reset_methods=("bus",))
    assert steps(guarded, [])[0] == KernelReset(ResetMethod.FLR, ("bus",))


def test_settle_time_of_the_table() -> None:
    found = steps(seen(registers=DIRTY, vendor=0x8086, device=0x0953), [])
    assert found[1] == Settle(0.25)


def test_every_refusal_is_told() -> None:
    decided = decide(sm951(*STUCK, neighbours=(NEIGHBOUR,)), [Method.CONTROLLER], Goal.DISABLED)
    assert isinstance(decided, GiveUp)
    assert decided.refusals == {
        FLR: "kills this drive (sm951) unless it is seen disabled:"
        " CC=0x00460060 CSTS=0x00000001 (RDY=1 CFS=0 SHST=0 NSSRO=0 PP=0)",
        PM: "the kernel does not offer it for this device",
        BUS: "would also reset 0000:03:00.1",
    }


def test_no_reset_is_started_on_a_controller_that_is_gone() -> None:
    for observation in (seen(registers=GONE), seen(config_vendor=0xFFFF)):
        decided = decide(observation, [], Goal.PRISTINE)
        assert isinstance(decided, GiveUp)
        why = "the kernel would wait 65 s for a function that does not answer"
        assert [decided.refusals[method] for method in (FLR, PM, BUS)] == [why] * 3


def test_every_method_is_a_rung() -> None:
    assert {rung.method for rung in (*LADDER, PROBE, *RECOVERY)} == set(Method)
