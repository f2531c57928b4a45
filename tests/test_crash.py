# SPDX-License-Identifier: LGPL-2.1-or-later
"""kill -9 at every effect of every operation: what comes next brings the machine to where an
undisturbed life would have. No case is written by hand: the effects are those that a life has.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from libvirt_hooks import recovery
from libvirt_hooks.errors import HookError
from libvirt_hooks.policy import Policy
from libvirt_hooks.simulator.crash import Crash, Victim
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import Life
from libvirt_hooks.simulator.models import ORDINARY, QEMU_7_2, SM951, SM961, Model

from . import tally
from .lives import BDF, SECOND, called

FORGOTTEN_AFTER = 150.0
"""Seconds until `recover` believes that a guest without a process is gone, and the kernel has given
a dead drive up."""

Story = Callable[[Life], None]


def live(life: Life) -> None:
    if life.start():
        life.guest_shutdown()


def live_through_a_restart(life: Life) -> None:
    if life.start():
        life.daemon_restart()
        if life.running:
            life.destroy()


def live_through_a_reset(life: Life) -> None:
    if life.start():
        life.guest_reboot(clean=False)
        life.destroy()


def live_through_an_unplug(life: Life) -> None:
    if life.start():
        device = life.devices[0]
        life.unplug(device.bdf)
        settle(life.host)
        life.host.clock.advance(1.0)
        if device.managed:  # by udev: no hook sees the open
            life.host.device(device.bdf).reset_methods = ["bus"]
        life.attach(device)
        life.destroy()


BEFORE = "before anything"
HELD = '[drive."1b36:0010"]\nclose = "holder"\n'


@dataclass(frozen=True)
class Ending:
    """How a scene ended: what was left, what was done, and the operation that failed."""

    state: dict[str, object]
    effects: list[str]
    failed: str


@dataclass(frozen=True)
class Scene:
    """A drive, and what happens to it."""

    name: str
    model: Model = SM951
    faults: Fault = Fault.NONE
    managed: bool = True
    story: Story = live
    freezes: bool = False
    """The drive freezes while its guest runs."""
    lockdown: bool = False
    both: bool = False
    """The guest has a second controller."""
    refuse: str = ""
    """The operation that another script refuses."""
    alone: bool = False
    """No keeper may take a descriptor: the guard is all there is."""
    viable: bool = True
    policy: str = ""

    def host(self) -> tuple[SimHost, Life]:
        host = SimHost(lockdown=self.lockdown, policy=self.policy or None)
        host.may_take, host.viable = not self.alone, self.viable
        driver = "nvme" if self.managed else "vfio-pci"
        bdfs = [BDF, SECOND] if self.both else [BDF]
        for bdf in bdfs:
            host.add(bdf, replace(self.model, to=1), driver, self.faults, slot=f"slot{bdf.bus}")
        return host, Life(host, [(bdf, self.managed) for bdf in bdfs], called)

    def play(self, host: SimHost, life: Life) -> None:
        if not self.freezes:
            self.story(life)
        elif life.start():
            host.function(BDF).frozen = True
            life.destroy()


SCENES = [
    Scene("a managed SM951"),
    Scene("an unmanaged SM951", managed=False),
    Scene("a managed SM951, by the guard alone", alone=True),
    Scene("an unmanaged SM951, by the guard alone", managed=False, alone=True),
    Scene("reset by its guest", story=live_through_a_reset),
    Scene("unplugged and plugged again", story=live_through_an_unplug),
    Scene(
        "unplugged and plugged again, by the guard alone", story=live_through_an_unplug, alone=True
    ),
    Scene("a managed SM961, which the kernel knows", SM961),
    Scene("a managed ordinary drive", ORDINARY),
    Scene("an ordinary drive with a keeper, by request", ORDINARY, policy=HELD),
    Scene("an unmanaged drive that keeps its queues", QEMU_7_2, managed=False),
    Scene("two managed SM951", both=True),
    Scene("libvirtd restarted", story=live_through_a_restart),
    Scene("libvirtd restarted, unmanaged", managed=False, story=live_through_a_restart),
    Scene("refused by another script", refuse="start"),
    Scene("refused, unmanaged", managed=False, refuse="start"),
    Scene("libvirtd restarted, by the guard alone", story=live_through_a_restart, alone=True),
    Scene("under lockdown", lockdown=True),
    Scene("under lockdown, unmanaged", lockdown=True, managed=False),
    Scene("under lockdown, without vfio", lockdown=True, viable=False),
    Scene("RDY stuck: the bus is reset", faults=Fault.RDY_STUCK),
    Scene("RDY stuck, by the guard alone", faults=Fault.RDY_STUCK, alone=True),
    Scene("frozen, a rescan revives it", faults=Fault.RESCAN_CURES, freezes=True),
    Scene(
        "frozen, a rescan revives it, unmanaged",
        faults=Fault.RESCAN_CURES,
        freezes=True,
        managed=False,
    ),
    Scene("frozen, a bus reset revives it", faults=Fault.BUS_RESET_CURES, freezes=True),
    Scene(
        "frozen, a bus reset revives it, unmanaged",
        faults=Fault.BUS_RESET_CURES,
        freezes=True,
        managed=False,
    ),
    Scene("frozen, its slot's power revives it", faults=Fault.SLOT_CURES, freezes=True),
    Scene(
        "frozen, its slot's power revives it, unmanaged",
        faults=Fault.SLOT_CURES,
        freezes=True,
        managed=False,
    ),
]


def state(host: SimHost) -> dict[str, object]:
    """All that a life should leave as it would have been left."""
    found: dict[str, object] = {
        "records": host.records.all,
        "drivers_autoprobe": host.machine.autoprobe,
        "active": dict(host.machine.active),
        "violations": list(host.violations),
    }
    for bdf, function in host.machine.plugged.items():
        dev = host.machine.devices.get(bdf)
        drive: dict[str, object] = {"frozen": function.frozen, "lethal": function.lethal_flrs}
        if dev is not None:
            in_use = dev.driver == "nvme"
            drive |= {
                "disabled": in_use or not function.controller.flr_is_lethal,
                "driver": dev.driver,
                "nvme": dev.nvme_state,
                "driver_override": dev.driver_override,
                "reset_method": " ".join(dev.reset_methods),
                "power/control": dev.control,
                "COMMAND": hex(function.word(0x04)),
            }
        found[str(bdf)] = drive
    return found


def settle(host: SimHost) -> None:
    """Let every asynchronous probe end."""
    for dev in host.machine.devices.values():
        host.clock.reach(dev.settled_at)


def recover(host: SimHost, life: Life) -> None:
    """As a person does: all that is left over, then by name what the host's driver gave up."""
    host.clock.advance(FORGOTTEN_AFTER)
    host.new_process()
    for told in recovery.recover_all(host, Policy()):
        assert not isinstance(told, HookError), told
    settle(host)
    for bdf in host.machine.plugged:
        if host.driver(bdf) is None:
            recovery.recover_one(host, Policy(), bdf)


def live_again(host: SimHost, life: Life) -> None:
    host.clock.advance(FORGOTTEN_AFTER)
    live(life)


Finish = Callable[[SimHost, Life], None]


def outcome(scene: Scene, finish: Finish, refuse: str = "", crash: Crash | None = None) -> Ending:
    """Play a scene to its end, and have somebody finish what it left."""
    host, life = scene.host()
    life.refuse = refuse or scene.refuse
    host.crash(crash)
    if refuse != BEFORE:
        scene.play(host, life)
    host.crash(None)
    life.refuse = ""
    effects = list(host.effects)
    failed = next((operation for operation, status in life.statuses if status), "")
    finish(host, life)
    settle(host)
    return Ending(state(host), effects, failed)


def crashes(count: int) -> Iterator[Crash]:
    for at in range(count):
        for after in (False, True):
            for victim in Victim:
                yield Crash(at, after, victim)


@pytest.mark.parametrize("finish", [recover, live_again], ids=["recover", "the next life"])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_killed_anywhere(scene: Scene, finish: Finish) -> None:
    """A start that the kill has ended is one that was refused, or that nobody ever tried."""
    undisturbed = outcome(scene, finish)
    assert len(undisturbed.effects) > 5
    assert undisturbed.state["records"] == []
    untried = outcome(scene, finish, BEFORE).state
    refused = {each: outcome(scene, finish, each).state for each in ("prepare", "start")}
    for crash in crashes(len(undisturbed.effects)):
        tally.tried(tally.CRASHES)
        found = outcome(scene, finish, crash=crash)
        allowed = [undisturbed.state]
        if found.failed in refused:
            allowed = [refused[found.failed], untried]
        where = f"{crash}: {undisturbed.effects[crash.at]}"
        assert found.state in allowed, f"{where}\n{found.state}\n{allowed[0]}"
