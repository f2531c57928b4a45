# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keeper under the rig's own libvirtd: vfio's last reset is an FLR of a disabled double.

No bus reset revives this double, and none is needed at the end: it counts those of the guard, at
QEMU's open and at reboots. The one exception is a keeper that was killed.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import daemon, hooks, keepers, records, trace
from .deadline import Deadline
from .drives import Double, Drive
from .guests import Guest
from .keepers import NULL, PIDFD, VFIO_DEVICE
from .lives import Life, Row, live
from .rig import Rig

pytestmark = pytest.mark.vm

CLEAN = "CC=00000000 CSTS=00000000"
"""What the last function level reset met."""
OPENED = Life.SHUTDOWN.guarded_resets
BY_THE_GUARD = OPENED + 1
"""Bus resets of one boot, and of a close that no keeper was there for."""
HELD_SECONDS = 0.5
"""How long a keeper may hold a drive after its guest, beside the reset itself."""
ATTEMPTS = 3
PRIVATE_DIRTY_KB = 10240
RECONNECT_SECONDS = 60.0


@pytest.mark.parametrize("life", [Life.SHUTDOWN, Life.DESTROY, Life.KILL, Life.REBOOT])
def test_close_is_no_bus_reset(rig: Rig, double: Double, life: Life, rows: list[Row]) -> None:
    row = live(rig, life, double)
    rows.append(row)

    assert row.guest_saw_it, f"CAP of each boot: {row.caps}"
    assert_only_guarded(double, life.guarded_resets)
    assert double.last_reset() == CLEAN
    assert row.after is not None
    assert row.after == row.before
    assert row.after.where == "nvme live"
    assert double.read_a_block()
    assert (row.left, row.complaints) == ([], [])


@pytest.fixture
def guest(rig: Rig, double: Double) -> Iterator[Guest]:
    """Has the double, and serves."""
    guest = Guest(rig, "kept", "serve", double.bdf)
    guest.define()
    yield guest
    rig.run(f"kill -KILL $(pgrep -f '{guest.uuid}')", check=False)
    daemon.start(rig)
    guest.undefine()


@pytest.fixture
def running(guest: Guest) -> Guest:
    guest.start()
    guest.wait_for("action serve")
    return guest


def test_keeper_that_was_killed_leaves_it_to_the_guard(
    rig: Rig, double: Double, running: Guest
) -> None:
    began = hooks.now(rig)
    keepers.kill(running)
    assert " - " in listed(rig, double)

    running.shut_down()
    running.wait_off()

    assert_back_with_the_host(double, began, BY_THE_GUARD)


def test_qemu_and_keeper_killed_together(rig: Rig, double: Double, running: Guest) -> None:
    began = hooks.now(rig)

    rig.run(["kill", "-KILL", str(running.pid), str(keepers.pid(running))])
    running.wait_off()

    # Whoever was the last: the kernel closed what nobody had disabled.
    assert_back_with_the_host(double, began, BY_THE_GUARD)


def test_keeper_needs_no_libvirtd(rig: Rig, double: Double, running: Guest) -> None:
    began = hooks.now(rig)
    daemon.stop(rig)
    before = double.counters()
    # As when the host shuts down; nobody but libvirtd can make this QEMU end with its guest.
    rig.run(["kill", "-TERM", str(running.pid)])
    keepers.wait_gone(running)

    alone = double.registers_view()
    assert alone.is_disabled, alone.registers
    assert (alone.driver, alone.reset_method) == ("vfio-pci", "flr bus")
    assert records.keeper(rig, running.uuid) is None
    assert_only_guarded(double, before.bus_resets)
    assert double.counters().flr_good == before.flr_good + 1
    assert double.last_reset() == CLEAN
    assert {each["OPERATION"] for each in hooks.journal(rig, began)} == {"keeper"}

    daemon.start(rig)
    running.wait_off()
    assert_back_with_the_host(double, began, OPENED)


def test_libvirtd_restarted_under_a_keeper(rig: Rig, double: Double, running: Guest) -> None:
    """It lives on; one that has died meanwhile is followed by another."""
    first, began = keepers.pid(running), hooks.now(rig)
    restart_and_reconnect(running)
    assert keepers.pid(running) == first

    keepers.kill(running)
    restart_and_reconnect(running)
    assert keepers.pid(running) != first
    assert keepers.held(running) == [double.bdf]

    running.destroy()
    assert_back_with_the_host(double, began, OPENED)


def restart_and_reconnect(guest: Guest) -> None:
    began = hooks.now(guest.rig)
    daemon.restart(guest.rig)
    # libvirtd answers before it has looked after its guests, and each hook has its last word late.
    reconnected = Deadline.after(RECONNECT_SECONDS)
    reconnected.wait_until("reconnect", lambda: hooks.journal(guest.rig, began))
    reconnected.wait_until("a keeper", lambda: keepers.held(guest))


def test_two_controllers_and_what_the_keeper_is(rig: Rig, double: Double, ordinary: Drive) -> None:
    """Only the double is held, and nothing of libvirt's."""
    guest = Guest(rig, "two", "serve", double.bdf, others=(ordinary.bdf,))
    # As any keeper but the first after an installation finds it.
    rig.run(["/usr/bin/python3", "-m", "compileall", "-q", f"{hooks.FOLDER}/libvirt_hooks"])
    began = hooks.now(rig)
    guest.define()
    try:
        guest.start()
        guest.wait_for("action serve")
        assert keepers.held(guest) == [double.bdf]
        assert " held " in listed(rig, double)
        assert " held " not in listed(rig, ordinary)
        assert_on_its_own(guest)

        guest.shut_down()
        guest.wait_off()
    finally:
        guest.undefine()
    assert len(guest.caps_seen()) == 2
    assert ordinary.wait_live().where == "nvme live"
    assert ordinary.read_a_block()
    assert_back_with_the_host(double, began, OPENED)


def assert_on_its_own(guest: Guest) -> None:
    """A session, a directory, descriptors and memory that are nobody else's."""
    pid = keepers.pid(guest)
    keeper = keepers.look_at(guest.rig, pid)
    qemu = keepers.look_at(guest.rig, guest.pid)
    libvirtd = keepers.look_at(guest.rig, daemon.pid(guest.rig))
    print(f"\nthe keeper: {keeper}")
    assert keeper.command[:2] == ["/usr/bin/python3", "-IS"]
    assert keeper.parent == 1
    assert keeper.session not in (libvirtd.session, qemu.session)
    assert keeper.cwd == "/"
    assert [keeper.descriptors[number] for number in ("0", "1", "2")] == [NULL] * 3
    # Of vfio the device alone: the group's would keep the next user out, the container's nothing.
    assert [what for what in keeper.opened if not what.startswith("socket:")] == [
        PIDFD,
        VFIO_DEVICE,
    ]
    shared = {*keeper.opened} & {*libvirtd.opened, *qemu.opened}
    assert shared == {VFIO_DEVICE}
    assert keeper.oom_score_adj == qemu.oom_score_adj
    assert keeper.private_dirty <= PRIVATE_DIRTY_KB


def test_reattach_waits_for_the_reset_and_hardly_more(
    rig: Rig, double: Double, guest: Guest
) -> None:
    """A rig that is busy may be late once; a keeper that takes its time is late each time."""
    held = []
    for _ in range(ATTEMPTS):
        guest.start()
        guest.wait_for("action serve")
        tasks, keeper = guest.tasks(), keepers.pid(guest)
        with trace.recorded(rig) as events:
            guest.destroy()
        double.wait_live()
        held.append(trace.held_after(events, tasks, keeper))
        (unbind,) = trace.durations(events, "unbind")
        print(f"\nheld for {held[-1]:.3f} s after QEMU's end, less the reset; unbind {unbind:.3f}")
        # It comes after `stopped`, which has waited for the keeper.
        assert unbind <= HELD_SECONDS
        if held[-1] <= HELD_SECONDS:
            break
    assert min(held) <= HELD_SECONDS, held


def listed(rig: Rig, drive: Drive) -> str:
    """What `virt-nvme-reset list` says of a drive."""
    (line,) = (line for line in hooks.command(rig, "list").stdout.splitlines() if drive.bdf in line)
    return line


def assert_only_guarded(double: Double, bus_resets: int) -> None:
    counters = double.counters()
    assert (counters.flr_lethal, counters.bus_resets) == (0, bus_resets), counters


def assert_back_with_the_host(double: Double, began: int, bus_resets: int) -> None:
    after = double.wait_live()
    assert (after.reset_method, after.power_control) == ("flr bus", "on")
    assert double.read_a_block()
    assert_only_guarded(double, bus_resets)
    assert hooks.left_behind(double.rig) == []
    assert hooks.complaints(double.rig, began) == []
