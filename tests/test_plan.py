# SPDX-License-Identifier: LGPL-2.1-or-later
"""decide(): the ladder's choices, one line a case."""

from typing import Any

import pytest

from libvirt_hooks.ladder import (
    LADDER,
    PROBE,
    RECOVERY,
    AwaitConfig,
    AwaitLive,
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
        pytest.param(seen(0x464060, 0x0), (ClearEnable(), READY_OFF), id="EN=0, SHN left over"),
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


def ways(observation: Observation, goal: Goal) -> list[Method]:
    """All that is tried of a drive that nothing changes."""
    tried: list[Method] = []
    while isinstance(decided := decide(observation, tried, goal, recovering=True), Try):
        tried.append(decided.method)
    return tried


ALL_OFFERED: dict[str, Any] = {"offered": ("flr", "pm", "bus"), "slot": "7"}
FROZEN: dict[str, Any] = {"config_vendor": 0xFFFF, "registers": None, "slot": "7"}
AWAY = [Method.RESCAN, Method.BUS_RESCAN, Method.SLOT]


@pytest.mark.parametrize(
    ("observation", "goal", "expected"),
    [
        pytest.param(
            seen(*STUCK, **ALL_OFFERED),
            Goal.PRISTINE,
            [CONTROLLER, FLR, PM, BUS, *AWAY],
            id="the gentlest first, and nothing is left out",
        ),
        pytest.param(
            seen(*STUCK, **ALL_OFFERED, vendor=0x8086, device=0xF1A6),
            Goal.PRISTINE,
            [CONTROLLER, BUS, FLR, PM, *AWAY],
            id="a drive that an FLR damages",
        ),
        pytest.param(seen(**FROZEN), Goal.PRISTINE, AWAY, id="frozen: no reset"),
        pytest.param(
            seen(**FROZEN, neighbours=(NEIGHBOUR,)),
            Goal.PRISTINE,
            [Method.RESCAN],
            id="frozen beside another function",
        ),
        pytest.param(
            seen(**{**FROZEN, "port": None}),
            Goal.PRISTINE,
            [Method.RESCAN, Method.SLOT],
            id="frozen on a root bus",
        ),
        pytest.param(
            seen(**{**FROZEN, "slot": None}), Goal.PRISTINE, AWAY[:2], id="frozen in no slot"
        ),
        pytest.param(
            seen(driver="nvme", nvme_state="dead", registers=None, slot="7"),
            Goal.LIVE,
            AWAY,
            id="the host's driver has given up and is still there",
        ),
        pytest.param(
            seen(driver=None, registers=None, unreadable="kernel lockdown", slot="7"),
            Goal.LIVE,
            [Method.PROBE, *(each for way in AWAY for each in (way, Method.PROBE))],
            id="unreadable without a driver: the probe will tell, each time anew",
        ),
        pytest.param(
            seen(driver=None, offered=(), slot="7"),
            Goal.LIVE,
            [Method.PROBE, *(each for way in AWAY for each in (way, Method.PROBE))],
            id="disabled, and the host's driver does not take it",
        ),
    ],
)
def test_every_way_to_a_goal(observation: Observation, goal: Goal, expected: list[Method]) -> None:
    assert ways(observation, goal) == expected


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        pytest.param({}, 10.0 + seen().registers.cap.ready_timeout, id="as slow as it may be"),  # type: ignore[union-attr]
        pytest.param({"registers": None, "unreadable": "lockdown"}, 10.0, id="nobody knows"),
        pytest.param({"registers": GONE}, 10.0, id="all ones are no time"),
    ],
)
def test_the_hosts_driver_gets_the_drives_time_too(changes: Any, seconds: float) -> None:
    for rung in (PROBE, *RECOVERY):
        *_, last = rung.steps(seen(driver=None, port=None, slot="7", **changes))
        assert last == AwaitLive(seconds)


def test_what_somebody_else_has_bound_will_not_be_the_hosts() -> None:
    observation = seen(*STUCK, driver="vfio-pci", **ALL_OFFERED)
    assert decide(observation, [], Goal.LIVE, recovering=True) == GiveUp({})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(SHUT_DOWN, CONTROLLER, id="shut down, as the host's driver leaves it"),
        pytest.param(STUCK, Method.BUS_RESCAN, id="stuck still: the ladder did not help before"),
    ],
)
def test_the_ladder_is_tried_again_on_what_was_enumerated_anew(
    words: tuple[int, int], expected: Method
) -> None:
    tried = [CONTROLLER, FLR, PM, BUS, Method.RESCAN]
    decided = decide(
        seen(*words, **ALL_OFFERED), tried, Goal.PRISTINE, was_reset=True, recovering=True
    )
    assert isinstance(decided, Try)
    assert decided.method is expected


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({**FROZEN, "open": True}, "vfio has it open", id="open"),
        pytest.param(
            {**FROZEN, "driver": "nvme", "nvme_state": "resetting"},
            "the host's nvme driver has it: resetting",
            id="the host's driver is at work",
        ),
        pytest.param(
            {**FROZEN, "driver": "nvme"},
            "the host's nvme driver has it: probing",
            id="the host's driver has just come",
        ),
        pytest.param(
            {**FROZEN, "driver": "uio_pci_generic"}, "driver uio_pci_generic has it", id="SPDK's"
        ),
        pytest.param(
            {**FROZEN, "virtual_functions": 2},
            "would also take away its 2 virtual functions",
            id="virtual functions",
        ),
        pytest.param(
            {"registers": None, "unreadable": "kernel lockdown"},
            "nothing says that it needs it: kernel lockdown",
            id="unreadable on vfio-pci",
        ),
    ],
)
def test_what_is_never_taken_away(changes: dict[str, Any], why: str) -> None:
    decided = decide(seen(**{**changes, "slot": "7"}), [], Goal.PRISTINE, recovering=True)
    assert isinstance(decided, GiveUp)
    assert [decided.refusals[method] for method in AWAY] == [why] * 3


@pytest.mark.parametrize(
    ("observation", "why"),
    [
        pytest.param(
            seen(driver="nvme", nvme_state="dead", registers=None),
            "driver nvme has it",
            id="the host's driver has given up and is still there",
        ),
        pytest.param(seen(driver=None, **FROZEN), "it does not answer", id="frozen"),
        pytest.param(
            seen(*STUCK, driver=None),
            "it is not disabled: CC=0x00460060 CSTS=0x00000001 (RDY=1 CFS=0 SHST=0 NSSRO=0 PP=0)",
            id="not disabled",
        ),
    ],
)
def test_when_the_hosts_driver_is_not_asked_to_probe(observation: Observation, why: str) -> None:
    tried = [rung.method for rung in (*RECOVERY, *LADDER)]
    decided = decide(observation, tried, Goal.LIVE, recovering=True)
    assert isinstance(decided, GiveUp)
    assert decided.refusals == {Method.PROBE: why}


def test_every_method_is_a_rung() -> None:
    assert {rung.method for rung in (*LADDER, PROBE, *RECOVERY)} == set(Method)
