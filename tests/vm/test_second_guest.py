# SPDX-License-Identifier: LGPL-2.1-or-later
"""A second guest wants the drive of a running one: it is refused, and the first does not notice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from . import hooks, records
from .drives import Counters, Double, View
from .guests import STATUS_FOLDER, Guest
from .rig import Result, Rig

pytestmark = pytest.mark.vm


@dataclass(frozen=True)
class First:
    """All that the first guest could notice."""

    qemu: str
    drive: View
    counters: Counters
    owned: list[str]
    journaled: dict[str, str]


@pytest.fixture
def first(rig: Rig, double: Double) -> Iterator[Guest]:
    """A guest that has the double, and hangs: it touches no register by itself."""
    guest = Guest(rig, "first", "hang", double.bdf)
    guest.define()
    guest.start()
    guest.wait_for("action hang")
    yield guest
    guest.undefine()


def look(guest: Guest, double: Double) -> First:
    rig = guest.rig
    return First(
        # It runs, and is the same process as before.
        qemu=rig.run(
            f"cut -d' ' -f1-3,22 /proc/$(cat {STATUS_FOLDER}/{guest.name}.pid)/stat"
        ).stdout,
        drive=double.view(),
        counters=double.counters(),
        owned=records.owned(rig, guest.uuid),
        journaled=records.journaled(rig, double.bdf),
    )


@contextmanager
def unnoticed(first: Guest, double: Double) -> Iterator[None]:
    """See that the first guest notices nothing of what is done in the block."""
    before = look(first, double)
    assert before.drive.reset_method == "bus"
    with first.rig.monitor.register_accesses() as accesses:
        yield
    assert accesses == []
    assert look(first, double) == before


def start_in_vain(second: Guest) -> Result:
    second.define()
    try:
        started = second.start(check=False)
    finally:
        second.undefine()
    assert started.returncode == 1
    print(f"\n{second.name}: refused in {started.seconds:.1f} s:\n{started.stderr.strip()}")
    return started


def assert_ends_well(first: Guest, double: Double) -> None:
    first.destroy()
    after = double.wait_live()
    assert (after.reset_method, after.power_control) == ("flr bus", "on")
    assert double.read_a_block()
    assert hooks.left_behind(first.rig) == []
    assert double.counters().flr_lethal == 0


@pytest.mark.parametrize("managed", [True, False], ids=["managed", "unmanaged"])
def test_second_guest_is_refused(rig: Rig, double: Double, first: Guest, managed: bool) -> None:
    with unnoticed(first, double):
        refused = start_in_vain(Guest(rig, "second", "hang", double.bdf, managed))
    assert hooks.said(refused) == [
        f"{double.bdf}: may not go to the guest: in use by the guest with uuid {first.uuid}",
        "  hint: stop that guest first",
    ]
    assert_ends_well(first, double)


def test_libvirt_refuses_a_second_guest_that_we_let_pass(
    rig: Rig, double: Double, first: Guest
) -> None:
    """Then `stopped` and `release` come for a guest that never had the drive."""
    second = Guest(rig, "second", "hang", double.bdf, policy='mode="off"/>')
    with unnoticed(first, double):
        refused = start_in_vain(second)
    assert "in use by driver QEMU, domain first" in refused.stderr, refused.stderr
    assert_ends_well(first, double)


def test_second_guest_is_refused_without_a_record(rig: Rig, double: Double, first: Guest) -> None:
    """That the drive is open protects it as well."""
    pid = rig.run(["cat", f"{STATUS_FOLDER}/{first.name}.pid"]).stdout.strip()
    second = Guest(rig, "second", "hang", double.bdf)
    rig.run(["mv", records.owner_path(first.uuid), "/run/rig/record"])
    with unnoticed(first, double):
        refused = hooks.call(rig, second.name, "prepare", "begin", second.xml)
    rig.run(["mv", "/run/rig/record", records.owner_path(first.uuid)])
    assert hooks.said(refused) == [
        f"{double.bdf}: may not go to the guest: open through vfio, by {pid} (qemu-system-x86)",
        "  hint: end the process that has it open",
    ]
    assert_ends_well(first, double)
