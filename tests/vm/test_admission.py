# SPDX-License-Identifier: LGPL-2.1-or-later
"""A disk that the host uses stays with the host, whatever the use; one that nobody uses goes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import hooks, uses
from .drives import Drive
from .guests import Guest
from .rig import Result, Rig
from .storage import Disk
from .uses import Begin

pytestmark = pytest.mark.vm

WHOLE_STARTS = (uses.mounted, uses.mounted_volume)
BY_HAND = (
    uses.mounted_elsewhere,
    uses.logical_volume,
    uses.swap,
    uses.array,
    uses.encrypted,
    uses.loop,
    uses.opened_disk,
    uses.opened_controller,
    uses.opened_generic,
    uses.claimed,
)


@pytest.fixture
def disk(rig: Rig, ordinary: Drive) -> Iterator[Disk]:
    disk = Disk(ordinary)
    rig.run(["mkdir", "-p", uses.POINT])
    try:
        disk.partition()
        yield disk
    finally:
        uses.end_all(disk)
        if not ordinary.is_live():
            ordinary.heal()
        Disk(ordinary).wipe()


@pytest.fixture
def guest(rig: Rig, ordinary: Drive) -> Guest:
    """Libvirt has not heard of it."""
    return Guest(rig, "admission", "hang", ordinary.bdf)


@pytest.fixture
def defined(guest: Guest) -> Iterator[Guest]:
    guest.define()
    yield guest
    guest.undefine()


def prepare(guest: Guest) -> Result:
    """Ask the hook alone, as libvirt does before it touches anything."""
    return hooks.call(guest.rig, guest.name, "prepare", "begin", guest.xml)


def assert_stays(disk: Disk, begin: Begin, guest: Guest, whole: bool) -> None:
    """Refused for that reason, with a remedy that works; the disk is as usable as before."""
    use = begin(disk)
    refused = guest.start(check=False) if whole else prepare(guest)
    assert refused.returncode == 1, refused
    print(f"\n{begin.__name__} ({refused.seconds:.1f} s)", *hooks.said(refused), sep="\n  ")
    assert hooks.said(refused) == [
        f"{guest.bdf}: may not go to the guest: in use by the host: {use.reasons}",
        f"  hint: {use.remedy}",
    ]
    disk.rig.run(use.proof)
    assert disk.drive.view().where == "nvme live"
    assert hooks.left_behind(disk.rig) == []
    for command in use.commands:
        disk.rig.run(command)


@pytest.mark.parametrize("begin", BY_HAND, ids=lambda begin: begin.__name__)
def test_disk_in_use_is_refused(disk: Disk, begin: Begin, guest: Guest) -> None:
    assert_stays(disk, begin, guest, whole=False)
    admitted = prepare(guest)
    assert (admitted.returncode, admitted.stderr) == (0, "")


@pytest.mark.parametrize("begin", WHOLE_STARTS, ids=lambda begin: begin.__name__)
def test_guest_starts_once_its_disk_is_free(disk: Disk, begin: Begin, defined: Guest) -> None:
    assert_stays(disk, begin, defined, whole=True)
    assert defined.start().returncode == 0
    defined.wait_for("action hang")
    defined.destroy()
    disk.drive.wait_live()


def test_disk_that_nobody_uses_goes_to_its_guest(disk: Disk, defined: Guest) -> None:
    uses.free(disk)
    began = hooks.now(disk.rig)
    defined.start()
    defined.wait_for("action hang")
    assert disk.drive.view().driver == "vfio-pci"
    defined.destroy()
    disk.drive.wait_live()
    # What was on it is still there.
    disk.rig.run(f"udevadm settle; mount /dev/{disk.part(1)} {uses.POINT}")
    assert hooks.complaints(disk.rig, began) == []
