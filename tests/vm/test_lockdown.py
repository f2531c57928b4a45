# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lives under kernel lockdown (Secure Boot): nobody may map a register, and no drive dies of it.

In a rig of its own, since lockdown is never taken back. It is raised at run time: on the kernel's
command line it would keep out the double, a module that nobody has signed. But for that it is the
same (security/lockdown/lockdown.c, v6.1), and the distribution's own modules come in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from . import image, machine
from .drives import Double, Drive
from .lives import Life, Row, live
from .rig import Rig

pytestmark = pytest.mark.vm

LOCKDOWN = "/sys/kernel/security/lockdown"
CLEAN = "CC=00000000 CSTS=00000000"
LIVES = (Life.SHUTDOWN, Life.DESTROY, Life.REBOOT, Life.KILL, Life.REFUSED)
MANAGED = ("start", "stopped")
UNMANAGED = ("prepare", *MANAGED, "release")
"""Hooks that open the idle drive through vfio: the close after each resets its bus."""


@pytest.fixture(scope="module")
def session_rig(disk_image: image.Image, built_parts: Path) -> Iterator[Rig]:
    """Takes the place of the one that the other files share."""
    with machine.ready(disk_image, built_parts) as rig:
        rig.run(f"echo integrity > {LOCKDOWN}")
        yield rig


def test_registers_cannot_be_mapped(rig: Rig, ordinary: Drive) -> None:
    """What this file is about is there."""
    same = "dd if=config of=config bs=4 count=1 conv=notrunc"
    refused = rig.run(f"cd {ordinary.sysfs} && {same}", check=False)
    assert "Operation not permitted" in refused.stderr, refused
    assert "[integrity]" in rig.run(["cat", LOCKDOWN]).stdout


@pytest.mark.parametrize("life", LIVES)
def test_managed_drive_outlives_its_guest(
    rig: Rig, double: Double, life: Life, rows: list[Row]
) -> None:
    row = live(rig, life, double)
    rows.append(row)

    assert row.guest_saw_it, f"CAP of each boot: {row.caps}"
    assert row.after == row.before
    assert double.read_a_block()
    assert_well(row, MANAGED)
    assert double.last_reset() == CLEAN


@pytest.mark.parametrize("life", [Life.SHUTDOWN, Life.KILL])
def test_unmanaged_drive_outlives_its_guest(
    rig: Rig, double: Double, life: Life, rows: list[Row]
) -> None:
    row = live(rig, life, double, managed=False, registers=False)
    rows.append(row)

    assert row.guest_saw_it, f"CAP of each boot: {row.caps}"
    assert row.before is not None
    assert row.after is not None
    assert row.after.driver == "vfio-pci"
    assert row.after.reset_method == row.before.reset_method
    assert row.after.power_control == row.before.power_control
    assert_well(row, UNMANAGED)
    double.reattach()
    assert double.read_a_block()


def test_ordinary_drive_outlives_its_guest(rig: Rig, ordinary: Drive, rows: list[Row]) -> None:
    row = live(rig, Life.DESTROY, ordinary)
    rows.append(row)
    assert row.after == row.before
    assert ordinary.read_a_block()
    assert_well(row, MANAGED)


def assert_well(row: Row, openers: Sequence[str]) -> None:
    if row.counters is not None:
        assert row.counters.flr_lethal == 0
        assert row.counters.bus_resets == row.life.guarded_resets + len(openers)
    assert (row.left, row.complaints) == ([], [])
