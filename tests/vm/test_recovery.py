# SPDX-License-Identifier: LGPL-2.1-or-later
"""A drive that has fallen off by the end of its guest: by every means back, or given up at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from . import hooks, records
from .drives import PARAMETERS, Cure, Double
from .guests import Guest
from .rig import Rig

pytestmark = pytest.mark.vm

BY_THE_GUARD = '[drive."144d:a802"]\nclose = "guard"\n'

RESCAN, BUS_RESCAN, SLOT = "remove/rescan", "remove/bus/rescan", "slot power"
FREEZE = f"echo 1 > {PARAMETERS}/frozen"
AUTOPROBE = "/sys/bus/pci/drivers_autoprobe"
# What the kernel waits for a drive that does not answer: pci_dev_wait, v6.1.
KERNEL_GIVES_UP_SECONDS = 60.0
KERNEL_TIMEOUT = 300.0


@dataclass(frozen=True)
class Recovery:
    """What the hook, or the command, has done about a drive, by its journal."""

    rungs: list[str]
    last: dict[str, str]

    @property
    def seconds(self) -> float:
        return float(self.last["ELAPSED_MS"]) / 1000


def recovery(rig: Rig, since: int, operation: str) -> Recovery:
    entries = [each for each in hooks.journal(rig, since) if each.get("OPERATION") == operation]
    rungs = [each["METHOD"] for each in entries if "METHOD" in each]
    timed = [each for each in entries if "ELAPSED_MS" in each and "METHOD" not in each]
    return Recovery(list(dict.fromkeys(rungs)), timed[-1])


@contextmanager
def frozen_at_stopped(rig: Rig) -> Iterator[None]:
    """Have the drive fall off between vfio's last reset and our `stopped`."""
    with hooks.neighbour(rig, "10-freeze", "stopped", FREEZE):
        yield


def lead_a_life(guest: Guest) -> None:
    """Start and destroy it; frozen at `stopped`."""
    guest.define()
    try:
        guest.start()
        guest.wait_for("action hang")
        with frozen_at_stopped(guest.rig):
            guest.destroy()
            guest.wait_off()
    finally:
        guest.undefine()


@pytest.fixture
def frozen(double: Double) -> Iterator[Double]:
    """To be frozen; well again after the test."""
    yield double
    double.heal()
    double.clear()


@pytest.mark.parametrize(
    "cure, expected",
    [
        pytest.param(Cure.RESCAN, [RESCAN], id="rescan"),
        pytest.param(Cure.BUS_RESET, [RESCAN, BUS_RESCAN], id="bus reset"),
        pytest.param(Cure.SLOT_POWER, [RESCAN, BUS_RESCAN, SLOT], id="slot power"),
    ],
)
def test_managed_drive_is_brought_back(
    rig: Rig, frozen: Double, cure: Cure, expected: list[str]
) -> None:
    before = frozen.view()
    frozen.cure_by(cure)
    began = hooks.now(rig)
    lead_a_life(Guest(rig, "frozen", "hang", frozen.bdf))

    found = recovery(rig, began, "release")
    print(f"\n{cure}: {found.last['MESSAGE']}; in all {found.seconds:.1f} s")
    assert found.rungs == expected
    assert frozen.view() == before
    assert before.where == "nvme live"
    assert frozen.read_a_block()
    assert hooks.left_behind(rig) == []
    counters = frozen.counters()
    assert (counters.flr_lethal, counters.flr_fatal) == (0, 0)


def test_drive_that_nothing_revives_is_given_up(rig: Rig, frozen: Double) -> None:
    before = frozen.view()
    began = hooks.now(rig)
    lead_a_life(Guest(rig, "dead", "hang", frozen.bdf))

    found = recovery(rig, began, "release")
    print(f"\nnothing: {found.last['MESSAGE']}; in all {found.seconds:.1f} s")
    assert found.rungs == [RESCAN, BUS_RESCAN, SLOT]
    # The last word on it says what a person can do.
    assert "power the host off and on" in hooks.journal(rig, began)[-1]["MESSAGE"]
    why = records.dead(rig, frozen.bdf)
    assert why.startswith(f"not live after {RESCAN}, {BUS_RESCAN}, {SLOT}")
    assert hooks.left_behind(rig) == [f"dead/{frozen.bdf}"]

    assert_refused_at_once(rig, frozen, why)
    told = hooks.command(rig, "recover", frozen.bdf)
    print(f"recover: status {told.returncode} after {told.seconds:.1f} s: {told.stderr.strip()}")
    assert told.returncode == 1
    assert "hint: power the host off and on" in told.stderr

    # Somebody has done something about it.
    frozen.thaw()
    told = hooks.command(rig, "recover", frozen.bdf)
    print(f"recover, once it answers: status {told.returncode}: {told.stdout}{told.stderr}")
    assert told.returncode == 0
    assert frozen.wait_live() == before
    assert hooks.left_behind(rig) == []


def assert_refused_at_once(rig: Rig, double: Double, why: str) -> None:
    guest = Guest(rig, "vain", "hang", double.bdf)
    guest.define()
    try:
        refused = guest.start(check=False)
    finally:
        guest.undefine()
    print(f"next start: refused in {refused.seconds:.1f} s")
    assert refused.returncode == 1
    assert refused.seconds < KERNEL_GIVES_UP_SECONDS / 2
    assert hooks.said(refused) == [
        f"{double.bdf}: may not go to the guest: given up in this boot: {why}",
        f"  hint: power the host off and on; or try virt-nvme-reset recover {double.bdf}",
    ]


def test_unmanaged_drive_comes_back_on_vfio_pci(rig: Rig, frozen: Double) -> None:
    """This kernel's nvme binds to what is found; it does not keep it.

    By the guard alone: a keeper would meet the freezing FLR at the last close, which keeps it in the
    kernel for so long that `release` leaves the drive to the next start.
    """
    frozen.detach()
    before = frozen.view()
    frozen.clear()
    frozen.cure_by(Cure.RESCAN)
    rig.run("dmesg --clear")
    began = hooks.now(rig)
    with hooks.policy(rig, BY_THE_GUARD):
        lead_a_life(Guest(rig, "unmanaged", "hang", frozen.bdf, managed=False))

    found = recovery(rig, began, "release")
    print(f"\nunmanaged: {found.last['MESSAGE']}; in all {found.seconds:.1f} s")
    # Since Linux 6.19 it would not: then the simulator's kernel is to be told so.
    probed = rig.run(f"dmesg | grep 'nvme nvme.*{frozen.bdf}'", check=False).stdout
    assert f"pci function {frozen.bdf}" in probed
    assert found.rungs[0] == RESCAN
    after = frozen.registers_view()
    assert after.is_disabled, after.registers
    assert (after.driver, after.driver_override) == ("vfio-pci", before.driver_override)
    assert (after.reset_method, after.power_control) == ("flr bus", before.power_control)
    assert rig.run(["cat", AUTOPROBE]).stdout == "1\n"
    assert hooks.left_behind(rig) == []


def test_drive_that_falls_off_under_its_guest(rig: Rig, frozen: Double) -> None:
    """vfio resets it at the last close: the keeper stays in the kernel, and its hook goes on."""
    frozen.cure_by(Cure.RESCAN)
    guest = Guest(rig, "fallen", "hang", frozen.bdf)
    before = frozen.view()
    guest.define()
    try:
        guest.start()
        guest.wait_for("action hang")
        frozen.freeze()
        began = hooks.now(rig)
        ended = rig.run(["virsh", "-q", "destroy", guest.name], timeout=KERNEL_TIMEOUT, check=False)
        guest.wait_off()
    finally:
        guest.undefine()
    found = recovery(rig, began, "release")
    print(f"\ndestroy took {ended.seconds:.0f} s, release {found.seconds:.1f} s of it")
    said = [each["MESSAGE"] for each in hooks.journal(rig, began) if each["OPERATION"] == "stopped"]
    print(*said, sep="\n")
    assert any("has not let go of its drives" in each for each in said)
    assert found.rungs == [RESCAN]
    assert frozen.wait_live() == before
    assert hooks.left_behind(rig) == []


def test_kernel_waits_a_minute_for_a_dead_drive(rig: Rig, frozen: Double) -> None:
    """Why no reset is ever started on a drive that does not answer: nobody can end that wait."""
    frozen.detach()
    frozen.freeze()
    seconds = {}
    for method in ("bus",):
        write = f"echo {method} > reset_method && echo 1 > reset"
        asked = rig.run(f"cd {frozen.sysfs} && {write}", check=False, timeout=KERNEL_TIMEOUT)
        assert asked.returncode != 0
        seconds[method] = asked.seconds
    print(f"\nthe kernel, asked to reset a dead drive: {seconds}")
    assert seconds["bus"] > KERNEL_GIVES_UP_SECONDS
