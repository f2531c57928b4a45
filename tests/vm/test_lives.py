# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guest lives under the rig's own libvirtd: no lethal reset, and the host has its drive back."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from . import guests, hooks, image, outer
from .deadline import Deadline
from .drives import Double, Drive
from .guests import Guest
from .lives import Life, Row, live
from .rig import CommandFailed, Rig, boot

pytestmark = pytest.mark.vm

FLR_SECONDS = 60.0


@pytest.mark.parametrize("life", Life)
@pytest.mark.parametrize("managed", [True, False], ids=["managed", "unmanaged"])
def test_drive_outlives_its_guest(
    rig: Rig, drive: Drive, managed: bool, life: Life, rows: list[Row]
) -> None:
    row = live(rig, life, drive, managed)
    rows.append(row)

    assert row.before is not None
    assert row.after is not None
    if row.counters is not None:
        assert row.counters.flr_lethal == 0
        assert row.counters.bus_resets == life.guarded_resets
    assert row.guest_saw_it, f"CAP of each boot: {row.caps}"
    assert row.after.reset_method == row.before.reset_method
    assert row.after.power_control == row.before.power_control
    assert row.left == []
    if managed:
        assert row.after.where == "nvme live"
        assert drive.read_a_block()
    else:
        assert row.after.driver == "vfio-pci"
        assert row.after.is_disabled, row.after.registers
    # Nor a word of warning about a drive that is well.
    assert row.complaints == []


@pytest.mark.parametrize("life", Life)
def test_guest_without_nvme_is_left_alone(
    rig: Rig, double: Double, ordinary: Drive, life: Life, rows: list[Row]
) -> None:
    began = hooks.now(rig)
    before = [drive.view() for drive in (double, ordinary)]

    row = live(rig, life)
    rows.append(row)

    assert row.caps == []
    assert hooks.journal(rig, began) == []
    assert not hooks.state_exists(rig)
    assert [drive.view() for drive in (double, ordinary)] == before


def test_libvirtd_and_qemu_are_confined(rig: Rig, ordinary: Drive) -> None:
    guest = Guest(rig, "confined", "hang", ordinary.bdf)
    guest.define()
    try:
        guest.start()
        labels = rig.run(
            "cat /proc/$(pidof libvirtd)/attr/current"
            f" /proc/$(cat {guests.STATUS_FOLDER}/{guest.name}.pid)/attr/current"
        ).stdout.replace("\0", "\n")
    finally:
        guest.undefine()
    assert labels.split("\n")[:2] == ["libvirtd (enforce)", f"libvirt-{guest.uuid} (enforce)"]


def test_drive_dies_without_the_hook(
    disk_image: image.Image, built_parts: Path, rows: list[Row]
) -> None:
    """What the rest of this file is there to prevent; in a rig of its own, which it ruins."""
    with boot(disk_image, built_parts) as rig:
        guests.install_kernel(rig)
        double = Double(rig, outer.DOUBLE, "double")
        double.load()
        row = _first_resets(rig, double)
    rows.append(row)
    assert row.counters is not None
    assert row.counters.flr_lethal >= 1


def _first_resets(rig: Rig, double: Double) -> Row:
    """Start a guest and watch until the drive has died; the start itself takes minutes."""
    guest = Guest(rig, "no-hook", Life.SHUTDOWN.action, double.bdf)
    guest.define()
    before, began = double.view(), time.monotonic()
    threading.Thread(target=_start_in_vain, args=(guest,), daemon=True).start()
    Deadline.after(FLR_SECONDS).wait_until(
        "a lethal reset", lambda: double.counters().flr_lethal > 0
    )
    return Row(
        hook=False,
        drive=double.name,
        managed=True,
        life=Life.SHUTDOWN,
        before=before,
        after=replace(before, driver="dead of FLR at", state=double.last_reset()),
        counters=double.counters(),
        caps=guest.caps_seen(),
        left=[],
        complaints=[],
        seconds=time.monotonic() - began,
    )


def _start_in_vain(guest: Guest) -> None:
    try:
        guest.start(check=False)
    except (CommandFailed, OSError):
        return  # the rig was switched off meanwhile
