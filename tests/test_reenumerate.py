# SPDX-License-Identifier: LGPL-2.1-or-later
"""Taking a function away and finding it again: what is journaled, and what outlives a crash."""

import errno

import pytest

from libvirt_hooks import custody, reenumerate
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import DeviceBusy, SysfsError
from libvirt_hooks.journal import Undo
from libvirt_hooks.ladder import Reenumerate
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.models import SM951

from .lives import BDF, at_work

PORT = Bdf.parse("0000:00:01.0")


def on_vfio(faults: Fault = Fault.NONE) -> SimHost:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci", faults=faults)
    host.trace.clear()
    return host


def drivers(host: SimHost) -> list[str]:
    return [text.removeprefix("driver=") for text in host.texts() if text.startswith("driver=")]


def test_a_driver_of_choice_is_bound_before_any_other_can() -> None:
    host = on_vfio()
    host.machine.autoprobe_is_checked = True
    reenumerate.reenumerate(at_work(host), Reenumerate())
    assert [text for text in host.texts() if not text.startswith("power")] == [
        "drivers_autoprobe=0",
        "remove=1",
        "driver=none",
        "removed",
        "rescan",
        "found by rescan",
        "driver_override=vfio-pci",
        "drivers_probe=0000:01:00.0",
        "driver=vfio-pci",
        "driver_override=",
        "drivers_autoprobe=1",
    ]
    assert at_work(host).undo.original("reset_method") == "flr bus"


def test_what_the_kernel_binds_all_the_same_goes_at_once() -> None:
    """Until Linux 6.19 drivers_autoprobe keeps no driver from what is found."""
    host = on_vfio()
    reenumerate.reenumerate(at_work(host), Reenumerate())
    assert drivers(host) == ["none", "nvme", "none", "vfio-pci"]
    assert host.device(BDF).driver_override is None
    assert not reenumerate.is_due(at_work(host))


def test_what_the_host_has_begun_to_use_stays_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have had minutes: between a hook that was killed and the next."""
    host = on_vfio()
    rescan = host.rescan

    def mounted_at_once(bdf: Bdf) -> None:
        rescan(bdf)
        host.device(bdf).mounted = "/srv"

    monkeypatch.setattr(host, "rescan", mounted_at_once)
    with pytest.raises(DeviceBusy) as caught:
        reenumerate.reenumerate(at_work(host), Reenumerate())
    assert caught.value.message == (
        "0000:01:00.0: may not go back to vfio-pci: in use by the host: mount@nvme0n1p1:/srv"
    )
    assert caught.value.hint == "umount /srv, then virt-nvme-reset recover 0000:01:00.0"
    assert drivers(host) == ["none", "nvme"]
    assert host.machine.autoprobe

    host.device(BDF).mounted = ""
    reenumerate.finish(at_work(host))
    assert host.driver(BDF) == "vfio-pci"
    assert not reenumerate.is_due(at_work(host))


def test_what_udev_has_open_for_a_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    host = on_vfio()
    looks = iter([["nvme0n1"], ["nvme0n1"], []])
    monkeypatch.setattr(host, "claimed", lambda _: next(looks))
    reenumerate.reenumerate(at_work(host), Reenumerate())
    assert host.driver(BDF) == "vfio-pci"
    assert next(looks, None) is None


def test_the_hosts_driver_is_left_to_the_kernel() -> None:
    host = SimHost()
    host.add(BDF, SM951)
    host.trace.clear()
    reenumerate.reenumerate(at_work(host), Reenumerate())
    assert "drivers_autoprobe=0" not in host.texts()
    host.sleep(1.0)
    assert host.nvme_state(BDF) == "live"


@pytest.mark.parametrize("checked", [False, True])
def test_an_override_keeps_a_function_without_a_driver_from_getting_one(checked: bool) -> None:
    host = SimHost()
    host.machine.autoprobe_is_checked = checked
    host.add(BDF, SM951, driver=None)
    host.write_attr(BDF, "driver_override", "none")
    reenumerate.reenumerate(at_work(host), Reenumerate())
    assert host.driver(BDF) is None
    assert host.read_attr(BDF, "driver_override") == "none"


def test_drivers_autoprobe_of_somebody_who_switched_it_off_stays_off() -> None:
    host = on_vfio()
    host.machine.autoprobe = False
    reenumerate.reenumerate(at_work(host), Reenumerate())
    assert host.driver(BDF) == "vfio-pci"
    assert not host.machine.autoprobe
    assert at_work(host).undo.original("drivers_autoprobe") is None


def test_two_at_once_do_not_free_each_others_probes() -> None:
    host = on_vfio()
    host._workers.locked_until["drivers_autoprobe"] = 1000.0
    with pytest.raises(DeviceBusy, match="drivers_autoprobe: lock"):
        reenumerate.reenumerate(at_work(host), Reenumerate())
    assert "remove=1" not in host.texts()


def test_probes_are_freed_when_the_kernel_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    host = on_vfio()
    write = host.write_attr

    def refuses(bdf: object, name: str, value: str) -> None:
        if name == "remove":
            raise SysfsError(bdf, "writing '1' to remove", errno.EPERM)
        write(BDF, name, value)

    monkeypatch.setattr(host, "write_attr", refuses)
    with pytest.raises(SysfsError):
        reenumerate.reenumerate(at_work(host), Reenumerate())
    assert host.machine.autoprobe
    assert host.driver(BDF) == "vfio-pci"


def test_what_is_not_found_stays_due_until_it_is_given_up() -> None:
    host = on_vfio()
    host.function(BDF).frozen = True
    work = at_work(host)
    reenumerate.reenumerate(work, Reenumerate())
    assert not work.present and reenumerate.is_due(work)
    assert custody.put_back(work) == "taken away by an earlier hook, and not found again"
    assert work.undo.original("reset_method") == "flr bus"
    host.function(BDF).frozen = False
    assert custody.put_back(work) == "everything is as it was"
    assert work.driver == "vfio-pci"
    assert host.records.all == []


def test_what_was_given_up_leaves_nothing() -> None:
    host = on_vfio()
    host.function(BDF).frozen = True
    work = at_work(host)
    reenumerate.reenumerate(work, Reenumerate())
    reenumerate.give_up(work)
    assert not reenumerate.is_due(work)
    assert host.records.all == []


def test_a_slot_that_was_left_off_is_switched_on() -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci", slot="7")
    work = at_work(host)
    work.undo.keep("slot", "7")
    work.undo.keep("port", "0000:00:01.0")
    work.undo.keep("driver", "vfio-pci")
    host.write_bus("slots/7/power", "0")
    assert not work.present
    reenumerate.finish(work)
    assert work.present
    assert not reenumerate.is_due(work)


def test_a_bridge_that_refuses_is_no_reason_for_another_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only a missing reset_subordinate is: EPERM would be lockdown, and the other way forbidden."""
    host = on_vfio()
    port = host.port(BDF)
    assert port is not None
    write = host.write_attr

    def refuses(bdf: object, name: str, value: str) -> None:
        if name == "reset_subordinate":
            raise SysfsError(bdf, "writing '1' to reset_subordinate", errno.EPERM)
        write(BDF, name, value)

    monkeypatch.setattr(host, "write_attr", refuses)
    with pytest.raises(SysfsError):
        reenumerate.reenumerate(at_work(host), Reenumerate(port=port))
    assert not any("0x3e" in text for text in host.texts())


@pytest.mark.parametrize("value", ["", "x"])
@pytest.mark.parametrize("name", ["port", "slot", "driver", "driver_override"])
def test_any_entry_of_a_removal_makes_it_due_and_none_outlives_it(name: str, value: str) -> None:
    work = at_work(on_vfio())
    assert not reenumerate.is_due(work)
    work.undo.keep(name, value)
    assert reenumerate.is_due(work)
    reenumerate.give_up(work)
    assert not reenumerate.is_due(work)


@pytest.mark.parametrize(
    ("step", "first", "then"),
    [
        pytest.param(
            Reenumerate(port=PORT), "reset_subordinate=1", "rescan", id="a reset of its bus"
        ),
        pytest.param(
            Reenumerate(slot="7"), "slots/7/power=0", "slots/7/power=1", id="its slot's power"
        ),
    ],
)
def test_a_second_of_rest(step: Reenumerate, first: str, then: str) -> None:
    """PCI Express Base 5.0, 6.6.1: so long may a function be silent after either."""
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci", slot="7")
    reenumerate.reenumerate(at_work(host), step)
    at = {event.text: event.seconds for event in host.trace}
    assert at[then] - at[first] == pytest.approx(1.0, abs=0.02)


def test_a_slot_is_not_switched_on_under_a_function_that_is_there() -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci", slot="7")
    work = at_work(host)
    work.undo.keep("slot", "7")
    host.trace.clear()
    reenumerate.finish(work)
    assert host.texts() == []
    assert host.records.all == []


def test_a_slot_that_went_dark_is_not_switched_off_again() -> None:
    """The kernel switches a slot off in which it found nothing, and refuses to do so twice."""
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci", slot="7")
    host.function(BDF).frozen = True
    with pytest.raises(SysfsError, match="writing '1' to slots/7/power"):
        reenumerate.reenumerate(at_work(host), Reenumerate(slot="7"))
    assert host.read_bus("slots/7/power") == "0"
    host.function(BDF).frozen = False
    host.trace.clear()
    reenumerate.reenumerate(at_work(host), Reenumerate(slot="7"))
    assert "slots/7/power=0" not in host.texts()
    assert host.driver(BDF) == "vfio-pci"
    assert not reenumerate.is_due(at_work(host))


@pytest.mark.parametrize(
    ("attribute", "entry", "expected"),
    [
        pytest.param("slots/7/power", "slot", [("0", "7"), ("1", "7")], id="slot"),
        pytest.param(
            "drivers_autoprobe", "drivers_autoprobe", [("0", "1"), ("1", "1")], id="probes"
        ),
    ],
)
def test_what_is_switched_off_is_journaled_before_and_until_it_is_on(
    attribute: str, entry: str, expected: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci", slot="7")
    kept: list[tuple[str, str | None]] = []
    write = host.write_bus

    def spy(name: str, value: str) -> None:
        if name == attribute:
            kept.append((value, Undo(host, BDF).original(entry)))
        write(name, value)

    monkeypatch.setattr(host, "write_bus", spy)
    reenumerate.reenumerate(at_work(host), Reenumerate(slot="7"))
    assert kept == expected


def test_of_what_was_away_already_nothing_is_remembered() -> None:
    host = on_vfio()
    host.write_attr(BDF, "remove", "1")
    host.function(BDF).frozen = True
    work = at_work(host)
    reenumerate.reenumerate(work, Reenumerate())
    assert not reenumerate.is_due(work)


def test_a_driver_that_has_bound_is_not_told_to() -> None:
    host = on_vfio()
    work = at_work(host)
    work.undo.keep("driver", "vfio-pci")
    reenumerate.finish(work)
    assert not any(text.startswith(("driver_override", "drivers_probe")) for text in host.texts())


def test_another_removal_is_waited_for() -> None:
    host = on_vfio()
    host._workers.locked_until["drivers_autoprobe"] = host.monotonic() + 3.0
    reenumerate.reenumerate(at_work(host), Reenumerate())
    assert host.driver(BDF) == "vfio-pci"


@pytest.mark.parametrize("before", [0x0003, 0x0043], ids=["plain", "in reset already"])
def test_the_bridges_other_bits_stay(before: int) -> None:
    host = on_vfio()
    host.machine.bridges[PORT].has_reset_subordinate = False
    host.machine.bridges[PORT].config[0x3E:0x40] = before.to_bytes(2, "little")
    reenumerate.reenumerate(at_work(host), Reenumerate(port=PORT))
    writes = [text for text in host.texts() if text.startswith("config write 0x3e")]
    assert writes == ["config write 0x3e=0x0043", "config write 0x3e=0x0003"]
