# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose word wins: defaults, the host's file, a drive's rows, the guest's own metadata."""

import subprocess
import sys

import pytest

from libvirt_hooks import quirks
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import BadPolicy
from libvirt_hooks.policy import (
    CHOICES,
    PATH,
    Close,
    Drive,
    FailedDisable,
    GuardChoice,
    GuestPolicy,
    Metrics,
    Mode,
    Policy,
    canonical,
    either,
    load,
    nearest,
)
from libvirt_hooks.quirks import ORDINARY, Quirk
from libvirt_hooks.simulator.host import SimHost

BDF = Bdf(0, 3, 0, 0)
SM951 = (0x144D, 0xA802)
NOBODY = (0x1B36, 0x0010)


def test_without_a_file_the_defaults_hold() -> None:
    assert load(SimHost()) == Policy()
    assert Policy()._asdict() == {
        "mode": "enforce",
        "deny": (),
        "failed_disable": "refuse-lethal",
        "deadline": 20.0,
        "deadline_cap": 150.0,
        "drives": {},
        "metrics": Metrics(),
    }


def test_without_a_file_nothing_slow_is_imported() -> None:
    code = (
        "import sys; import libvirt_hooks.domain, libvirt_hooks.policy as policy;"
        "from libvirt_hooks.linux import policy_file; policy.resolve(None);"
        "print(*{'tomllib', 'difflib', 'libvirt_hooks.policy_file'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


HOST = """
mode = "off"
deny = ["03:00.0"]
failed_disable = "refuse"
deadline = 30
deadline_cap = 60
"""
FILE = Policy(Mode.OFF, ("0000:03:00.0",), FailedDisable.REFUSE, 30.0, 60.0)


@pytest.mark.parametrize(
    ("guest", "expected"),
    [
        pytest.param(GuestPolicy(), FILE, id="a guest that says nothing"),
        pytest.param(
            GuestPolicy(mode=Mode.ENFORCE), FILE._replace(mode=Mode.ENFORCE), id="its mode"
        ),
        pytest.param(
            GuestPolicy(failed_disable=FailedDisable.GO_ON),
            FILE._replace(failed_disable=FailedDisable.GO_ON),
            id="its failed_disable",
        ),
        pytest.param(GuestPolicy(deadline=60.0), FILE._replace(deadline=60.0), id="its deadline"),
        pytest.param(
            GuestPolicy(deadline_cap=30.0), FILE._replace(deadline_cap=30.0), id="its deadline_cap"
        ),
    ],
)
def test_the_guest_s_values_win(guest: GuestPolicy, expected: Policy) -> None:
    assert load(SimHost(policy=HOST), guest) == expected


@pytest.mark.parametrize(
    ("guest", "said"),
    [
        pytest.param(GuestPolicy(deadline=61.0), "61 s, expected at most deadline_cap, 60 s"),
        pytest.param(GuestPolicy(deadline_cap=29.0), "30 s, expected at most deadline_cap, 29 s"),
    ],
)
def test_a_guest_may_not_contradict_the_host(guest: GuestPolicy, said: str) -> None:
    with pytest.raises(BadPolicy) as caught:
        load(SimHost(policy=HOST), guest)
    assert caught.value.message == f"domain metadata: deadline: {said}"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("deny", "expected"),
    [
        pytest.param((), None, id="nothing is denied"),
        pytest.param(("0000:03:00.0",), "0000:03:00.0", id="by address"),
        pytest.param(("144d:a802",), "144d:a802", id="by ids"),
        pytest.param(("0000:03:00.1", "144d:a804", "144d:a80"), None, id="others"),
        pytest.param(("144d:a802", "0000:03:00.0"), "0000:03:00.0", id="both: the narrower"),
    ],
)
def test_denied(deny: tuple[str, ...], expected: str | None) -> None:
    assert Policy(deny=deny).denied(BDF, *SM951) == expected


def test_a_quirk_that_nobody_changes_is_the_table_s() -> None:
    row = Drive(guard=GuardChoice.KEEP, close=Close.GUARD)
    policy = Policy(drives={"144d:a802": row, "144d:a804": Drive()})
    assert policy.quirk(BDF, *SM951) is quirks.find(*SM951)
    assert policy.quirk(BDF, *NOBODY) is ORDINARY


def test_a_change_is_laid_over_the_table_s_row() -> None:
    policy = Policy(drives={"144d:a802": Drive(settle_after_reset=0.5)})
    expected = quirks.find(*SM951)._replace(settle_after_reset=0.5)
    assert policy.quirk(BDF, *SM951) == expected
    assert policy.quirk(BDF, *NOBODY) is ORDINARY


def test_a_row_can_take_a_quirk_away() -> None:
    policy = Policy(drives={"144d:a802": Drive(flr_lethal_while_enabled=False)})
    assert not policy.quirk(BDF, *SM951).flr_lethal_while_enabled


def test_a_drive_that_is_in_no_table_is_called_by_its_row() -> None:
    by_ids = Policy(drives={"1b36:0010": Drive(prefer_bus=True)})
    assert by_ids.quirk(BDF, *NOBODY) == Quirk("1b36:0010", "", PATH, prefer_bus=True)
    by_address = Policy(drives={str(BDF): Drive(prefer_bus=True), "1b36:0010": Drive(guard=None)})
    assert by_address.quirk(BDF, *NOBODY) == Quirk(str(BDF), "", PATH, prefer_bus=True)


def test_the_address_s_row_wins_key_by_key() -> None:
    ids = Drive(GuardChoice.BUS, settle_after_reset=1.0, ready_check_delay=2.0)
    policy = Policy(drives={str(BDF): Drive(settle_after_reset=3.0), "1b36:0010": ids})
    quirk = policy.quirk(BDF, *NOBODY)
    assert (quirk.settle_after_reset, quirk.ready_check_delay) == (3.0, 2.0)
    assert quirk.name == str(BDF)
    assert policy.guard(BDF, *NOBODY) is GuardChoice.BUS


@pytest.mark.parametrize(
    ("drives", "expected"),
    [
        pytest.param({}, GuardChoice.AUTO, id="nobody says"),
        pytest.param({"144d:a802": Drive(prefer_bus=True)}, GuardChoice.AUTO, id="a row without"),
        pytest.param({"144d:a802": Drive(GuardChoice.NONE)}, GuardChoice.NONE, id="by ids"),
        pytest.param({str(BDF): Drive(GuardChoice.KEEP)}, GuardChoice.KEEP, id="by address"),
        pytest.param(
            {"144d:a802": Drive(GuardChoice.NONE), str(BDF): Drive(GuardChoice.AUTO)},
            GuardChoice.AUTO,
            id="both: the address wins",
        ),
    ],
)
def test_guard(drives: dict[str, Drive], expected: GuardChoice) -> None:
    assert Policy(drives=drives).guard(BDF, *SM951) is expected


BY_IDS, BY_ADDRESS = "1b36:0010", str(BDF)


@pytest.mark.parametrize(
    ("drives", "expected"),
    [
        pytest.param({}, None, id="an ordinary drive: nobody says"),
        pytest.param({BY_IDS: Drive(GuardChoice.BUS)}, None, id="a row without"),
        pytest.param({BY_IDS: Drive(close=Close.HOLDER)}, Close.HOLDER, id="by ids"),
        pytest.param({BY_ADDRESS: Drive(close=Close.GUARD)}, Close.GUARD, id="by address"),
        pytest.param(
            {BY_IDS: Drive(close=Close.GUARD), BY_ADDRESS: Drive(close=Close.HOLDER)},
            Close.HOLDER,
            id="both: the address wins",
        ),
        pytest.param(
            {BY_IDS: Drive(close=Close.GUARD), BY_ADDRESS: Drive(GuardChoice.BUS)},
            Close.GUARD,
            id="an address that says something else",
        ),
        pytest.param(
            {BY_IDS: Drive(flr_lethal_while_enabled=True)}, Close.HOLDER, id="a row makes it lethal"
        ),
        pytest.param(
            {BY_IDS: Drive(close=Close.GUARD, flr_lethal_while_enabled=True)},
            Close.GUARD,
            id="lethal, but the row knows better",
        ),
    ],
)
def test_close(drives: dict[str, Drive], expected: Close | None) -> None:
    assert Policy(drives=drives).close(BDF, *NOBODY) is expected


@pytest.mark.parametrize(
    ("drives", "expected"),
    [
        pytest.param({}, Close.HOLDER, id="a drive that an FLR kills"),
        pytest.param({"144d:a802": Drive(close=Close.GUARD)}, Close.GUARD, id="its row says no"),
        pytest.param(
            {"144d:a802": Drive(flr_lethal_while_enabled=False)},
            None,
            id="or that nothing kills it",
        ),
    ],
)
def test_close_by_the_table(drives: dict[str, Drive], expected: Close | None) -> None:
    assert Policy(drives=drives).close(BDF, *SM951) is expected


def test_a_row_s_fields_are_a_quirk_s() -> None:
    behaviour = set(Drive._fields) - CHOICES
    assert behaviour == set(Quirk._fields) - {"name", "symptom", "source"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("144d:a802", "144d:a802"),
        ("144D:A802", "144d:a802"),
        ("03:00.0", "0000:03:00.0"),
        ("0000:AF:1f.7", "0000:af:1f.7"),
        ("00010000:03:00.0", "10000:03:00.0"),
        ("pci_0000_03_00_0", "0000:03:00.0"),
    ],
)
def test_canonical(text: str, expected: str) -> None:
    assert canonical(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nvme0",
        "144d:a80",
        "144d:a8020",
        "144d",
        " 144d:a802",
        "144d:a802\n",
        "\u0661\u0664\u0664d:a802",
    ],
)
def test_not_a_controller(text: str) -> None:
    with pytest.raises(ValueError, match="^neither a PCI address .* nor ids such as 144d:a802$"):
        canonical(text)


def test_what_is_meant() -> None:
    assert nearest("denny", ["mode", "deny"]) == "did you mean deny?"
    assert nearest("x", ["mode", "deny", "drive"]) == "expected mode, deny or drive"
    assert either(["mode"]) == "mode"
