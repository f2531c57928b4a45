# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the doctor sees of drives, guests and records, on simulated machines."""

import pytest

from libvirt_hooks import inventory, journal, marks, policy, store
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.doctor.facts import Drive
from libvirt_hooks.domain import parse
from libvirt_hooks.errors import HookError, Stuck
from libvirt_hooks.journal import Undo
from libvirt_hooks.policy import Policy
from libvirt_hooks.simulator import vfio
from libvirt_hooks.simulator.domain_xml import Assigned, domain_xml
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.models import ORDINARY, SM951

UUID = "0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11"
BDF = Bdf.parse("0000:01:00.0")


ALIVE, DEAD = (42, 4200), (42, 4100)
"""The number came round again."""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> SimHost:
    machine = SimHost()
    monkeypatch.setattr(machine, "runs", lambda *process: process == ALIVE)
    return machine


def seen(host: SimHost, text: str | None = None) -> Drive:
    (drive,) = inventory.drives(host, policy.resolve(text))
    return drive


def left(host: SimHost) -> list[str]:
    return [each.what for each in inventory.leftovers(host)]


def keeper(host: SimHost, process: tuple[int, int]) -> None:
    content = {"process": list(process), "qemu": [4211, 4211], "bdfs": [str(BDF)], "seconds": 0}
    store.save(host, "keepers", UUID, content)


def test_an_idle_drive(host: SimHost) -> None:
    host.add(BDF, SM951)
    assert seen(host) == Drive(str(BDF), "144d:a802", True, False, False, None, True, False, False)
    assert host.violations == []


def test_an_ordinary_one_in_a_slot(host: SimHost) -> None:
    host.add(BDF, ORDINARY, slot="3")
    assert seen(host) == Drive(str(BDF), "1b36:0010", guarded=False, hot_pluggable=True)


def test_a_guests_drive(host: SimHost) -> None:
    host.add(BDF, SM951, driver="vfio-pci")
    journal.claim(host, UUID, [BDF])
    Undo(host, BDF).keep("reset_method", "flr bus")
    host.device(BDF).reset_methods[:] = ["bus"]
    drive = seen(host)
    assert (drive.guest, drive.guarded, drive.kernel_knows) == (UUID, True, False)
    assert (drive.wants_keeper, drive.kept) == (True, False)
    keeper(host, ALIVE)
    assert seen(host).kept
    keeper(host, DEAD)
    assert not seen(host).kept


def test_a_guests_drive_that_no_hook_has_seen(host: SimHost) -> None:
    """Its guest was started before the hook was installed."""
    host.add(BDF, SM951, driver="vfio-pci")
    assert seen(host).guest is None
    vfio.open_device(host.device(BDF))
    assert seen(host).guest == "?"
    journal.claim(host, UUID, [BDF])
    assert seen(host).guest == UUID


def test_what_the_kernel_knows_is_asked_of_the_method_before_the_guard(host: SimHost) -> None:
    host.add(BDF, SM951)
    Undo(host, BDF).keep("reset_method", "device_specific bus")
    drive = seen(host)
    assert (drive.kernel_knows, drive.wants_keeper) == (True, False)


@pytest.mark.parametrize(
    ("text", "guarded", "wants_keeper"),
    [
        ('[drive."144d:a802"]\nguard = "keep"\n', True, True),
        ('[drive."144d:a802"]\nclose = "guard"\n', False, False),
    ],
)
def test_the_policys_word(host: SimHost, text: str, guarded: bool, wants_keeper: bool) -> None:
    host.add(BDF, SM951)
    drive = seen(host, text)
    assert (drive.guarded, drive.wants_keeper) == (guarded, wants_keeper)


def test_nothing_is_left_over(host: SimHost) -> None:
    host.add(BDF, SM951)
    assert left(host) == []


def test_a_guest_that_runs_leaves_nothing_over(host: SimHost) -> None:
    host.add(BDF, SM951, driver="vfio-pci")
    journal.claim(host, UUID, [BDF])
    Undo(host, BDF).keep("reset_method", "flr bus")
    keeper(host, ALIVE)
    assert left(host) == []


def test_a_guest_that_is_gone(host: SimHost) -> None:
    journal.claim(host, UUID, [BDF])
    Undo(host, BDF).keep("reset_method", "flr bus")
    keeper(host, DEAD)
    host.clock.advance(100.0)
    assert left(host) == [
        f"guest {UUID}: gone, and no hook came",
        f"{BDF}: something is to be put back, and no guest has it",
        f"guest {UUID}: its keeper died",
    ]
    assert {each.advice for each in inventory.leftovers(host)} == {"virt-nvme-reset recover"}


def test_records_that_are_no_records(host: SimHost) -> None:
    host.records.store("journal", str(BDF), b"{")
    found = list(inventory.leftovers(host))
    assert len(found) == 1
    assert found[0].what.startswith(f"journal/{BDF}: not a record of virt-nvme-reset: ")
    assert found[0].advice.startswith(f"remove /run/virt-nvme-reset/journal/{BDF}")
    host.add(BDF, SM951)
    assert not seen(host).kernel_knows


def test_a_keeper_of_an_earlier_boot_did_not_die(
    host: SimHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of an earlier boot, and that is said already."""
    keeper(host, DEAD)
    monkeypatch.setattr(host, "boot_id", lambda: "another")
    assert left(host) == [f"keepers/{UUID}: of an earlier boot"]


def test_records_of_an_earlier_boot(host: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    Undo(host, BDF).keep("reset_method", "flr bus")
    marks.mark_dead(host, BDF, HookError("x"))
    monkeypatch.setattr(host, "boot_id", lambda: "another")
    assert left(host) == [
        f"journal/{BDF}: of an earlier boot",
        f"dead/{BDF}: of an earlier boot",
    ]


def test_marks(host: SimHost) -> None:
    marks.mark_dead(host, BDF, HookError("does not answer"))
    marks.mark_stuck(host, BDF, Stuck("writing", pid=ALIVE[0], started=ALIVE[1]))
    assert [(each.what, each.advice) for each in inventory.leftovers(host)] == [
        (
            f"{BDF}: an earlier hook is still in the kernel with it: writing",
            "wait for it; if it stays, power the host off and on",
        ),
        (f"{BDF}: given up in this boot: does not answer", f"virt-nvme-reset recover {BDF}"),
    ]


def test_looking_drops_no_record(host: SimHost) -> None:
    """`keepers` and `marks` would: the doctor is a reader."""
    keeper(host, DEAD)
    marks.mark_stuck(host, BDF, Stuck("writing", pid=DEAD[0], started=DEAD[1]))
    host.add(BDF, SM951)
    before = host.records.all
    assert list(inventory.leftovers(host))
    assert inventory.drives(host, Policy())
    assert host.records.all == before


def test_guests_drives_that_the_host_uses(host: SimHost) -> None:
    host.add(BDF, ORDINARY, mounted="/srv")
    host.add("0000:02:00.0", ORDINARY)
    host.add("0000:03:00.0", ORDINARY, driver="vfio-pci", mounted="/old")
    bdfs = (str(BDF), "0000:02:00.0", "0000:03:00.0", "0000:09:00.0")
    guest = parse(domain_xml("win", UUID, [Assigned(Bdf.parse(bdf)) for bdf in bdfs]))
    (found,) = inventory.host_uses(host, [guest], [])
    assert (found.guest, found.bdf, found.running) == ("win", str(BDF), False)
    assert found.uses.startswith("mount@nvme")
    assert found.uses.endswith(":/srv")
    (found,) = inventory.host_uses(host, [guest], [UUID])
    assert found.running
