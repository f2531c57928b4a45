# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ladder beyond resets: a frozen drive comes back by removal, by a reset of the bus or by slot
power, or is given up; and what `recover` finds.
"""

import pytest

from libvirt_hooks import custody, journal, marks, recovery
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import BadRecord, DeviceBusy, HookError, LadderExhausted, Refused, Stuck
from libvirt_hooks.journal import ON_ITS_WAY, Undo
from libvirt_hooks.policy import Policy
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID, Life
from libvirt_hooks.simulator.models import ORDINARY, SM951

from .lives import BDF, OTHER, at_rest, at_work, call, called, owned

NEIGHBOUR = Bdf.parse("0000:01:00.1")
PORT = Bdf.parse("0000:00:01.0")


def frozen(faults: Fault = Fault.NONE, *, managed: bool = True, slot: str = "") -> SimHost:
    """A drive that froze when its guest had ended; the host's driver gave up, `release` is next."""
    host = SimHost()
    driver = "nvme" if managed else "vfio-pci"
    host.add(BDF, SM951, driver, faults, slot=slot)
    life = Life(host, [(BDF, managed)], called)
    assert life.start()
    life.hook = None
    life.destroy()
    host.clock.advance(1.0)
    host.function(BDF).frozen = True
    if managed:
        host.device(BDF).set_driver(None)
        host.device(BDF).power_state = "unknown"
    host.trace.clear()
    return host


def told(host: SimHost) -> list[str]:
    """What was done to the function and to what is around it; not what its driver then does."""
    noise = ("driver=", "CSTS.", "CC=", "nvme ")
    return [event.text for event in host.trace if not event.text.startswith(noise)]


@pytest.mark.parametrize(
    ("faults", "slot", "expected"),
    [
        pytest.param(
            Fault.RESCAN_CURES,
            "",
            ["remove=1", "removed", "rescan", "rescan revived it", "found by rescan"],
            id="a rescan",
        ),
        pytest.param(
            Fault.BUS_RESET_CURES,
            "",
            [
                *("remove=1", "removed", "rescan"),
                *("reset_subordinate=1", "bus reset", "bus reset revived it"),
                *("rescan", "found by rescan"),
            ],
            id="a reset of its bus",
        ),
        pytest.param(
            Fault.SLOT_CURES,
            "7",
            [
                *("remove=1", "removed", "rescan"),
                *("reset_subordinate=1", "bus reset", "rescan"),
                *("slots/7/power=0", "slots/7/power=1", "slot power revived it"),
                "found by rescan",
            ],
            id="its slot's power",
        ),
    ],
)
def test_what_revives_a_managed_drive(faults: Fault, slot: str, expected: list[str]) -> None:
    host = frozen(faults, slot=slot)
    assert call(host, "release", BDF) == 0
    host.sleep(1.0)
    assert told(host) == expected
    assert host.nvme_state(BDF) == "live"
    assert host.read_attr(BDF, "reset_method") == "flr bus"
    at_rest(host)


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("faults", [Fault.RESCAN_CURES, Fault.BUS_RESET_CURES, Fault.SLOT_CURES])
def test_an_unmanaged_drive_comes_back_on_vfio(faults: Fault, checked: bool) -> None:
    host = frozen(faults, managed=False, slot="7")
    host.machine.autoprobe_is_checked = checked
    host.write_attr(BDF, "driver_override", "\n")  # bound by vfio-pci's own list of ids
    host.trace.clear()
    assert call(host, "release", BDF) == 0
    assert host.driver(BDF) == "vfio-pci"
    assert host.device(BDF).driver_override is None
    assert ("driver=nvme" not in host.texts()) is checked
    assert "drivers_autoprobe=0" in host.texts() and host.machine.autoprobe
    assert host.function(BDF).controller.pristine
    assert host.read_attr(BDF, "power/control") == "auto"
    at_rest(host)


def test_a_driver_override_comes_back_with_the_drive() -> None:
    host = frozen(Fault.RESCAN_CURES, managed=False)
    host.write_attr(BDF, "driver_override", "vfio-pci")
    assert call(host, "release", BDF) == 0
    assert host.read_attr(BDF, "driver_override") == "vfio-pci"


@pytest.mark.parametrize("disk", [False, True])
def test_a_drive_that_nothing_revives_is_given_up(
    disk: bool, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    host = frozen()
    assert call(host, "release", BDF) == 0
    assert host.records.all == [f"dead/{BDF}"]
    assert "not live after remove/rescan, remove/bus/rescan: " in caplog.text
    began = host.monotonic()
    assert host.driver(BDF) is None  # it is not even in sysfs any more
    assert call(host, "prepare", BDF, disk=disk) == 1
    assert host.monotonic() - began < 0.1
    said = f"{BDF}: may not go to the guest: given up in this boot: not live after remove/rescan"
    assert capsys.readouterr().err.startswith(said)


def test_the_next_start_of_a_dead_drive_is_refused_with_the_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci", faults=Fault.CONFIG_FROZEN)
    marks.mark_dead(host, BDF, HookError(f"{BDF}: not live after remove/rescan: all ones"))
    host.trace.clear()
    assert call(host, "prepare", BDF) == 1
    assert capsys.readouterr().err == (
        f"{BDF}: may not go to the guest: given up in this boot: not live after remove/rescan:"
        " all ones\n"
        f"  hint: power the host off and on; or try virt-nvme-reset recover {BDF}\n"
    )
    assert host.texts() == []


def test_a_drive_that_somebody_else_revived_is_given_up_no_more() -> None:
    host = SimHost()
    host.add(BDF, SM951)
    marks.mark_dead(host, BDF, HookError("x"))
    assert call(host, "prepare", BDF) == 0
    at_rest(host)


def test_a_neighbour_is_neither_reset_nor_switched_off(caplog: pytest.LogCaptureFixture) -> None:
    host = SimHost()
    host.add(BDF, SM951, faults=Fault.BUS_RESET_CURES, beside=[NEIGHBOUR], slot="7")
    host.function(BDF).frozen = True
    host.device(BDF).set_driver(None)
    journal.claim(host, UUID, [BDF])
    assert call(host, "release", BDF) == 0
    assert f"remove/bus/rescan: would also reset {NEIGHBOUR}" in caplog.text
    assert f"slot power: would also reset {NEIGHBOUR}" in caplog.text
    assert host.nvme_state(NEIGHBOUR) == "live"
    assert host.violations == []


def test_the_bus_is_reset_by_hand_where_the_kernel_has_no_word_for_it() -> None:
    host = frozen(Fault.BUS_RESET_CURES)
    host.machine.bridges[PORT].has_reset_subordinate = False
    assert call(host, "release", BDF) == 0
    writes = [event for event in host.trace if event.text.startswith("config write 0x3e")]
    assert [event.text for event in writes] == [
        "config write 0x3e=0x0040",
        "config write 0x3e=0x0000",
    ]
    assert writes[1].seconds - writes[0].seconds == pytest.approx(0.002)
    host.sleep(1.0)
    assert host.nvme_state(BDF) == "live"


def test_a_driver_that_is_still_at_it_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host = SimHost()
    host.add(BDF, SM951)
    journal.claim(host, UUID, [BDF])
    monkeypatch.setattr(host, "nvme_state", lambda _: "connecting")
    assert call(host, "release", BDF) == 0
    assert (
        "back with the host, not live: host's nvme driver: connecting after 10.0 s" in caplog.text
    )
    assert host.texts() == []
    at_rest(host)


def test_a_drive_that_the_hosts_driver_does_not_want_is_only_cleaned() -> None:
    """No nvme driver is loaded, or driver_override says otherwise: nobody would bind it."""
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    assert call(host, "start", BDF) == 0
    host.drivers.discard("nvme")
    host.write_attr(BDF, "driver_override", "\n")
    host.write_attr(BDF, "driver/unbind", str(BDF))
    host.trace.clear()
    assert call(host, "release", BDF) == 0
    assert "drivers_probe=0000:01:00.0" not in host.texts()
    assert "remove=1" not in host.texts()
    assert host.driver(BDF) is None
    at_rest(host)


def test_a_probe_is_worth_another_try_after_a_reset() -> None:
    """nvme gave up on RDY: controller, then a reset by the bus, each followed by a probe."""
    host = SimHost()
    host.add(BDF, ORDINARY, faults=Fault.RDY_STUCK)
    host.device(BDF).set_driver(None)
    host.device(BDF).power_state = "unknown"
    outcome = custody.verify(at_work(host))
    assert outcome.startswith("live: controller and flr and probe, ")


def recover(host: SimHost) -> list[str]:
    host.new_process()
    return [str(each) for each in recovery.recover_all(host, Policy())]


def test_nothing_is_left_over() -> None:
    host = SimHost()
    host.add(BDF, SM951)
    assert recover(host) == []
    assert host.texts() == []


def orphan() -> SimHost:
    """QEMU is gone, and no hook came."""
    host = SimHost()
    host.add(BDF, SM951)
    life = Life(host, [(BDF, True)], called)
    assert life.start()
    host.machine.end_qemu(UUID, 0.0)
    host.device(BDF).vfio.references = 0
    host.device(BDF).vfio.user = ""
    host.keepers.clear()
    host.device(BDF).enable_count = 0
    return host


def test_a_guest_that_is_gone_without_a_hook_is_undone() -> None:
    host = orphan()
    host.clock.advance(ON_ITS_WAY + 1)
    said = recover(host)
    assert said[0].startswith(f"{BDF}: pristine: controller and flr, ")
    assert said[0].endswith("; still on vfio-pci: virsh nodedev-reattach pci_0000_01_00_0")
    assert said[1:] == [f"guest {UUID}: gone, and no hook came: forgotten"]
    assert host.read_attr(BDF, "reset_method") == "flr bus"
    at_rest(host)


@pytest.mark.parametrize("last_heard", ["start", "stopped", "reconnect"])
def test_a_guest_that_a_hook_has_just_heard_of_is_left_alone(last_heard: str) -> None:
    host = orphan()
    host.clock.advance(1000.0)
    assert call(host, last_heard, BDF) == 0
    host.clock.advance(25.0)
    host.trace.clear()
    assert recover(host) == []
    assert host.texts() == []
    with pytest.raises(DeviceBusy, match=f"the guest with uuid {UUID} has it"):
        recovery.recover_one(host, Policy(), BDF)


def test_what_a_hook_has_left_that_died_before_it_owned_anything_is_undone() -> None:
    host = SimHost()
    host.add(BDF, SM951)
    Undo(host, BDF).keep("reset_method", "flr")
    assert recover(host) == [f"{BDF}: live: nothing to do"]
    assert host.read_attr(BDF, "reset_method") == "flr"
    at_rest(host)


def test_what_was_taken_out_while_its_guest_was_gone_is_not_looked_for() -> None:
    host = SimHost()
    journal.claim(host, UUID, [BDF])
    host.clock.advance(ON_ITS_WAY + 1)
    assert recover(host) == [f"guest {UUID}: gone, and no hook came: forgotten"]
    assert host.texts() == []
    at_rest(host)


def test_recover_is_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person waits for it, and not libvirtd: it has as long as any operation may have."""
    host = orphan()
    host.clock.advance(1000.0)
    host.device(BDF).enable_count = 1
    began = host.monotonic()
    said = recover(host)
    assert "still open through vfio 150 s after" in said[0]
    assert host.monotonic() - began == pytest.approx(150.0, abs=0.1)
    assert owned(host, UUID) == (BDF,)


def test_a_guest_that_runs_is_left_alone() -> None:
    host = SimHost()
    host.add(BDF, SM951)
    life = Life(host, [(BDF, True)], called)
    assert life.start()
    host.clock.advance(1000.0)
    host.trace.clear()
    assert recover(host) == []
    with pytest.raises(DeviceBusy, match="has it"):
        recovery.recover_one(host, Policy(), BDF)
    assert host.texts() == []


def test_records_of_an_earlier_boot_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    host = SimHost()
    host.add(BDF, SM951)
    with monkeypatch.context() as patch:
        patch.setattr(host, "boot_id", lambda: "an earlier one")
        journal.claim(host, UUID, [BDF])
        Undo(host, BDF).keep("reset_method", "bus")
        marks.mark_dead(host, BDF, HookError("x"))
    assert recover(host) == [
        f"owners/{UUID}: of an earlier boot: dropped",
        f"journal/{BDF}: of an earlier boot: dropped",
        f"dead/{BDF}: of an earlier boot: dropped",
    ]
    assert host.read_attr(BDF, "reset_method") == "flr bus"
    at_rest(host)


def test_a_record_that_cannot_be_believed_is_told() -> None:
    host = SimHost()
    host.records.store(journal.OWNERS, UUID, b"nonsense")
    (said,) = recover(host)
    assert said.startswith(f"owners/{UUID}: not a record of virt-nvme-reset")


def test_what_is_stuck_and_what_is_dead_is_told() -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci", faults=Fault.RESET_BLOCKS)
    assert call(host, "prepare", BDF) == 1
    said = recover(host)
    assert any(
        "an earlier hook is still in the kernel with it: writing '1' to reset" in each
        for each in said
    )
    host.clock.advance(200.0)
    marks.mark_dead(host, Bdf.parse("0000:09:00.0"), HookError("all ones"))
    said = recover(host)
    assert "0000:09:00.0: given up in this boot: all ones" in said
    assert not any("in the kernel" in each for each in said)


def test_what_is_stuck_is_told_though_nothing_is_to_be_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = SimHost()
    marks.mark_stuck(host, BDF, Stuck(f"{BDF}: opening /dev/nvme0n1", pid=7, started=7))
    monkeypatch.setattr(host, "runs", lambda *_: True)
    assert recover(host) == [
        f"{BDF}: an earlier hook is still in the kernel with it: opening /dev/nvme0n1"
    ]


@pytest.mark.parametrize("known", ["by its journal", "as given up"])
def test_recover_by_name_of_one_that_is_away(known: str) -> None:
    host = SimHost()
    host.add(BDF, SM951, faults=Fault.RESCAN_CURES)
    host.function(BDF).frozen = True
    host.write_attr(BDF, "remove", "1")
    if known == "as given up":
        marks.mark_dead(host, BDF, HookError("x"))
    else:
        Undo(host, BDF).keep("port", str(PORT))
    assert recovery.recover_one(host, Policy(), BDF).startswith(f"{BDF}: live: ")
    at_rest(host)


def test_recover_by_name_is_patient() -> None:
    host = SimHost()
    host.add(BDF, SM951, "vfio-pci", Fault.CONFIG_FROZEN | Fault.SLOT_CURES, slot="7")
    said = recovery.recover_one(host, Policy(deadline=0.5), BDF)
    assert "pristine: remove/rescan and remove/bus/rescan and slot power" in said


def test_a_record_outlives_a_recovery_that_did_not_come_to_it() -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    journal.claim(host, UUID, [BDF])
    host.clock.advance(ON_ITS_WAY + 1)
    host.occupy(BDF, 1000.0)
    with pytest.raises(DeviceBusy, match="lock"):
        recovery.recover_one(host, Policy(), BDF)
    assert owned(host, UUID) == (BDF,)


@pytest.mark.parametrize(
    ("driver", "faults", "said"),
    [
        pytest.param("nvme", Fault.NONE, "live: nothing to do", id="well"),
        pytest.param("vfio-pci", Fault.NONE, "pristine: controller and flr", id="on vfio-pci"),
        pytest.param(None, Fault.NONE, "live: controller and probe", id="no driver"),
        pytest.param(
            "vfio-pci",
            Fault.CONFIG_FROZEN | Fault.RESCAN_CURES,
            "pristine: remove/rescan",
            id="frozen on vfio-pci",
        ),
    ],
)
def test_recover_by_name(driver: str | None, faults: Fault, said: str) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver, faults)
    assert f"{BDF}: {said}" in recovery.recover_one(host, Policy(), BDF)
    at_rest(host)


def test_recover_by_name_of_one_that_was_given_up() -> None:
    host = frozen(Fault.RESCAN_CURES)
    marks.mark_dead(host, BDF, HookError("x"))
    journal.keep_only(host, UUID, [])
    assert "live: remove/rescan" in recovery.recover_one(host, Policy(), BDF)
    at_rest(host)


def test_recover_by_name_of_one_that_the_host_uses() -> None:
    host = SimHost()
    host.add(BDF, SM951, mounted="/srv")
    with pytest.raises(
        Refused, match="may not be recovered: in use by the host: mount@nvme0n1p1:/srv"
    ):
        recovery.recover_one(host, Policy(), BDF)
    assert host.texts() == []


@pytest.mark.parametrize("known", ["journaled", "given up"])
def test_nothing_excuses_what_the_host_uses(known: str) -> None:
    host = SimHost()
    host.add(BDF, SM951, mounted="/srv")
    if known == "journaled":
        Undo(host, BDF).keep("reset_method", "flr")
    else:
        marks.mark_dead(host, BDF, HookError("x"))
    with pytest.raises(Refused, match="in use by the host"):
        recovery.recover_one(host, Policy(), BDF)
    assert host.texts() == []


def test_what_no_guest_may_have_may_still_be_recovered() -> None:
    host = SimHost()
    host.add(BDF, SM951)
    assert "live: nothing to do" in recovery.recover_one(host, Policy(deny=(str(BDF),)), BDF)


def test_recover_by_name_of_one_that_nothing_brings_back() -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci", faults=Fault.CONFIG_FROZEN)
    with pytest.raises(LadderExhausted) as caught:
        recovery.recover_one(host, Policy(), BDF)
    assert caught.value.hint.startswith("power the host off and on")
    assert host.records.all == [f"dead/{BDF}"]


def test_recover_by_name_of_nothing() -> None:
    with pytest.raises(Refused, match="there is no such PCI function"):
        recovery.recover_one(SimHost(), Policy(), BDF)


def test_recover_takes_over_from_another_guests_stale_record() -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    journal.claim(host, OTHER, [BDF])
    host.clock.advance(ON_ITS_WAY + 1)
    assert "pristine" in recovery.recover_one(host, Policy(), BDF)
    at_rest(host)


def test_a_mark_that_cannot_be_written_is_told_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci", faults=Fault.CONFIG_FROZEN)
    store = host.records.store

    def full(folder: str, name: str, data: bytes) -> None:
        if folder == marks.DEAD:
            raise BadRecord(f"{folder}/{name}: writing: No space left on device")
        store(folder, name, data)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(LadderExhausted):
        patch.setattr(host.records, "store", full)
        custody.verify(at_work(host))
    assert "No space left on device" in caplog.text
    assert host.records.all == []
