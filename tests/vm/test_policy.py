# SPDX-License-Identifier: LGPL-2.1-or-later
"""The administrator's file and the guest's own metadata, as the hook of a real libvirtd obeys them.

What every key and value means is tested without a rig; here is what only a real host can show.
"""

from __future__ import annotations

import pytest

from . import hooks
from .drives import Double, Drive
from .guests import Guest
from .hooks import POLICY as PATH
from .hooks import policy
from .rig import Result, Rig

pytestmark = pytest.mark.vm

EN_AND_SHN = 0xC001
LETHAL = 0x4001


def prepare(guest: Guest) -> Result:
    return hooks.call(guest.rig, guest.name, "prepare", "begin", guest.xml)


def messages(rig: Rig, since: int) -> list[str]:
    return [each["MESSAGE"] for each in hooks.journal(rig, since)]


def test_observe_only_says_what_would_be_done(rig: Rig, double: Double) -> None:
    guest = Guest(rig, "observed", "hang", double.bdf, managed=False)
    double.detach()
    before = double.registers_view()
    assert before.registers["CC"] & EN_AND_SHN == LETHAL
    began = hooks.now(rig)
    with policy(rig, 'mode = "observe"\n'), rig.monitor.register_accesses() as accesses:
        observed = prepare(guest)
    assert (observed.returncode, observed.stderr) == (0, "")
    assert accesses == []
    assert double.view().power_state == "D3hot"
    assert double.registers_view().registers == before.registers
    assert messages(rig, began) == [
        f"{double.bdf}: observe: prepare would: wake it from D3hot, then bring it to pristine"
    ]
    assert hooks.left_behind(rig) == []
    # Without the file it does what it said.
    assert prepare(guest).returncode == 0
    assert double.registers_view().is_disabled
    double.heal()


def test_broken_file_stops_no_guest_without_nvme(rig: Rig, ordinary: Drive) -> None:
    with policy(rig, 'mode = "enforce"\ndeadlin = 20\n'):
        refused = prepare(Guest(rig, "broken", "hang", ordinary.bdf))
        assert refused.returncode == 1
        assert hooks.said(refused) == [
            f"{PATH}: line 2, column 1: unknown key 'deadlin', did you mean deadline?",
            f"  hint: correct or remove {PATH}",
        ]
        plain = Guest(rig, "plain", "hang")
        plain.define()
        try:
            assert plain.start().returncode == 0
        finally:
            plain.undefine()
        told = hooks.command(rig, "config")
        assert (told.returncode, told.stdout) == (1, "")
        assert "line 2, column 1" in told.stderr
    assert ordinary.is_live()


def test_file_that_others_can_write_is_ignored(rig: Rig, ordinary: Drive) -> None:
    guest = Guest(rig, "writable", "hang", ordinary.bdf)
    denied = f'deny = ["{ordinary.bdf}"]\n'
    began = hooks.now(rig)
    with policy(rig, denied, mode="666"):
        assert prepare(guest).returncode == 0
    assert messages(rig, began) == [
        f"{PATH}: mode is 0666 (expected no write bit for group and others):"
        " ignored, defaults are used"
    ]
    with policy(rig, denied):
        assert prepare(guest).returncode == 1


@pytest.mark.parametrize("entry", ["0000:02:00.0", "1b36:0010"])
def test_denied_drive_is_refused(rig: Rig, ordinary: Drive, entry: str) -> None:
    with policy(rig, f'deny = ["{entry}"]\n'):
        refused = prepare(Guest(rig, "denied", "hang", ordinary.bdf))
    assert refused.returncode == 1
    assert hooks.said(refused) == [
        f"{ordinary.bdf}: may not go to the guest: denied by {PATH}: {entry}",
        "  hint: take it off the deny list there",
    ]


def expecting(rig: Rig, drive: Drive, serial: str) -> Guest:
    expect = f'><vnr:expect bdf="{drive.bdf}" serial="{serial}"/></vnr:policy>'
    return Guest(rig, "expecting", "hang", drive.bdf, policy=expect)


def test_guest_gets_the_drive_that_it_expects(rig: Rig, ordinary: Drive) -> None:
    """Also through libvirt, which hands its metadata to the hook."""
    guest = expecting(rig, ordinary, "rig1")
    guest.define()
    try:
        guest.start()
        assert ordinary.view().driver == "vfio-pci"
    finally:
        guest.undefine()
    ordinary.wait_live()


def test_guest_does_not_get_another_drive(rig: Rig, ordinary: Drive) -> None:
    guest = expecting(rig, ordinary, "rig0")
    guest.define()
    try:
        refused = guest.start(check=False)
    finally:
        guest.undefine()
    assert refused.returncode == 1
    said = hooks.said(refused)
    assert said[0] == (
        f"{ordinary.bdf}: may not go to the guest: not the drive that this guest expects:"
        " serial is 'rig1', expected 'rig0'"
    )
    assert said[1].startswith("  hint: addresses move when hardware is added")
    assert ordinary.is_live()
