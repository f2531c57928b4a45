# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest's life holds for a controller, a line a case, by hand from facts about the kernel.

``test_forecast_life`` plays such lives.
"""

from typing import Any

import pytest

from libvirt_hooks.forecast import Fate, Moment, State, forecast
from libvirt_hooks.observe import Observation
from libvirt_hooks.policy import Close, GuardChoice

from .observations import NEIGHBOUR, seen, sm951

HOOK, KEEPER = "disabled by the hook before", "disabled by the keeper before"
GUEST, HOST = "as the guest leaves it", "as the host's driver leaves it"
KILL, DAMAGE = "would kill it", "would damage it"
AUTO, KEEP, BUS, NONE = GuardChoice.AUTO, GuardChoice.KEEP, GuardChoice.BUS, GuardChoice.NONE
HOLDER, GUARD = Close.HOLDER, Close.GUARD
SHUT_DOWN = (0x00464061, 0x9)
SPECIFIC = ("device_specific", "flr", "bus")
SHARED: dict[str, Any] = {"neighbours": (NEIGHBOUR,)}
ROOT: dict[str, Any] = {"port": None, "offered": ("flr",)}


def sm961(**changes: Any) -> Observation:
    return sm951(**{"device": 0xA804, "offered": SPECIFIC, **changes})


def sm2262(**changes: Any) -> Observation:
    return seen(vendor=0x126F, device=0x2263, **changes)


def told(fates: tuple[Fate, ...]) -> list[tuple[str | None, str, str]]:
    """Reset, state, and what is not safe about it."""
    assert [fate.moment for fate in fates] == [Moment.OPEN, Moment.REBOOT, Moment.CLOSE]
    return [(fate.reset, fate.state, "" if fate.safe else fate.why) for fate in fates]


@pytest.mark.parametrize(
    ("observation", "choice", "close", "resets"),
    [
        pytest.param(sm951(), AUTO, HOLDER, ("bus", "bus", "flr"), id="lethal, alone: as meant"),
        pytest.param(
            sm951(**SHARED),
            AUTO,
            HOLDER,
            (None, None, None),
            id="lethal, shared: vfio has seen no method work, and asks for none at its close",
        ),
        pytest.param(sm951(**ROOT), AUTO, HOLDER, (None, None, None), id="lethal, on a root bus"),
        pytest.param(
            sm951(offered=("flr",)),
            AUTO,
            HOLDER,
            (None, "bus", "bus"),
            id="lethal, alone, bus ruled out: QEMU and vfio take it all the same",
        ),
        pytest.param(sm951(), NONE, HOLDER, (None, "bus", "bus"), id="so with the guard none"),
        pytest.param(
            sm951(offered=("bus",)), AUTO, HOLDER, ("bus", "bus", "bus"), id="FLR ruled out"
        ),
        pytest.param(sm2262(), AUTO, HOLDER, ("bus",) * 3, id="an FLR damages it: bus"),
        pytest.param(seen(), AUTO, HOLDER, ("flr",) * 3, id="an ordinary one, if so asked"),
        pytest.param(seen(), BUS, HOLDER, ("bus", "bus", "flr"), id="guarded, if so asked"),
        pytest.param(
            sm951(*SHUT_DOWN), AUTO, HOLDER, ("bus", "bus", "flr"), id="whatever it is now"
        ),
        pytest.param(
            sm951(registers=None, driver="nvme", nvme_state="live"),
            AUTO,
            HOLDER,
            ("bus", "bus", "flr"),
            id="whoever has it now",
        ),
        pytest.param(
            sm951(reset_methods=("bus",), open=True, registers=None),
            AUTO,
            HOLDER,
            ("bus", "bus", "flr"),
            id="guarded, and open now",
        ),
    ],
)
def test_with_a_keeper(
    observation: Observation,
    choice: GuardChoice,
    close: Close,
    resets: tuple[str | None, str | None, str | None],
) -> None:
    states = (HOOK, GUEST, KEEPER)
    expected = [(reset, state, "") for reset, state in zip(resets, states, strict=True)]
    assert told(forecast(observation, choice, close)) == expected


def test_no_keeper_comes_between_the_kernels_own_reset_and_its_drive() -> None:
    fates = forecast(sm961(), AUTO, HOLDER)
    assert [(fate.reset, fate.state) for fate in fates] == [
        ("device_specific", HOOK),
        ("device_specific", GUEST),
        ("device_specific", GUEST),
    ]


@pytest.mark.parametrize("close", [GUARD, None])
@pytest.mark.parametrize(
    ("observation", "choice", "resets", "harm"),
    [
        pytest.param(sm951(), AUTO, ("bus",) * 3, ("", "", ""), id="lethal, alone"),
        pytest.param(sm951(**SHARED), AUTO, (None,) * 3, ("", "", ""), id="lethal, shared"),
        pytest.param(sm951(**ROOT), AUTO, (None,) * 3, ("", "", ""), id="lethal, on a root bus"),
        pytest.param(sm951(), NONE, (None, "bus", "bus"), ("", "", ""), id="lethal, none"),
        pytest.param(sm951(), KEEP, ("flr",) * 3, ("", KILL, KILL), id="lethal, not guarded"),
        pytest.param(
            sm951(**SHARED), KEEP, ("flr",) * 3, ("", KILL, KILL), id="lethal, shared, not guarded"
        ),
        pytest.param(
            sm951(**SHARED), BUS, (None,) * 3, ("", "", ""), id="never at a neighbour's cost"
        ),
        pytest.param(
            sm951(offered=("af_flr", "bus")), KEEP, ("af_flr",) * 3, ("", KILL, KILL), id="AF's FLR"
        ),
        pytest.param(
            sm951(offered=("bus", "flr")), KEEP, ("bus",) * 3, ("", "", ""), id="bus before FLR"
        ),
        pytest.param(
            sm951(offered=("bus", "flr"), **SHARED),
            KEEP,
            ("flr",) * 3,
            ("", KILL, KILL),
            id="which the kernel passes over on a shared bus",
        ),
        pytest.param(
            sm951(offered=("bus",), **SHARED), KEEP, (None,) * 3, ("", "", ""), id="only bus there"
        ),
        pytest.param(
            sm951(offered=("acpi", "flr")), KEEP, ("acpi",) * 3, ("", "", ""), id="not an FLR"
        ),
        pytest.param(sm961(), AUTO, ("device_specific",) * 3, ("", "", ""), id="the kernel's own"),
        pytest.param(sm961(), KEEP, ("device_specific",) * 3, ("", "", ""), id="kept, too"),
        pytest.param(sm961(), BUS, ("bus",) * 3, ("", "", ""), id="the policy's over it"),
        pytest.param(seen(), AUTO, ("flr",) * 3, ("", "", ""), id="an ordinary drive"),
        pytest.param(seen(**SHARED), AUTO, ("flr",) * 3, ("", "", ""), id="shared"),
        pytest.param(seen(), BUS, ("bus",) * 3, ("", "", ""), id="guarded by policy"),
        pytest.param(seen(), NONE, (None, "bus", "bus"), ("", "", ""), id="none by policy"),
        pytest.param(
            seen(offered=(), reset_methods=None),
            AUTO,
            (None, "bus", "bus"),
            ("", "", ""),
            id="the kernel has no method",
        ),
        pytest.param(
            seen(offered=("nonesuch", "flr")),
            AUTO,
            ("nonesuch",) * 3,
            ("", "", ""),
            id="a new word",
        ),
        pytest.param(sm2262(), AUTO, ("bus",) * 3, ("", "", ""), id="an FLR damages it"),
        pytest.param(sm2262(**SHARED), AUTO, ("flr",) * 3, (DAMAGE,) * 3, id="and it is not alone"),
    ],
)
def test_without_a_keeper(
    observation: Observation,
    choice: GuardChoice,
    close: Close | None,
    resets: tuple[str | None, str | None, str | None],
    harm: tuple[str, str, str],
) -> None:
    states = (HOOK, GUEST, GUEST)
    expected = list(zip(resets, states, harm, strict=True))
    assert told(forecast(observation, choice, close)) == expected


@pytest.mark.parametrize(
    ("observation", "resets", "harm"),
    [
        pytest.param(sm951(), ("flr",) * 3, (KILL,) * 3, id="lethal"),
        pytest.param(
            sm951(reset_methods=("bus",)),
            ("flr",) * 3,
            (KILL,) * 3,
            id="lethal, guarded by an earlier hook",
        ),
        pytest.param(sm951(**SHARED), ("flr",) * 3, (KILL,) * 3, id="lethal, shared"),
        pytest.param(sm961(), ("device_specific",) * 3, ("", "", ""), id="the kernel's own"),
        pytest.param(seen(), ("flr",) * 3, ("", "", ""), id="an ordinary drive"),
        pytest.param(seen(offered=()), (None, "bus", "bus"), ("", "", ""), id="no method"),
        pytest.param(sm2262(), ("flr",) * 3, (DAMAGE,) * 3, id="an FLR damages it"),
    ],
)
@pytest.mark.parametrize("close", [HOLDER, GUARD, None])
@pytest.mark.parametrize("choice", GuardChoice)
def test_without_the_hook_no_policy_counts(
    observation: Observation,
    choice: GuardChoice,
    close: Close | None,
    resets: tuple[str | None, str | None, str | None],
    harm: tuple[str, str, str],
) -> None:
    expected = list(zip(resets, (HOST, GUEST, GUEST), harm, strict=True))
    assert told(forecast(observation, choice, close, hook=False)) == expected


@pytest.mark.parametrize(
    ("observation", "whys"),
    [
        pytest.param(
            sm951(),
            (
                "reset_method has none for it",
                "",
                "",
            ),
            id="alone: its bus is reset instead",
        ),
        pytest.param(
            sm951(**SHARED),
            (
                "reset_method has none for it",
                "reset_method has none for it, and its bus is shared",
                "reset_method has none for it, and its bus is shared:"
                " reset only if vfio has all of it",
            ),
            id="shared",
        ),
        pytest.param(
            sm951(**ROOT),
            (
                "reset_method has none for it",
                "reset_method has none for it, and it is on a root bus",
                "reset_method has none for it, and it is on a root bus",
            ),
            id="on a root bus",
        ),
    ],
)
def test_why_there_is_none(observation: Observation, whys: tuple[str, str, str]) -> None:
    fates = forecast(observation, NONE, GUARD)
    assert tuple(fate.why for fate in fates) == whys
    assert all(fate.safe for fate in fates)


@pytest.mark.parametrize(
    "changes", [{"config_vendor": 0xFFFF}, {"vendor": 0xFFFF, "config_vendor": 0xFFFF}]
)
def test_nobody_can_tell_what_becomes_of_one_that_is_gone(changes: dict[str, int]) -> None:
    assert forecast(sm951(**changes), AUTO, HOLDER) == ()


def test_what_a_reset_meets() -> None:
    assert {state: state.may_be_enabled for state in State} == {
        "disabled by the hook before": False,
        "disabled by the keeper before": False,
        "as the host's driver leaves it": True,
        "as the guest leaves it": True,
    }
