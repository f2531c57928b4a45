# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the hook's accesses to registers are on the wire, as QEMU's device model sees them.

The specification asks for aligned accesses of 32 bits, or of 64 on a 64-bit register (NVMe 1.4,
3.1), and a write to CC acts at once: one too many is a controller reset too many.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import hooks
from .drives import Double, Drive
from .guests import Guest
from .qmp import Access
from .rig import Rig

pytestmark = pytest.mark.vm

CAP, CC = 0x00, 0x14
EN_AND_SHN = 0xC001


@pytest.fixture
def idle(drive: Drive) -> Iterator[Drive]:
    """On vfio-pci, not open, as the host's unbind left it: enabled and shut down."""
    drive.detach()
    seen = drive.registers_view()
    assert seen.registers["CC"] & EN_AND_SHN == 0x4001, seen.registers
    yield drive
    drive.heal()


@pytest.fixture
def guest(rig: Rig, idle: Drive) -> Guest:
    """Never started: the hook is called by hand."""
    return Guest(rig, "accesses", "shutdown", idle.bdf, managed=False)


def call_traced(guest: Guest, operation: str, sub_operation: str = "begin") -> list[Access]:
    """Run one operation of the hook alone; return the register accesses meanwhile."""
    with guest.rig.monitor.register_accesses() as accesses:
        result = hooks.call(guest.rig, guest.name, operation, sub_operation, guest.xml)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    return accesses


def assert_well_formed(accesses: list[Access]) -> None:
    """All 4 bytes wide, but for CAP, which may be read at once; and there are some."""
    assert accesses
    assert [each for each in accesses if not each.aligned] == []
    wide = [each for each in accesses if each.size != 4]
    assert [each for each in wide if (each.offset, each.size) != (CAP, 8) or each.is_write] == []


def writes_to_cc(accesses: list[Access]) -> list[int]:
    return [each.data for each in accesses if each.offset == CC and each.data is not None]


def assert_disabled_once(accesses: list[Access]) -> None:
    (value,) = writes_to_cc(accesses)
    assert value & EN_AND_SHN == 0
    # Nothing else is written: what a disable has to change is in CC.
    assert {each.offset for each in accesses if each.is_write} == {CC}


def test_prepare_disables_an_idle_drive_once(guest: Guest, idle: Drive) -> None:
    accesses = call_traced(guest, "prepare")
    assert_well_formed(accesses)
    assert_disabled_once(accesses)
    assert idle.registers_view().is_disabled


def test_start_disables_once_and_stopped_what_the_guest_left(guest: Guest, idle: Drive) -> None:
    try:
        at_start = call_traced(guest, "start")
        assert_well_formed(at_start)
        assert_disabled_once(at_start)
        # As a guest that was killed leaves it.
        idle.enable()
        at_stopped = call_traced(guest, "stopped", "end")
        assert_well_formed(at_stopped)
        assert_disabled_once(at_stopped)
    finally:
        at_release = call_traced(guest, "release", "end")
    assert_well_formed(at_release)
    assert writes_to_cc(at_release) == []
    assert idle.registers_view().is_disabled
    assert hooks.left_behind(guest.rig) == []


def test_nothing_is_touched_on_the_host_driver(rig: Rig, double: Double) -> None:
    guest = Guest(rig, "accesses-live", "shutdown", double.bdf)
    for operation, sub_operation in (
        ("prepare", "begin"),
        ("start", "begin"),
        ("started", "begin"),
        ("reconnect", "begin"),
        ("stopped", "end"),
        ("release", "end"),
    ):
        assert call_traced(guest, operation, sub_operation) == [], operation
    assert double.is_live()
