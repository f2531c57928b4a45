# SPDX-License-Identifier: LGPL-2.1-or-later
"""A hook, QEMU or libvirtd dies in mid-life: what comes next brings the drive back all the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import daemon, hooks, kills, records
from .deadline import Deadline
from .drives import Double
from .guests import STATUS_FOLDER, Guest
from .kills import Kill
from .lives import assert_put_back
from .outer import DOUBLE
from .rig import Rig

pytestmark = pytest.mark.vm

JOURNAL = records.journal_path(DOUBLE)
METHODS = f"/sys/bus/pci/devices/{DOUBLE}/reset_method"
# A record without a QEMU is believed for so long after a hook's last word.
ON_ITS_WAY_SECONDS = 30
RECONNECT_SECONDS = 60.0

KILLS = (
    # prepare has disabled it, and waits for the kernel's reset.
    kills.when("prepare", "both", METHODS, "=flr"),
    kills.after("start", "both", 0),
    kills.when("start", "both", JOURNAL, "power/control"),
    kills.when("start", "hook", JOURNAL, "power/control"),
    kills.when("start", "worker", JOURNAL, "power/control"),
    kills.when("start", "both", METHODS, "=bus"),
    kills.after("stopped", "both", 0),
    kills.when("stopped", "both", METHODS, "=flr"),
    kills.when("stopped", "hook", METHODS, "=flr"),
    kills.when("stopped", "worker", METHODS, "=flr"),
)


@pytest.fixture
def idle(double: Double) -> Iterator[Double]:
    """On vfio-pci, as the host's unbind left it: enabled and shut down."""
    double.detach()
    double.clear()
    yield double
    double.heal()


def call(guest: Guest, operation: str, kill: Kill | None = None) -> int:
    """Run one operation by hand; the hook of *kill* dies of it. Return its status."""
    sub_operation = "end" if operation in ("stopped", "release") else "begin"
    if kill is None or kill.operation != operation:
        return hooks.call(guest.rig, guest.name, operation, sub_operation, guest.xml).returncode
    with kills.killing(guest.rig, kill) as killed:
        status = hooks.call(guest.rig, guest.name, operation, sub_operation, guest.xml).returncode
    print(f"\n{kill}: {killed.result()}; status {status}")
    assert killed.result().killed, "it was to be killed"
    return status


@pytest.mark.parametrize("kill", KILLS, ids=str)
def test_killed_hook_is_made_up_for_by_the_next(rig: Rig, idle: Double, kill: Kill) -> None:
    guest = Guest(rig, "killed", "hang", idle.bdf, managed=False)
    before = idle.view()
    statuses = [call(guest, operation, kill) for operation in ("prepare", "start")]
    if statuses == [0, 0]:
        # As QEMU leaves it when it is killed.
        idle.enable()
    # Libvirt calls these after a start that failed, too.
    statuses += [call(guest, operation, kill) for operation in ("stopped", "release")]
    killed = ("prepare", "start", "stopped", "release").index(kill.operation)
    assert [at for at, status in enumerate(statuses) if status and at != killed] == []
    if kill.operation == "prepare":
        # Without a record nothing is done at `stopped`; so it is the next guest's business.
        assert call(Guest(rig, "next", "hang", idle.bdf, managed=False), "prepare") == 0
    assert_put_back(idle, before)


def test_killed_release_is_made_up_for_by_recover(rig: Rig, idle: Double) -> None:
    guest = Guest(rig, "killed", "hang", idle.bdf, managed=False)
    before = idle.view()
    assert [call(guest, operation) for operation in ("prepare", "start", "stopped")] == [0, 0, 0]
    call(guest, "release", kills.after("release", "both", 0))
    assert records.owned(rig, guest.uuid) == [idle.bdf]
    early = hooks.command(rig, "recover")
    assert (early.returncode, early.stdout) == (0, "nothing is left over\n"), early
    rig.run(f"sleep {ON_ITS_WAY_SECONDS}")
    told = hooks.command(rig, "recover")
    print(f"\n{told.stdout}")
    assert told.returncode == 0, told
    assert f"guest {guest.uuid}: gone" in told.stdout
    assert_put_back(idle, before)


@pytest.mark.parametrize(
    "kill",
    [
        kills.when("start", "both", METHODS, "=bus"),
        kills.when("stopped", "both", METHODS, "=flr"),
    ],
    ids=str,
)
def test_libvirt_goes_on_after_a_killed_hook(rig: Rig, double: Double, kill: Kill) -> None:
    guest = Guest(rig, "killed-life", "hang", double.bdf)
    before = double.view()
    guest.define()
    try:
        with kills.killing(rig, kill) as killed:
            started = guest.start(check=False)
            if started.returncode == 0:
                guest.destroy()
            guest.wait_off()
        print(f"\n{kill}: {killed.result()}; start: status {started.returncode}")
        assert killed.result().killed
        assert (started.returncode != 0) == (kill.operation == "start"), started.stderr
        assert double.wait_live() == before
    finally:
        guest.undefine()
    assert hooks.left_behind(rig) == []
    assert double.counters().flr_lethal == 0


@pytest.fixture
def running(rig: Rig, double: Double) -> Iterator[Guest]:
    """A guest that has the double, and runs."""
    guest = Guest(rig, "orphan", "hang", double.bdf)
    guest.define()
    guest.start()
    guest.wait_for("action hang")
    yield guest
    rig.run(f"kill -KILL $(pgrep -f 'uuid.{guest.uuid}')", check=False)
    daemon.start(rig)
    guest.undefine()


def test_libvirtd_restarted_in_mid_life(rig: Rig, double: Double, running: Guest) -> None:
    guarded = double.view()
    assert guarded.reset_method == "bus"
    journaled = records.journaled(rig, double.bdf)
    began = hooks.now(rig)

    daemon.restart(rig)

    # libvirtd answers before it has looked after its guests.
    Deadline.after(RECONNECT_SECONDS).wait_until("reconnect", lambda: hooks.journal(rig, began))
    assert {each["OPERATION"] for each in hooks.journal(rig, began)} == {"reconnect"}
    assert records.owned(rig, running.uuid) == [double.bdf]
    assert records.journaled(rig, double.bdf) == journaled
    assert double.view() == guarded
    running.destroy()
    assert_back_with_the_host(double, began)


def test_qemu_killed_while_libvirtd_is_away(rig: Rig, double: Double, running: Guest) -> None:
    began = hooks.now(rig)
    daemon.stop(rig)
    running.kill()
    daemon.start(rig)
    running.wait_off()
    heard = [each["OPERATION"] for each in hooks.journal(rig, began)]
    # The keeper needed nobody.
    assert {"keeper", "stopped", "release"} == set(heard)
    assert_back_with_the_host(double, began)


def test_guest_that_libvirtd_has_forgotten(rig: Rig, double: Double, running: Guest) -> None:
    began = hooks.now(rig)
    daemon.stop(rig)
    running.kill()
    rig.run(f"rm {STATUS_FOLDER}/{running.name}.xml {STATUS_FOLDER}/{running.name}.pid")
    daemon.start(rig)
    assert {each["OPERATION"] for each in hooks.journal(rig, began)} <= {"keeper"}
    assert records.owned(rig, running.uuid) == [double.bdf]
    rig.run(f"sleep {ON_ITS_WAY_SECONDS}")

    told = hooks.command(rig, "recover")

    print(f"\n{told.stdout}")
    assert told.returncode == 0, told
    assert f"guest {running.uuid}: gone" in told.stdout
    assert hooks.left_behind(rig) == []
    # Nobody but libvirt gives it back to the host: it says how.
    assert double.view().driver == "vfio-pci"
    (remedy,) = [line for line in told.stdout.splitlines() if "nodedev-reattach" in line]
    rig.run("virsh" + remedy.rpartition(": virsh")[2])
    assert_back_with_the_host(double, began)


def assert_back_with_the_host(double: Double, began: int) -> None:
    after = double.wait_live()
    assert after.reset_method == "flr bus"
    assert after.power_control == "on"
    assert double.read_a_block()
    assert hooks.left_behind(double.rig) == []
    assert double.counters().flr_lethal == 0
    assert hooks.complaints(double.rig, began) == []
