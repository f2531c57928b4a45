# SPDX-License-Identifier: LGPL-2.1-or-later
"""Taking a function away and finding it again: what is journaled, and what outlives a crash."""

import errno

import pytest

from libvirt_hooks import custody, reenumerate
from libvirt_hooks.errors import DeviceBusy, SysfsError
from libvirt_hooks.ladder import Reenumerate
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.models import SM951

from .lives import BDF, at_work


def on_vfio(faults: Fault = Fault.NONE) -> SimHost:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci", faults=faults)
    host.trace.clear()
    return host


def test_a_driver_of_choice_is_bound_before_any_other_can() -> None:
    host = on_vfio()
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


def test_the_hosts_driver_is_left_to_the_kernel() -> None:
    host = SimHost()
    host.add(BDF, SM951)
    host.trace.clear()
    reenumerate.reenumerate(at_work(host), Reenumerate())
    assert "drivers_autoprobe=0" not in host.texts()
    host.sleep(1.0)
    assert host.nvme_state(BDF) == "live"


def test_an_override_keeps_a_function_without_a_driver_from_getting_one() -> None:
    host = SimHost()
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
