# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which guard a controller gets, one line a case."""

import pytest

from libvirt_hooks.guard import guards, may_close_by_flr
from libvirt_hooks.observe import Observation
from libvirt_hooks.policy import GuardChoice

from .observations import NEIGHBOUR, registers, seen, sm951


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        pytest.param(sm951(), ("bus", "\n"), id="lethal and alone: bus, else none"),
        pytest.param(sm951(neighbours=(NEIGHBOUR,)), ("\n",), id="lethal, not alone: none"),
        pytest.param(sm951(offered=("flr",)), ("\n",), id="lethal, no bus reset: none"),
        pytest.param(sm951(virtual_functions=1), ("\n",), id="lethal, with VFs: none"),
        pytest.param(
            sm951(device=0xA804, offered=("device_specific", "flr", "bus")),
            (),
            id="the kernel's own quirk wins",
        ),
        pytest.param(
            sm951(offered=("flr", "device_specific")),
            ("\n",),
            id="unless somebody has put FLR before it",
        ),
        pytest.param(sm951(offered=()), (), id="emptied by somebody else: nothing to add"),
        pytest.param(sm951(offered=(), reset_methods=None), (), id="kernel without reset_method"),
        pytest.param(
            sm951(reset_methods=("bus",)), ("bus", "\n"), id="guarded already: the same again"
        ),
        pytest.param(seen(), (), id="an ordinary drive keeps its own"),
        pytest.param(
            seen(vendor=0x126F, device=0x2263), ("bus",), id="a drive that an FLR damages: bus"
        ),
        pytest.param(
            seen(vendor=0x126F, device=0x2263, neighbours=(NEIGHBOUR,)),
            (),
            id="which may keep FLR where it is not alone",
        ),
    ],
)
def test_guards(observation: Observation, expected: tuple[str, ...]) -> None:
    assert guards(observation) == expected


@pytest.mark.parametrize(
    ("observation", "choice", "expected"),
    [
        pytest.param(sm951(), GuardChoice.KEEP, (), id="keep: whatever the drive"),
        pytest.param(seen(), GuardChoice.NONE, ("\n",), id="none: whatever the drive"),
        pytest.param(seen(), GuardChoice.BUS, ("bus",), id="bus: whatever the drive"),
        pytest.param(
            sm951(device=0xA804, offered=("device_specific", "flr", "bus")),
            GuardChoice.BUS,
            ("bus",),
            id="bus, though the kernel has a quirk",
        ),
        pytest.param(
            seen(neighbours=(NEIGHBOUR,)), GuardChoice.BUS, (), id="never at a neighbour's cost"
        ),
        pytest.param(
            sm951(virtual_functions=1), GuardChoice.BUS, ("\n",), id="nor at that of its VFs"
        ),
        pytest.param(seen(offered=()), GuardChoice.NONE, (), id="nothing to take away"),
    ],
)
def test_what_the_policy_asks_for(
    observation: Observation, choice: GuardChoice, expected: tuple[str, ...]
) -> None:
    assert guards(observation, choice) == expected


SHUT_DOWN = (0x00464061, 0x9)
SPECIFIC = ("device_specific", "flr", "bus")


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        pytest.param(sm951(), True, id="seen disabled: yes, though an FLR could kill it"),
        pytest.param(seen(), True, id="nor does it hurt any other"),
        pytest.param(sm951(reset_methods=("bus",)), True, id="whatever guards it until then"),
        pytest.param(sm951(neighbours=(NEIGHBOUR,)), True, id="an FLR hits no neighbour"),
        pytest.param(sm951(registers=registers(aqa=0x1F)), True, id="pristine it need not be"),
        pytest.param(sm951(*SHUT_DOWN), False, id="shut down, and still enabled"),
        pytest.param(sm951(0x00460061, 0x1), False, id="enabled"),
        pytest.param(sm951(0x00460060, 0x1), False, id="EN=0, but RDY=1 still"),
        pytest.param(sm951(0x00460060, 0x2), False, id="EN=0, but a fatal status"),
        pytest.param(sm951(registers=None), False, id="nobody could see it"),
        pytest.param(sm951(config_vendor=0xFFFF), False, id="gone"),
        pytest.param(seen(0x00464061, 0x9), False, id="an ordinary drive neither, unseen"),
        pytest.param(sm951(offered=("bus",)), False, id="the kernel offers none"),
        pytest.param(sm951(offered=()), False, id="somebody has ruled all out"),
        pytest.param(sm951(device=0xA804, offered=SPECIFIC), False, id="the kernel's own quirk"),
        pytest.param(
            sm951(offered=("flr", "device_specific")), True, id="which somebody has put behind"
        ),
        pytest.param(seen(vendor=0x126F, device=0x2263), False, id="a drive that an FLR damages"),
        pytest.param(sm951(virtual_functions=1), False, id="its virtual functions would go too"),
    ],
)
def test_may_close_by_flr(observation: Observation, expected: bool) -> None:
    assert may_close_by_flr(observation) is expected
