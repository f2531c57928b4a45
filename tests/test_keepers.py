# SPDX-License-Identifier: LGPL-2.1-or-later
"""What hooks and the command make of keepers: their records, their ends, and those that hang."""

import pytest

from libvirt_hooks import keepers, recovery, store
from libvirt_hooks.errors import HookError
from libvirt_hooks.host import Qemu
from libvirt_hooks.keeper import Keeper
from libvirt_hooks.policy import Policy
from libvirt_hooks.simulator import qemu
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID, Life
from libvirt_hooks.simulator.models import ORDINARY, SM951

from .lives import BDF, SECOND, at_rest, called, one
from .test_keeper import ends_well, kept, resets, running


class Hanging:
    """A keeper that never lets go."""

    def __init__(self, host: SimHost, uuid: str, qemu: Qemu) -> None:
        self.host, self.keeper = host, Keeper(host, uuid, qemu)

    def begin(self) -> None:
        self.keeper.begin()

    def look(self) -> None:
        self.keeper.look()

    def finish(self) -> None:
        self.host.sleep(500.0)


def _with(program: type[Hanging], argv: list[str], xml: bytes, host: SimHost) -> int:
    start, host.start_keeper = host.start_keeper, lambda uuid: host.keepers.start(uuid, program)  # type: ignore[method-assign]
    try:
        return called(argv, xml, host)
    finally:
        host.start_keeper = start  # type: ignore[method-assign]


def test_what_it_holds_is_known() -> None:
    host, life = running()
    assert kept(host) == [str(BDF)]
    (keeper,) = keepers.find_all(host)
    assert (keeper.uuid, keeper.bdfs) == (UUID, (BDF,))
    life.destroy()
    assert keepers.find_all(host) == []


def test_a_record_of_one_that_died_is_dropped() -> None:
    host, _ = running()
    (keeper,) = host.keepers.of(UUID)
    host.keepers.kill(UUID)
    assert kept(host) == [str(BDF)]
    assert keepers.find(host, UUID) is None
    assert kept(host) == [str(BDF)]
    keepers.withdraw(host, UUID)
    assert kept(host) is None
    assert not host.runs(keeper.pid, keeper.pid)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"process": [1], "qemu": [1, 2], "bdfs": [], "seconds": 0},
        {"process": [1, 2], "qemu": [1, 2], "bdfs": ["nowhere"], "seconds": 0},
        {"process": ["1", "2"], "qemu": [1, 2], "bdfs": [], "seconds": 0},
    ],
    ids=["empty", "half a process", "no address", "words for numbers"],
)
def test_a_record_that_cannot_be_believed_is_none(
    content: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    host, life = running()
    host.keepers.kill(UUID)
    store.save(host, "keepers", UUID, content)
    life.daemon_restart()
    assert [each for each in caplog.messages if each.startswith(f"keepers/{UUID}: ")]
    assert kept(host) == [str(BDF)]
    life.destroy()
    ends_well(host, life)


def test_a_torn_record_is_none() -> None:
    host, life = running()
    host.keepers.kill(UUID)
    host.records.store("keepers", UUID, b"torn")
    life.daemon_restart()
    assert kept(host) == [str(BDF)]
    life.destroy()
    ends_well(host, life)


def test_one_that_hangs_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    host, life = one(SM951)
    life.hook = lambda argv, xml, host: _with(Hanging, argv, xml, host)
    assert life.start()
    began = host.monotonic()
    host.trace.clear()
    life.destroy()
    assert host.monotonic() - began < 20.0
    assert f"keeper {6000} of guest {UUID} has not let go of its drives after 10.0 s: killed" in (
        caplog.messages
    )
    assert resets(host)[0] == "bus reset"
    assert life.verdicts()[0].alive
    at_rest(host)


def test_one_whose_qemu_is_still_in_the_kernel_is_not_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """libvirt gives QEMU up after 42 s; a second device keeps it in the kernel for 65 s."""
    host = SimHost()
    host.add(BDF, SM951)
    host.add(SECOND, ORDINARY)
    life = Life(host, [(BDF, True), (SECOND, True)], called)
    assert life.start()
    host.trace.clear()
    host.function(SECOND).frozen = True
    life.destroy()
    assert not [each for each in host.effects if each.startswith("kill ")]
    assert resets(host) == ["reset flr"]
    assert host.function(BDF).lethal_flrs == 0
    assert host.nvme_state(BDF) in ("live", "connecting")


def orphaned() -> tuple[SimHost, Life]:
    """QEMU is gone, libvirtd does not know, and its keeper has not come to it yet."""
    host, life = running()
    qemu.leave(life._open(), host.clock, 60.0)
    host.machine.end_qemu(UUID, host.clock.now)
    host.clock.advance(60.0)
    return host, life


@pytest.mark.parametrize("all_of_it", [True, False], ids=["recover", "recover BDF"])
def test_recovery_waits_for_the_keeper_of_a_guest_that_is_gone(all_of_it: bool) -> None:
    host, _ = orphaned()
    told: list[str | HookError] = []
    if all_of_it:
        told += recovery.recover_all(host, Policy())
    else:
        told.append(recovery.recover_one(host, Policy(), BDF))
    assert not [each for each in told if isinstance(each, HookError)]
    assert resets(host)[0] == "bus reset"  # it never came: killed, and so the guard's
    assert host.function(BDF).lethal_flrs == 0
    at_rest(host)


def test_a_record_of_an_earlier_boot_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    host, _ = one(SM951)
    with monkeypatch.context() as patch:
        patch.setattr(host, "boot_id", lambda: "an earlier one")
        content = {"process": [6000, 6000], "qemu": [4211, 4211], "bdfs": [str(BDF)], "seconds": 0}
        store.save(host, "keepers", UUID, content)
    told = [str(each) for each in recovery.recover_all(host, Policy())]
    assert told == [f"keepers/{UUID}: of an earlier boot: dropped"]
