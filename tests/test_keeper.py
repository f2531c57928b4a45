# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keeper beside a guest: what vfio's last close meets, and what holds where no keeper does."""

import json
import logging
from collections.abc import Callable

import pytest

from libvirt_hooks import engine
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import HookError, SysfsError
from libvirt_hooks.keeper import Keeper
from libvirt_hooks.observe import Observation
from libvirt_hooks.simulator import vfio
from libvirt_hooks.simulator.clock import KEEPER
from libvirt_hooks.simulator.domain_xml import Assigned
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID, Life
from libvirt_hooks.simulator.models import ORDINARY, P3700, SM951, SM961, Model
from libvirt_hooks.work import Work

from .lives import BDF, SECOND, End, at_rest, called, one

NEIGHBOUR = BDF._replace(function=1)
NO_KEEPER = "; without a keeper reset_method alone guards"


def kept(host: SimHost, uuid: str = UUID) -> list[str] | None:
    """What a keeper says that it holds, read as the file that it is."""
    data = host.records.load("keepers", uuid)
    return None if data is None else json.loads(data)["bdfs"]


def resets(host: SimHost, bdf: Bdf = BDF) -> list[str]:
    """What the kernel reset, in order."""
    return [text for text in host.texts(bdf, ["kernel"]) if text in ("reset flr", "bus reset")]


def running(model: Model = SM951, faults: Fault = Fault.NONE) -> tuple[SimHost, Life]:
    """A guest that runs; nothing has been noted of it yet."""
    host, life = one(model, faults=faults)
    assert life.start()
    host.trace.clear()
    host.effects.clear()
    return host, life


def ends_well(host: SimHost, life: Life) -> None:
    assert all(each.alive for each in life.verdicts()), life.verdicts()
    assert host.function(BDF).lethal_flrs == 0
    at_rest(host)


ENDS = {
    "shutdown": Life.guest_shutdown,
    "destroy": Life.destroy,
    "kill -9 of QEMU": Life.kill,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_vfios_last_reset_is_an_flr_of_a_disabled_controller(end: End) -> None:
    host, life = running()
    end(life)
    noted = host.texts(BDF, [KEEPER, "drive", "kernel"])
    began = noted.index("CC=0x00460060")
    assert noted[began : began + 6] == [
        "CC=0x00460060",
        "CSTS.RDY=0",
        "reset_method=flr",
        "vfio close",
        "reset flr",
        "reset_method=flr bus",
    ]
    assert resets(host) == ["reset flr"]
    ends_well(host, life)


@pytest.mark.parametrize("managed", [True, False], ids=["managed", "unmanaged"])
def test_the_hook_finds_nothing_to_do_after_it(managed: bool) -> None:
    host, life = one(SM951, managed=managed)
    assert life.start()
    host.trace.clear()
    life.destroy()
    assert resets(host) == ["reset flr"]
    assert not [text for text in host.texts(BDF, ["hook"]) if text.startswith("CC=")]
    ends_well(host, life)


def test_a_reboot_of_the_guest_is_the_guards() -> None:
    host, life = running()
    life.guest_reboot()
    assert resets(host) == ["bus reset"]
    life.guest_shutdown()
    assert resets(host) == ["bus reset", "reset flr"]
    ends_well(host, life)


def test_on_a_shared_bus_vfio_resets_nothing_and_the_hook_does() -> None:
    """With an empty guard at the open vfio believes in no reset_method at the close."""
    host, life = one(SM951)
    host.add(NEIGHBOUR, ORDINARY)
    assert life.start()
    life.destroy()
    assert resets(host) == ["reset flr"]
    assert host.function(NEIGHBOUR).bus_resets == 0
    ends_well(host, life)


@pytest.mark.parametrize(
    ("model", "policy", "is_kept"),
    [
        pytest.param(SM951, "", True, id="an FLR kills it"),
        pytest.param(ORDINARY, "", False, id="an FLR does it no harm"),
        pytest.param(SM961, "", False, id="the kernel knows better"),
        pytest.param(P3700, "", False, id="an FLR does it no harm, but it needs care"),
        pytest.param(SM951, '[drive."144d:a802"]\nclose = "guard"\n', False, id="by request"),
        pytest.param(ORDINARY, '[drive."0000:01:00.0"]\nclose = "holder"\n', True, id="as asked"),
        pytest.param(SM951, 'mode = "off"\n', False, id="off"),
    ],
)
def test_who_gets_a_keeper(model: Model, policy: str, is_kept: bool) -> None:
    host, life = one(model)
    host.policy_text = policy or None
    assert life.start()
    assert [bool(each) for each in (host.keepers.of(UUID), kept(host))] == [is_kept] * 2
    if 'mode = "off"' not in policy:
        life.destroy()
        ends_well(host, life)


def test_observe_mode_says_that_it_would(caplog: pytest.LogCaptureFixture) -> None:
    host, life = one(SM951)
    host.policy_text = 'mode = "observe"\n'
    caplog.set_level(logging.INFO)
    assert life.start()
    assert host.keepers.of(UUID) == []
    (said,) = [each for each in caplog.messages if "observe: started would: " in each]
    assert "keep a duplicate of its descriptor" in said


def without_permission(host: SimHost) -> None:
    host.may_take = False


def without_a_program(host: SimHost) -> None:
    def vanish(uuid: str) -> None:
        raise HookError(f"guest {uuid}: starting its keeper: No such file or directory")

    host.start_keeper = vanish  # type: ignore[method-assign]


@pytest.mark.parametrize("broken", [without_permission, without_a_program])
def test_without_a_keeper_the_guard_alone_protects(
    broken: Callable[[SimHost], None], caplog: pytest.LogCaptureFixture
) -> None:
    host, life = one(SM951)
    broken(host)
    assert life.start()
    assert kept(host) is None
    host.trace.clear()
    life.guest_shutdown()
    assert resets(host) == ["bus reset"]
    ends_well(host, life)
    if broken is without_a_program:
        assert [each for each in caplog.messages if each.endswith(NO_KEEPER)] == [
            f"guest {UUID}: starting its keeper: No such file or directory{NO_KEEPER}"
        ]


def test_a_keeper_that_is_killed_leaves_the_guard() -> None:
    host, life = running()
    host.keepers.kill(UUID)
    assert resets(host) == []
    life.guest_shutdown()
    assert resets(host) == ["bus reset"]
    ends_well(host, life)


def test_a_drive_that_does_not_obey_is_closed_with_the_guard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host, life = running(faults=Fault.RDY_STUCK)
    life.guest_shutdown()
    assert "reset_method=flr" not in host.texts(BDF, [KEEPER])
    assert resets(host) == ["bus reset"]
    assert [each for each in caplog.messages if "closed, reset_method is" in each] == [
        f"{BDF}: closed, reset_method is 'bus'"
    ]
    ends_well(host, life)


def test_it_works_alone_while_libvirtd_is_down() -> None:
    host, life = running()
    life.hook = None
    life._reattach = lambda bdfs: None  # type: ignore[method-assign]
    life.destroy()
    host.clock.advance(1.0)
    assert host.function(BDF).controller.pristine
    assert host.read_attr(BDF, "reset_method") == "flr bus"
    assert host.keepers.of(UUID) == []
    assert kept(host) is None
    del life._reattach
    life.hook = called
    life.destroy()  # what libvirtd does of it when it is there again
    ends_well(host, life)


def test_stopped_waits_for_it() -> None:
    host, life = running(faults=Fault.SLOW_RDY)
    began = host.monotonic()
    life.destroy()
    assert host.monotonic() - began >= 3.0
    assert resets(host) == ["reset flr"]
    ends_well(host, life)


def test_a_restart_of_libvirtd_finds_it_again() -> None:
    host, life = running()
    (before,) = host.keepers.of(UUID)
    life.daemon_restart()
    assert host.keepers.of(UUID) == [before]
    host.keepers.kill(UUID)
    life.daemon_restart()
    (after,) = host.keepers.of(UUID)
    assert after.pid != before.pid
    life.destroy()
    assert resets(host) == ["reset flr"]
    ends_well(host, life)


def test_a_second_keeper_is_none() -> None:
    host, life = running()
    host.keepers.start(UUID, Keeper)
    host.keepers.look(UUID)
    assert len(host.keepers.of(UUID)) == 1
    assert kept(host) == [str(BDF)]
    life.destroy()
    ends_well(host, life)


def test_unplugged_it_is_disabled_and_closed_at_once() -> None:
    host, life = running()
    life.unplug(BDF)
    assert host.texts(BDF, [KEEPER])[:2] == ["CC=0x00460060", "vfio close"]
    assert resets(host) == []  # libvirt's unbind has the device's lock
    assert kept(host) == []
    assert host.read_attr(BDF, "reset_method") == "bus"  # it may be plugged again: no hook runs
    life.destroy()
    assert host.read_attr(BDF, "reset_method") == "flr bus"
    assert host.nvme_state(BDF) == "live"
    at_rest(host)


def test_hot_plugged_it_is_held_and_guarded() -> None:
    host, life = running()
    host.add(SECOND, SM951)
    host.write_attr(SECOND, "reset_method", "bus")  # by udev: no hook sees the open
    host.clock.advance(1.0)
    assert life.attach(Assigned(SECOND))
    assert kept(host) == [str(BDF), str(SECOND)]
    life.destroy()
    assert "CC=0x00460060" in host.texts(SECOND, [KEEPER])
    assert host.read_attr(SECOND, "reset_method") == "bus"  # udev's, so it is not ours to undo
    assert host.function(SECOND).lethal_flrs == 0
    ends_well(host, life)


def test_what_is_hot_plugged_without_a_guard_gets_one() -> None:
    host, life = running()
    host.add(SECOND, SM951, pristine=True)
    host.device(SECOND).set_driver(None)
    host.function(SECOND).controller.reset()
    host.clock.advance(1.0)
    assert life.attach(Assigned(SECOND))
    assert host.read_attr(SECOND, "reset_method") == "bus"
    life.guest_reboot()
    assert host.function(SECOND).lethal_flrs == 0
    life.destroy()
    assert host.read_attr(SECOND, "reset_method") == "flr bus"
    ends_well(host, life)


def test_an_ordinary_drive_that_is_hot_plugged_is_let_be() -> None:
    host, life = running()
    host.add(SECOND, ORDINARY)
    host.clock.advance(1.0)
    assert life.attach(Assigned(SECOND))
    assert kept(host) == [str(BDF)]
    assert host.read_attr(SECOND, "reset_method") == "flr bus"
    life.destroy()
    ends_well(host, life)


def test_what_was_plugged_again_meanwhile_is_the_guests() -> None:
    host, life = running()
    dev = host.device(BDF)
    dev.vfio.opens += 1  # QEMU has closed it and opened it again: another file
    host.clock.advance(1.0)
    host.keepers.look(UUID)
    assert not [text for text in host.texts(BDF, [KEEPER]) if text.startswith("CC=")]
    assert kept(host) == [str(BDF)]  # the new one
    life.destroy()
    assert resets(host) == ["reset flr"]
    ends_well(host, life)


def two(first: Fault = Fault.NONE) -> tuple[SimHost, Life]:
    host = SimHost()
    host.add(BDF, SM951, faults=first)
    host.add(SECOND, SM951)
    life = Life(host, [(BDF, True), (SECOND, True)], called)
    assert life.start()
    host.trace.clear()
    return host, life


def closes(host: SimHost) -> list[Bdf | None]:
    return [event.bdf for event in host.trace if event.text == "vfio close"]


def test_what_does_not_obey_is_closed_last() -> None:
    host, life = two(Fault.CFS_ON_DISABLE)
    life.destroy()
    assert closes(host) == [SECOND, BDF]
    assert resets(host, SECOND) == ["reset flr"]
    ends_well(host, life)


def test_an_error_of_ours_keeps_no_other_drive_open(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host, life = two()

    def fails(work: Work) -> Observation:
        if work.bdf == BDF:
            raise ZeroDivisionError("a defect")
        return engine.disable(work)

    monkeypatch.setattr("libvirt_hooks.closing.disable", fails)
    life.destroy()
    assert closes(host) == [SECOND, BDF]
    assert f"{BDF}: internal error" in caplog.messages
    ends_well(host, life)


def test_a_guest_that_left_it_asleep_and_undecoded_keeps_nothing_from_it() -> None:
    host, life = running()
    function = host.function(BDF)
    function.write_config(0x44, b"\x03\x00")  # PMCSR: D3hot
    function.write_config(0x04, b"\x00\x04")  # COMMAND: INTx off, nothing else
    life.destroy()
    assert resets(host) == ["reset flr"]
    ends_well(host, life)


def test_a_drive_that_fell_off_is_closed() -> None:
    host, life = running(faults=Fault.BUS_RESET_CURES)
    host.function(BDF).frozen = True
    life.destroy()
    assert resets(host) == ["bus reset"]
    ends_well(host, life)


def test_a_drive_that_does_not_come_back_from_its_last_reset_keeps_its_guard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host, life = running(faults=Fault.GONE_AFTER_FLR)
    life.hook = None
    life._reattach = lambda bdfs: None  # type: ignore[method-assign]
    life.destroy()
    expected = f"{BDF}: after vfio's last close: configuration space reads all ones after "
    assert [each for each in caplog.messages if each.startswith(expected)]
    assert host.read_attr(BDF, "reset_method") == "flr"
    assert json.loads(host.records.load("journal", str(BDF)) or b"")["reset_method"] == "flr bus"


def test_somebody_else_who_has_it_open_keeps_reset_method_as_it_is() -> None:
    """Such as libvirt, which passes descriptors since 12.2: the hook waits for that."""
    host, life = running()
    vfio.dup(host.device(BDF))
    life.hook = None
    life._reattach = lambda bdfs: None  # type: ignore[method-assign]
    life.destroy()
    assert host.read_attr(BDF, "reset_method") == "flr"
    host.device(BDF).vfio.closing_until = host.clock.now
    vfio.close(host.device(BDF))
    del life._reattach
    life.hook = called
    life.destroy()
    assert host.read_attr(BDF, "reset_method") == "flr bus"
    ends_well(host, life)


def test_reset_method_that_cannot_be_put_back_is_the_hooks_to_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, life = running()
    write = SimHost.write_attr

    def refuses(bdf: Bdf, name: str, value: str) -> None:
        if value == "flr bus" and host.machine.trace.actor == KEEPER:
            raise SysfsError(bdf, "writing 'flr bus' to reset_method", 5)
        write(host, bdf, name, value)

    monkeypatch.setattr(host, "write_attr", refuses)
    life.destroy()
    assert resets(host) == ["reset flr"]
    ends_well(host, life)


def test_what_cannot_be_locked_is_closed_all_the_same() -> None:
    """vfio's reset is the guard's then, as without a keeper."""
    host, life = running()
    host.occupy(BDF, 18.0)
    life.destroy()
    assert "reset_method=flr" not in host.texts(BDF, [KEEPER])
    assert resets(host)[0] == "bus reset"
    ends_well(host, life)
