# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keeper, hook, second guest and libvirt's unbind in each other's way."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from libvirt_hooks import keepers, store
from libvirt_hooks.deadline import Deadline
from libvirt_hooks.host import Host
from libvirt_hooks.linux import processes
from libvirt_hooks.linux.host import LinuxHost
from libvirt_hooks.simulator.clock import KEEPER
from libvirt_hooks.simulator.domain_xml import Assigned
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID, Life
from libvirt_hooks.simulator.models import ORDINARY, SM951

from .lives import BDF, OTHER, SECOND, at_rest, call, called, one
from .test_keeper import resets, running


def close_qemus(host: SimHost) -> None:
    """QEMU's own descriptor is gone, its keeper's is not."""
    dev = host.device(BDF)
    dev.vfio.user = ""
    dev.vfio.references -= 1


def plugged(host: SimHost, life: Life) -> None:
    """A second drive, hot-plugged: no hook has seen it, so no record says whose it is."""
    host.add(SECOND, SM951, pristine=True)
    host.device(SECOND).set_driver(None)
    host.function(SECOND).controller.reset()
    host.clock.advance(1.0)
    assert life.attach(Assigned(SECOND))


def test_a_hook_that_waits_for_the_close_locks_nobody_out() -> None:
    """QEMU is in D state, with another device, when libvirt gives up; it ends 13 s later."""
    host, _ = running()
    close_qemus(host)
    ends = host.clock.now + 13.0
    sleep = host.sleep
    done: list[bool] = []

    def sleeping(seconds: float) -> None:
        sleep(seconds)
        if not done and host.clock.now >= ends:
            done.append(True)
            host.machine.end_qemu(UUID, host.clock.now)
            workers = host._workers
            hook = workers._doing, workers._worker, workers._deadline
            host.keepers.finish(UUID, host.clock.now)
            workers._doing, workers._worker, workers._deadline = hook

    host.sleep = sleeping  # type: ignore[method-assign]
    began = host.clock.now
    assert call(host, "stopped", BDF) == 0
    assert done
    assert host.clock.now - began < 14.0
    assert "CC=0x00460060" in host.texts(BDF, [KEEPER])
    assert resets(host) == ["reset flr"]


def test_a_function_that_is_being_unbound_is_not_idle() -> None:
    """libvirt's unbind waits for the keeper; the link to the driver is gone before that."""
    host, life = running()
    plugged(host, life)
    refused: list[int] = []
    look = host.keepers.look

    def another_guest_starts(uuid: str) -> None:
        refused.append(call(host, "prepare", SECOND, uuid=OTHER))
        look(uuid)

    host.keepers.look = another_guest_starts  # type: ignore[method-assign]
    life.unplug(SECOND)
    assert refused == [1]
    assert host.violations == []


def test_a_guard_that_could_not_be_set_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    host, life = running()
    host.occupy(SECOND, 8.0)
    plugged(host, life)
    for _ in range(20):
        life.idle(1.0)
        host.keepers.look(UUID)
    life.guest_reboot()
    assert host.function(SECOND).lethal_flrs == 0
    assert host.read_attr(SECOND, "reset_method") == "bus"
    assert len([each for each in caplog.messages if "lock: still taken" in each]) == 1


def test_what_was_unplugged_just_before_the_end_is_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unmanaged: libvirt unbinds nothing at the unplug, so nothing has waited for the keeper."""
    host = SimHost()
    host.add(BDF, SM951, "vfio-pci")
    host.add(SECOND, SM951)
    control = host.read_attr(BDF, "power/control")
    life = Life(host, [(BDF, False), (SECOND, True)], called)
    assert life.start()
    monkeypatch.setattr(life, "_wait_for_keeper", lambda dev: None)
    life.unplug(BDF)
    life.destroy()
    assert host.read_attr(BDF, "power/control") == control
    at_rest(host)


def test_the_keeper_of_the_guests_last_life_is_not_this_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be in the kernel for 65 s, closing a dead drive. Real processes."""
    (tmp_path / "devices").mkdir()
    host = LinuxHost(devices=str(tmp_path / "devices"), run=str(tmp_path / "run"))
    closing, qemu = (subprocess.Popen(["/bin/sleep", "60"]) for _ in range(2))
    try:
        was = [qemu.pid, processes.start_time(qemu.pid)]
        qemu.kill()
        qemu.wait()
        process = [closing.pid, processes.start_time(closing.pid)]
        content = {"process": process, "qemu": was, "bdfs": [], "seconds": 0}
        store.save(host, "keepers", UUID, content)
        started: list[str] = []
        monkeypatch.setattr(host, "start_keeper", started.append)
        keepers.start(host, UUID)
        assert started == [UUID]
    finally:
        closing.kill()
        closing.wait()


def test_one_keeper_withdraws_no_others_record() -> None:
    host, life = running()
    (first,) = host.keepers.of(UUID)
    host.records.store("keepers", UUID, b"garbage")
    life.daemon_restart()  # nobody can know that there is one
    (_, second) = host.keepers.of(UUID)
    keepers.withdraw(host, UUID, (first.pid, first.pid))
    found = keepers.find(host, UUID)
    assert found is not None
    assert found.process == (second.pid, second.pid)
    life.destroy()
    assert host.function(BDF).lethal_flrs == 0
    host.clock.advance(1.0)
    at_rest(host)


def test_one_bad_record_keeps_no_other_drive_from_its_keeper() -> None:
    host = SimHost()
    host.add(BDF, ORDINARY)
    host.add(SECOND, SM951)
    life = Life(host, [(BDF, True), (SECOND, True)], called)
    run_hook = life._run_hook

    def spoilt(operation: str, suboperation: str) -> bool:
        if operation == "started":
            host.records.store("journal", str(BDF), b"garbage")
        return run_hook(operation, suboperation)

    life._run_hook = spoilt  # type: ignore[method-assign]
    life.start()
    (keeper,) = keepers.find_all(host)
    assert keeper.bdfs == (SECOND,)


def test_a_hook_meets_a_keeper_that_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator's part of it: what happens beside the hook is seen when it happens."""
    host, life = one(SM951, faults=Fault.SLOW_RDY)
    assert life.start()
    met: list[keepers.Keeper | None] = []
    await_end = keepers.await_end

    def watched(host: Host, uuid: str, deadline: Deadline, share: float) -> None:
        met.append(keepers.find(host, uuid))
        await_end(host, uuid, deadline, share)
        met.append(keepers.find(host, uuid))

    monkeypatch.setattr(keepers, "await_end", watched)
    life.destroy()
    assert met[0] is not None
    assert met[0].seconds == 30.5  # CAP.TO of this model is 60: what it may take
    assert met[1] is None
    at_rest(host)


@pytest.mark.parametrize(("seconds", "killed"), [(0.0, True), (30.5, False)])
def test_a_keeper_has_the_time_that_cap_to_gives_its_drives(
    seconds: float, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is at it for 12 s; its share without that is 10 s."""
    host, _ = running()
    (each,) = host.keepers.of(UUID)
    host.machine.end_qemu(UUID, host.clock.now)
    content = {"process": [each.pid] * 2, "qemu": [4211] * 2, "bdfs": [], "seconds": seconds}
    store.save(host, "keepers", UUID, content)
    until = host.clock.now + 12.0
    runs: Callable[[int, int], bool] = lambda pid, _: pid == each.pid and host.clock.now < until  # noqa: E731
    monkeypatch.setattr(host, "runs", runs)
    victims: list[int] = []
    monkeypatch.setattr(host, "kill", lambda pid, started: victims.append(pid))
    keepers.await_end(host, UUID, Deadline(host.monotonic, 20.0, 150.0), 10.0)
    assert bool(victims) is killed


@pytest.mark.parametrize(("ends", "killed"), [(4.0, True), (6.0, False)])
def test_a_keeper_is_killed_only_once_its_qemu_has_ended(
    ends: float, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operation has 5 s, less than the keeper's share."""
    host, _ = running()
    (each,) = host.keepers.of(UUID)
    content = {"process": [each.pid] * 2, "qemu": [4211] * 2, "bdfs": [], "seconds": 0.0}
    store.save(host, "keepers", UUID, content)
    began = host.clock.now
    victims: list[int] = []
    runs: Callable[[int, int], bool] = lambda pid, _: (  # noqa: E731
        pid not in victims if pid == each.pid else host.clock.now < began + ends
    )
    monkeypatch.setattr(host, "runs", runs)
    monkeypatch.setattr(host, "kill", lambda pid, started: victims.append(pid))
    keepers.await_end(host, UUID, Deadline(host.monotonic, 5.0), 10.0)
    assert victims == [each.pid] * killed
    assert host.records.names("keepers") == [UUID] * (not killed)
    assert 5.0 <= host.clock.now - began < 5.1


def test_a_hook_that_gives_up_on_a_keeper_says_who_has_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host, _ = running()
    (each,) = host.keepers.of(UUID)
    host.machine.end_qemu(UUID, host.clock.now)
    close_qemus(host)
    monkeypatch.setattr(host, "runs", lambda pid, started: pid == each.pid)  # in D state
    monkeypatch.setattr(host, "kill", lambda pid, started: None)
    assert call(host, "stopped", BDF) == 0
    (said,) = [message for message in caplog.messages if "still open through vfio" in message]
    assert f"by {each.pid} (keeper of guest {UUID})" in said


def test_a_guard_is_set_without_a_look_at_configuration_space() -> None:
    """A guest that reboots on a dead drive keeps every reader of that in the kernel for 65 s."""
    host, life = running()

    def blocks(*_: object) -> bytes:
        raise AssertionError("configuration space was read")

    read, host.read_config = host.read_config, blocks  # type: ignore[method-assign,assignment]
    life.daemon_restart()
    host.read_config = read  # type: ignore[method-assign]
    assert host.read_attr(BDF, "reset_method") == "bus"
    life.destroy()
    at_rest(host)
