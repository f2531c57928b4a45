# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel lockdown: registers through vfio, and what vfio's own resets meet when it opens them."""

import json
from dataclasses import replace

import pytest

from libvirt_hooks import custody, exclusive, journal
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.engine import look
from libvirt_hooks.errors import DeviceBusy, LadderExhausted, RegistersUnreadable
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.models import ORDINARY, SM951, Model
from libvirt_hooks.snapshot import Process

from .lives import BDF, SECOND, at_rest, at_work, call, one


def locked_down(model: Model = SM951, faults: Fault = Fault.NONE) -> SimHost:
    """On vfio-pci, asleep and enabled, as the host's driver has left it."""
    host = SimHost(lockdown=True)
    host.add(BDF, model, "vfio-pci", faults)
    host.trace.clear()
    return host


def methods(host: SimHost) -> str | None:
    return host.read_attr(BDF, "reset_method")


def kept(host: SimHost) -> dict[str, str]:
    """The journal of the controller, read as the file that it is."""
    data = host.records.load(journal.JOURNAL, str(BDF))
    return {} if data is None else json.loads(data)


def test_a_drive_that_an_flr_kills_is_disabled_before_any_reset() -> None:
    host = locked_down()
    assert custody.take(at_work(host)) == "disabled: controller, 2.0 ms"
    resets = [text for text in host.texts(BDF) if "reset" in text or text.startswith("CC=")]
    assert resets == [
        "reset_method=",
        "CC=0x00460060",
        "bus reset",  # vfio's at the close: it could not reset at the open
        "reset_method=flr bus",
        "reset_method=bus",
    ]
    assert host.function(BDF).lethal_flrs == 0
    assert host.violations == []


def test_reset_method_is_journaled_before_it_is_emptied() -> None:
    host = locked_down(ORDINARY)
    work = at_work(host)
    with exclusive.where_needed(work):
        assert methods(host) == ""
        assert kept(host)["reset_method"] == "flr bus"
        assert look(work).disabled is False
    assert methods(host) == "flr bus"
    assert kept(host) == {}


def test_a_guard_that_stands_is_back_afterwards_and_stays_journaled() -> None:
    host = locked_down()
    work = at_work(host)
    work.undo.keep("reset_method", "flr bus")
    host.write_attr(BDF, "reset_method", "bus")
    with exclusive.where_needed(work):
        assert methods(host) == ""
    assert methods(host) == "bus"
    assert kept(host)["reset_method"] == "flr bus"


def test_an_empty_guard_is_left_as_it_is() -> None:
    host = locked_down()
    work = at_work(host)
    work.undo.keep("reset_method", "flr bus")
    host.write_attr(BDF, "reset_method", "\n")
    host.trace.clear()
    with exclusive.where_needed(work):
        assert look(work).state is not None
    assert not [text for text in host.texts(BDF) if text.startswith("reset_method")]


@pytest.mark.parametrize("model", [SM951, ORDINARY], ids=["SM951", "ordinary"])
def test_an_idle_one_is_cleaned(model: Model) -> None:
    host = locked_down(model)
    assert custody.clean(at_work(host)).startswith("pristine: controller and flr, ")
    assert host.function(BDF).controller.pristine
    assert host.function(BDF).lethal_flrs == 0
    at_rest(host)


def test_on_a_shared_bus_nothing_resets_the_neighbour() -> None:
    host = SimHost(lockdown=True)
    neighbour = BDF._replace(function=1)
    host.add(BDF, SM951, "vfio-pci", beside=[neighbour])
    assert call(host, "start", BDF) == 0
    assert host.function(neighbour).bus_resets == 0
    assert not host.function(BDF).controller.flr_is_lethal
    assert methods(host) == ""


@pytest.mark.parametrize("driver", ["nvme", None])
def test_what_is_not_on_vfio_pci_is_not_opened(driver: str | None) -> None:
    host = SimHost(lockdown=True)
    host.add(BDF, ORDINARY, driver)
    with exclusive.where_needed(at_work(host)):
        assert not host.holds(BDF)


def test_what_can_be_mapped_is_not_opened() -> None:
    host = SimHost()
    host.add(BDF, ORDINARY, "vfio-pci")
    with exclusive.where_needed(at_work(host)):
        assert not host.holds(BDF)


def test_what_does_not_answer_is_not_opened() -> None:
    """vfio's close would wait for it in the kernel, 65 s."""
    host = locked_down(SM951, Fault.CONFIG_FROZEN)
    began = host.monotonic()
    with exclusive.where_needed(at_work(host)):
        assert not host.holds(BDF)
    assert host.monotonic() - began < 1.0


def test_what_somebody_has_open_is_refused_as_ever() -> None:
    host = locked_down()
    work = replace(at_work(host), users=(Process(4211, "qemu"),))
    with pytest.raises(DeviceBusy, match="open through vfio already, by 4211"):
        custody.take(work)
    assert host.texts(BDF) == []


def test_a_group_that_is_not_viable_leaves_all_as_it_was() -> None:
    host = locked_down(ORDINARY)
    host.viable = False
    work = at_work(host)
    why = (
        f"^{BDF}: registers cannot be read: mapping resource0: Operation not permitted;"
        " opening it through vfio: Operation not permitted$"
    )
    with pytest.raises(RegistersUnreadable, match=why), exclusive.where_needed(work):
        pass
    assert methods(host) == "flr bus"
    assert kept(host) == {}


def test_power_is_left_to_vfio_while_it_is_open() -> None:
    """control_store waits for the device's lock; the simulator calls it a violation."""
    host = locked_down(ORDINARY)
    work = at_work(host)
    with exclusive.where_needed(work):
        look(work)
        assert host.read_attr(BDF, "power_state") == "D0"
    assert host.violations == []
    assert kept(host) == {}


def test_a_drive_that_does_not_obey_refuses_the_start() -> None:
    host = locked_down(SM951, Fault.RDY_STUCK | Fault.RESET_EIO)
    assert call(host, "start", BDF) == 1
    assert methods(host) == "bus"


def test_two_controllers_live_through_it_at_once() -> None:
    host, life = one(SM951)
    host.lockdown = True
    host.add(SECOND, ORDINARY)
    life.devices.append(replace(life.devices[0], bdf=SECOND))
    life.guest_saw[SECOND] = []
    assert life.start()
    life.destroy()
    assert [each.alive for each in life.verdicts()] == [True, True]
    at_rest(host)


def test_what_somebody_opens_just_now_keeps_its_reset_method() -> None:
    host = locked_down()
    host.device(BDF).enable_count = 1
    with exclusive.where_needed(at_work(host)):
        assert methods(host) == "flr bus"
    assert host.texts(BDF) == []


def test_a_bar_that_a_driver_has_claimed_is_no_lockdown(monkeypatch: pytest.MonkeyPatch) -> None:
    host = SimHost()
    host.add(BDF, ORDINARY, "vfio-pci")

    def claimed(bdf: Bdf) -> None:
        raise RegistersUnreadable(f"{bdf}: mapping resource0: Invalid argument")

    monkeypatch.setattr(host, "registers", claimed)
    with exclusive.where_needed(at_work(host)):
        assert not host.holds(BDF)


def test_nothing_is_removed_while_it_is_open() -> None:
    """The removal would wait for our own close, for ever."""
    host = locked_down(SM951, Fault.RDY_STUCK | Fault.RESET_EIO)
    with pytest.raises(LadderExhausted):
        custody.verify(at_work(host))
    assert "removed" not in host.texts(BDF)
    assert host.violations == []
