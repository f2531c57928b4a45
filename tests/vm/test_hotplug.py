# SPDX-License-Identifier: LGPL-2.1-or-later
"""Drives that leave a running guest and come to it: no hook hears of that, the keeper sees it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import hooks, keepers, trace
from .deadline import Deadline
from .drives import Double, Drive
from .guests import Guest
from .lives import Life
from .rig import Rig
from .trace import Event

pytestmark = pytest.mark.vm

OPENED = Life.SHUTDOWN.guarded_resets
"""Bus resets of one open: QEMU resets what is plugged in as it does at its start."""
UNBIND_SECONDS = 0.5
"""How long libvirt's reattach may have to wait for a keeper that looks four times a second."""
HOLDS_SECONDS = 2.0


BOTH_KEPT = '[drive."1b36:0010"]\nclose = "holder"\n'


@pytest.fixture
def guest(rig: Rig, double: Double, ordinary: Drive) -> Iterator[Guest]:
    """Runs, and has both drives."""
    guest = Guest(rig, "hotplug", "serve", double.bdf, others=(ordinary.bdf,))
    guest.define()
    guest.start()
    guest.wait_for("action serve")
    yield guest
    guest.undefine()


def unplug(guest: Guest, drive: Drive) -> list[Event]:
    """Take a drive away; return what the kernel did meanwhile, when the host has it back."""
    said = guest.said().count("unplugged")
    with trace.recorded(guest.rig) as events:
        guest.detach(drive.bdf)
        assert drive.wait_live().where == "nvme live"
    assert guest.said().count("unplugged") == said + 1
    assert drive.read_a_block()
    return events


def plug(guest: Guest, drive: Drive) -> None:
    """Give it a drive, and wait until it has used it."""
    seen = len(guest.caps_seen())
    guest.attach(drive.bdf)
    Deadline.after(30.0).wait_until("CAP", lambda: len(guest.caps_seen()) > seen)


def lethal_or_bus(double: Double) -> tuple[int, int]:
    counters = double.counters()
    return counters.flr_lethal, counters.bus_resets


def test_drives_leave_a_running_guest_and_come_back(
    rig: Rig, double: Double, ordinary: Drive, guest: Guest
) -> None:
    began, keeper = hooks.now(rig), keepers.pid(guest)

    # One that the keeper has nothing to do with.
    unplug(guest, ordinary)
    assert keepers.held(guest) == [double.bdf]

    events = unplug(guest, double)
    (waited,) = trace.durations(events, "unbind")
    print(f"\nreattach waited {waited:.3f} s for the keeper")
    assert waited <= UNBIND_SECONDS
    assert (keepers.pid(guest), keepers.held(guest)) == (keeper, [])
    # The device's lock is libvirt's then, so that close has reset nothing.
    assert trace.durations(events, "reset") == []
    assert lethal_or_bus(double) == (0, OPENED)
    # What no hook would set at the next open stays as long as the guest.
    assert double.view().reset_method == "bus"

    plug(guest, ordinary)
    plug(guest, double)
    Deadline.after(HOLDS_SECONDS).wait_until("held", lambda: keepers.held(guest) == [double.bdf])
    assert keepers.pid(guest) == keeper
    assert lethal_or_bus(double) == (0, 2 * OPENED)

    guest.destroy()
    guest.wait_off()
    assert_back_with_the_host(double, ordinary)
    assert lethal_or_bus(double) == (0, 2 * OPENED)
    assert hooks.complaints(rig, began) == []


def test_drive_that_the_guest_never_had(rig: Rig, double: Double, ordinary: Drive) -> None:
    """Guarded by hand, for nobody hears of it before QEMU opens it; then the keeper takes over."""
    guest = Guest(rig, "newcomer", "serve", ordinary.bdf)
    with hooks.policy(rig, BOTH_KEPT):
        guest.define()
        try:
            guest.start()
            guest.wait_for("action serve")
            assert keepers.held(guest) == [ordinary.bdf]
            rig.run(f"echo bus > {double.sysfs}/reset_method")

            plug(guest, double)
            both = sorted((double.bdf, ordinary.bdf))
            Deadline.after(HOLDS_SECONDS).wait_until("held", lambda: keepers.held(guest) == both)

            guest.kill()
            guest.wait_off()
            assert_back_with_the_host(double, ordinary, methods="bus")
        finally:
            guest.undefine()
            rig.run(f"echo default > {double.sysfs}/reset_method")
    # What was set by hand is what vfio's close and the hook may use.
    assert lethal_or_bus(double) == (0, OPENED + 2)
    assert double.view().reset_method == "flr bus"


def assert_back_with_the_host(double: Double, ordinary: Drive, methods: str = "flr bus") -> None:
    """As if nothing had been, whatever has come and gone."""
    for drive in (double, ordinary):
        assert drive.wait_live().where == "nvme live"
        assert drive.view().power_control == "on"
        assert drive.read_a_block()
    assert double.view().reset_method == methods
    assert ordinary.view().reset_method == "flr bus"
    assert hooks.left_behind(double.rig) == []
