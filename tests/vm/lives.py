# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lives that a guest can lead, and what is left of its drive afterwards: one row each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum

from . import hooks
from .drives import Counters, Double, Drive, View
from .guests import Guest
from .rig import Rig

ALL_ONES = 0xFFFFFFFFFFFFFFFF


class Life(StrEnum):
    """How a guest's life goes; the values are what the results say."""

    SHUTDOWN = "clean shutdown"
    DESTROY = "destroy"
    KILL = "kill -9 of QEMU"
    REBOOT = "reboot, shutdown"
    REFUSED = "start refused"

    @property
    def action(self) -> str:
        """What the guest is told to do of its own accord."""
        return {Life.DESTROY: "hang", Life.KILL: "hang", Life.REBOOT: "reboot"}.get(
            self, "shutdown"
        )

    @property
    def boots(self) -> int:
        return {Life.REFUSED: 0, Life.REBOOT: 2}.get(self, 1)

    @property
    def guarded_resets(self) -> int:
        """Resets that are the guard's, for no keeper can catch them: bus resets on the double.

        QEMU's open and its first machine reset, and four more at a reboot (measured: QEMU 7.2).
        """
        return 4 * self.boots - 2 if self.boots else 0


@dataclass(frozen=True)
class Row:
    """One life, as the table at the end of the session tells it."""

    hook: bool
    drive: str
    managed: bool | None
    life: Life
    before: View | None
    after: View | None
    counters: Counters | None
    caps: list[int]
    left: list[str]
    complaints: list[str]
    seconds: float

    @property
    def guest_saw_it(self) -> bool:
        """Each boot found the drive, and could read it."""
        readable = [cap for cap in self.caps if cap not in (0, ALL_ONES)]
        return len(readable) == len(self.caps) == self.life.boots


def live(
    rig: Rig,
    life: Life,
    drive: Drive | None = None,
    managed: bool = True,
    registers: bool = True,
) -> Row:
    """Lead one life with the hook in place, on a drive that the host has, and tell how it went.

    :param registers: look at those of an unmanaged drive afterwards; under lockdown nobody can.
    """
    name = f"{drive or 'none'}-{'yes' if managed else 'no'}-{life.name.lower()}"
    guest = Guest(rig, name, life.action, drive.bdf if drive else None, managed)
    before = _take_from_host(drive, managed) if drive else None
    guest.define()
    try:
        noted, began = hooks.now(rig), time.monotonic()
        play(guest, life)
        seconds = time.monotonic() - began
        after = _look(drive, managed, registers) if drive else None
        return Row(
            hook=True,
            drive=str(drive or "none"),
            managed=managed if drive else None,
            life=life,
            before=before,
            after=after,
            counters=drive.counters() if drive else None,
            caps=guest.caps_seen(),
            left=hooks.left_behind(rig),
            complaints=hooks.complaints(rig, noted),
            seconds=seconds,
        )
    finally:
        guest.undefine()


def play(guest: Guest, life: Life) -> None:
    """Lead a defined guest through its life, until libvirt is done with it."""
    match life:
        case Life.SHUTDOWN | Life.REBOOT:
            guest.start()
        case Life.DESTROY:
            guest.start()
            guest.wait_for("action hang")
            guest.destroy()
        case Life.KILL:
            guest.start()
            guest.wait_for("action hang")
            guest.kill()
        case Life.REFUSED:
            refuse = "echo refused by the test >&2; exit 1"
            with hooks.neighbour(guest.rig, "90-refuse", "start", refuse):
                started = guest.start(check=False)
            assert started.returncode != 0, "the start was to be refused"
            assert "refused by the test" in started.stderr, started.stderr
    guest.wait_off()


def assert_put_back(double: Double, before: View) -> None:
    """As before the life, but clean; and no reset has hurt it."""
    after = double.registers_view()
    assert after.is_disabled, after.registers
    assert (after.driver, after.reset_method, after.power_control) == (
        before.driver,
        before.reset_method,
        before.power_control,
    ), (after, before)
    left = hooks.left_behind(double.rig)
    assert left == [], left
    counters = double.counters()
    assert counters.flr_lethal == 0, counters


def _take_from_host(drive: Drive, managed: bool) -> View:
    if not managed:
        drive.detach()
    drive.clear()
    return drive.view()


def _look(drive: Drive, managed: bool, registers: bool) -> View:
    if managed:
        return drive.wait_live()
    return drive.registers_view() if registers else drive.view()
