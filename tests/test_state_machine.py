# SPDX-License-Identifier: LGPL-2.1-or-later
"""The long run: guests, drives with faults, libvirt's operations in any legal order, crashes.

What must hold after every step is in ``_nothing_is_broken``, what must hold whenever nothing is
going on in ``rest``.
"""

from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from libvirt_hooks import recovery
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import HookError
from libvirt_hooks.policy import Policy
from libvirt_hooks.simulator.crash import Crash, Victim
from libvirt_hooks.simulator.domain_xml import Assigned
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import Life
from libvirt_hooks.simulator.models import A80C, ORDINARY, QEMU_7_2, SM951, SM961

from . import tally
from .lives import called

STEPS, EXAMPLES = 40, 400

DRIVES = tuple(Bdf.parse(f"0000:0{bus}:00.0") for bus in (1, 2, 3))
NEIGHBOUR = Bdf.parse("0000:03:00.1")
"""Shares its bus, and never goes to a guest."""
GUESTS = ("red", "green", "blue")
MODELS = tuple(replace(model, to=1) for model in (SM951, SM961, ORDINARY, QEMU_7_2, A80C))
FAULTS = (
    *(Fault.NONE,) * 3,
    Fault.RDY_STUCK,
    Fault.CFS_ON_DISABLE,
    Fault.GONE_AFTER_FLR,
    Fault.BUS_RESET_CURES,
    Fault.RESCAN_CURES,
    Fault.SLOT_CURES,
    Fault.RESET_EIO,
    Fault.RESET_ENOTTY,
    Fault.RESET_BLOCKS,
    Fault.NO_RESET_METHOD,
    Fault.D3HOT_READS_ZERO,
)
A_WHILE = 200.0
"""Seconds after which nothing blocks any more, and no guest is on its way."""


class World(RuleBasedStateMachine):
    """A host with three drives, and three guests that want some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.host = SimHost()
        self.lives: dict[str, Life] = {}
        self.methods: dict[Bdf, list[str]] = {}

    @initialize(
        models=st.tuples(*[st.sampled_from(MODELS)] * 3),
        faults=st.tuples(*[st.sampled_from(FAULTS)] * 3),
        managed=st.tuples(*[st.booleans()] * 3),
        wanted=st.tuples(*[st.sets(st.sampled_from(DRIVES), min_size=1)] * 3),
        may_take=st.sampled_from([True, True, False]),
    )
    def set_up(self, models, faults, managed, wanted, may_take) -> None:  # type: ignore[no-untyped-def]
        self.host.may_take = may_take
        self.managed = dict(zip(DRIVES, managed, strict=True))
        for bdf, model, fault in zip(DRIVES, models, faults, strict=True):
            driver = "nvme" if self.managed[bdf] else "vfio-pci"
            self.host.add(bdf, model, driver, fault, slot=f"slot{bdf.bus}")
        self.host.add(NEIGHBOUR)
        self.before = {bdf: self._settings(bdf) for bdf in DRIVES}
        for at, (name, drives) in enumerate(zip(GUESTS, wanted, strict=True)):
            devices = [Assigned(bdf, self.managed[bdf]) for bdf in sorted(drives)]
            uuid = f"{at}{'0' * 7}-0000-4000-8000-000000000000"
            self.lives[name] = Life(self.host, devices, called, name=name, uuid=uuid)
        self.wanted = {name: list(life.devices) for name, life in self.lives.items()}

    def _settings(self, bdf: Bdf) -> tuple[list[str], str]:
        dev = self.host.device(bdf)
        return list(dev.reset_methods), dev.driver_override or ""

    def _present(self, bdf: Bdf) -> bool:
        return bdf in self.host.machine.devices

    @rule(name=st.sampled_from(GUESTS))
    def start(self, name: str) -> None:
        life = self.lives[name]
        if not life.running:
            life.devices = list(self.wanted[name])
            life.start()

    @rule(name=st.sampled_from(GUESTS), end=st.sampled_from(["shutdown", "destroy", "kill"]))
    def stop(self, name: str, end: str) -> None:
        life = self.lives[name]
        if life.running:
            {"shutdown": life.guest_shutdown, "destroy": life.destroy, "kill": life.kill}[end]()

    @rule(name=st.sampled_from(GUESTS), clean=st.booleans())
    def reboot_guest(self, name: str, clean: bool) -> None:
        if self.lives[name].running:
            self.lives[name].guest_reboot(clean)

    @rule(name=st.sampled_from(GUESTS))
    def restart_libvirtd(self, name: str) -> None:
        if self.lives[name].running:
            self.lives[name].daemon_restart()

    @rule(name=st.sampled_from(GUESTS), bdf=st.sampled_from(DRIVES))
    def hot_plug(self, name: str, bdf: Bdf) -> None:
        life = self.lives[name]
        unused = not self.host.device(bdf).mounted if self._present(bdf) else False
        # No hook sees it, so nobody keeps a mounted disk from it: libvirt's to refuse, or not.
        if life.running and unused and all(each.bdf != bdf for each in life.devices):
            life.attach(Assigned(bdf, self.managed[bdf]))

    @rule(name=st.sampled_from(GUESTS), bdf=st.sampled_from(DRIVES))
    def hot_unplug(self, name: str, bdf: Bdf) -> None:
        life = self.lives[name]
        if life.running and any(each.bdf == bdf for each in life.devices):
            life.unplug(bdf)

    @rule(bdf=st.sampled_from(DRIVES))
    def mount(self, bdf: Bdf) -> None:
        if self.host.nvme_state(bdf) == "live":
            self.host.device(bdf).mounted = "/srv"

    @rule(bdf=st.sampled_from(DRIVES))
    def unmount(self, bdf: Bdf) -> None:
        if self._present(bdf):
            self.host.device(bdf).mounted = ""

    @rule(bdf=st.sampled_from(DRIVES))
    def freeze(self, bdf: Bdf) -> None:
        self.host.function(bdf).frozen = True

    @rule(ahead=st.integers(0, 30), after=st.booleans(), victim=st.sampled_from(Victim))
    def kill_a_hook_soon(self, ahead: int, after: bool, victim: Victim) -> None:
        self.host.crash(Crash(len(self.host.effects) + ahead, after, victim))

    @rule(name=st.sampled_from(GUESTS))
    def kill_a_keeper(self, name: str) -> None:
        self.host.keepers.kill(self.lives[name].uuid)

    @rule(seconds=st.sampled_from([0.5, 10.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.host.clock.advance(seconds)

    @rule()
    def reboot_host(self) -> None:
        for life in self.lives.values():
            life.running = False
        self.host.crash(None)
        self.host.reboot()
        for bdf in DRIVES:
            if not self.managed[bdf] and self._present(bdf):
                with self.host.machine.trace.acting("admin"):
                    self.host.clock.reach(self.host.device(bdf).settled_at)
                    self.host.write_attr(bdf, "driver_override", "vfio-pci")
                    if self.host.driver(bdf):
                        self.host.write_attr(bdf, "driver/unbind", str(bdf))
                    self.host.write_bus("drivers_probe", str(bdf))
        self.before = {bdf: self._settings(bdf) for bdf in DRIVES if self._present(bdf)}
        self.host.trace.clear()

    @rule(bdf=st.sampled_from(DRIVES))
    def recover_by_name(self, bdf: Bdf) -> None:
        self.host.crash(None)
        self.host.new_process()
        try:
            recovery.recover_one(self.host, Policy(), bdf)
        except HookError:
            pass

    @precondition(lambda self: not any(life.running for life in self.lives.values()))
    @rule()
    def rest(self) -> None:
        """Nothing runs: then nothing is left behind, but for what is known of a dead drive."""
        self.host.crash(None)
        for bdf in DRIVES:
            if not self.managed[bdf]:
                self.unmount(bdf)  # a crash has left it with the host: that may keep it
        self.host.clock.advance(A_WHILE)
        self.host.new_process()
        list(recovery.recover_all(self.host, Policy()))
        host = self.host
        assert [name for name in host.records.all if not name.startswith("dead/")] == []
        assert host.machine.autoprobe
        assert not any(each > host.clock.now for each in host._workers.locked_until.values())
        for bdf, (methods, override) in self.before.items():
            dev = host.machine.devices.get(bdf)
            if dev is None:
                assert host.function(bdf).frozen
                continue
            # After a reset beside a neighbour the kernel offers no `bus` any more.
            assert [each for each in methods if each in dev.reset_methods] == dev.reset_methods
            assert dev.reset_methods or not methods or "bus" in methods
            assert (dev.driver_override or "") == override
            if dev.driver == "vfio-pci":
                assert dev.control == "auto"
            if not self.managed[bdf]:
                assert dev.driver != "nvme"
                # Where the kernel lets us, it does not appear on the host for a moment.
                seen = "driver=nvme" in host.texts(bdf)
                assert not (seen and host.machine.autoprobe_is_checked)

    @invariant()
    def _nothing_is_broken(self) -> None:
        tally.tried(tally.STEPS)
        assert self.host.violations == []
        if NEIGHBOUR in self.host.machine.plugged:
            assert self.host.nvme_state(NEIGHBOUR) in ("live", "connecting")

    def teardown(self) -> None:
        if not self.lives:
            return
        self.host.crash(None)
        for life in self.lives.values():
            if life.running:
                life.destroy()
        self.rest()
        self._nothing_is_broken()


def test_the_long_run() -> None:
    run_state_machine_as_test(
        World,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
