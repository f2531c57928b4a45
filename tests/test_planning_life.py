# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is planned of a guest's life against what the simulator makes of it."""

import io
import logging
from contextlib import redirect_stderr
from itertools import product

import pytest

from libvirt_hooks import hook
from libvirt_hooks.domain import parse
from libvirt_hooks.keeper import Keeper
from libvirt_hooks.planning import HOOK, Plan, plan
from libvirt_hooks.simulator.domain_xml import Assigned, domain_xml
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID, Life
from libvirt_hooks.simulator.models import ORDINARY, P3700, SM951, SM961, SM2262, Model

from .lives import BDF, PAST_DEADLINE, called

BESIDE = "0000:01:00.1"
MODELS = [ORDINARY, SM951, SM961, P3700, SM2262]
FAULTS = [
    *Fault,
    Fault.RDY_STUCK | Fault.RESET_EIO,
    Fault.CFS | Fault.NO_RESET_METHOD,
    Fault.RDY_STUCK | Fault.RESET_BLOCKS,
]
FEW = [Fault.NONE, Fault.CONFIG_FROZEN, Fault.GONE_AFTER_FLR]
DRIVERS = [("nvme", True), ("vfio-pci", True), ("vfio-pci", False), ("nvme", False)]
"""What has it before the start, and is it managed?"""
IDLE = [("", []), ("", [BESIDE])]
PLACES = {"nvme": [*IDLE, ("/srv", []), ("/", [BESIDE])], "vfio-pci": IDLE}
"""Where it is mounted, and who is beside it on its bus."""
TRIED = ("not pristine after", "not disabled after", "time is up", "not done at", "does not answer")
"""How a refusal reads that comes of what the drive does when it is reset: nobody foresees that."""


def planned(host: SimHost, device: Assigned) -> Plan:
    return plan(host, parse(domain_xml("guest", UUID, [device])))


def refusal(found: Plan, operation: str) -> str | None:
    """The first thing that the hook would say."""
    for each in found.objections:
        if each.refuses and (each.by, each.operation) == (HOOK, operation):
            return each.message
    return None


class Lived:
    """A planned guest's life: what each operation has said, how it ended, how long it took."""

    def __init__(self, host: SimHost, device: Assigned) -> None:
        self.found = planned(host, device)
        self.was_gone = host.function(BDF).frozen
        self.said: dict[str, str] = {}
        self.took: dict[str, float] = {}
        host.keeper = Keeper
        self.life = Life(host, [device], self._called)
        self.started = self.life.start()
        if self.started:
            self.life.guest_shutdown()

    def _called(self, argv: list[str], xml: bytes, host: SimHost) -> int:
        began, stderr = host.monotonic(), io.StringIO()
        try:
            with redirect_stderr(stderr):
                status = hook.main(argv, xml, host)
        finally:
            self.took[argv[2]] = host.monotonic() - began
        if status:
            self.said[argv[2]] = stderr.getvalue().partition("\n")[0]
        return status

    def check(self) -> None:
        """Nothing is otherwise than planned, but for what a drive does when it is tried."""
        assert not (self.started and not self.found.starts), self.found.objections
        for operation in ("prepare", "start"):
            said, expected = self.said.get(operation), refusal(self.found, operation)
            if said is None:
                assert expected is None or operation not in self.took, expected
            elif said != expected:
                assert expected is None and not self.was_gone, (said, expected)
                assert any(words in said for words in TRIED), said
        if any(each.by != HOOK for each in self.found.objections) and not self.said:
            assert "must be manually detached" in self.life.problems[-1]
        for operation, seconds in self.took.items():
            assert seconds <= self.found.seconds[operation] + PAST_DEADLINE, operation


@pytest.mark.parametrize(
    ("model", "mode", "faults"),
    [
        pytest.param(SM951, "enforce", FAULTS, id="SM951, every fault"),
        pytest.param(ORDINARY, "enforce", FAULTS, id="ordinary, every fault"),
        *(pytest.param(SM951, mode, FEW, id=f"SM951, {mode}") for mode in ("observe", "off")),
        *(pytest.param(each, "enforce", FEW, id=each.label) for each in (SM961, SM2262, P3700)),
    ],
)
def test_a_life_is_as_planned(
    model: Model, mode: str, faults: list[Fault], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "libvirt_hooks")
    refused = 0
    for fault, (driver, managed) in product(faults, DRIVERS):
        for mounted, beside in PLACES[driver]:
            host = SimHost(policy=f'mode = "{mode}"\n')
            host.add(BDF, model, driver, fault, beside=beside, mounted=mounted)
            lived = Lived(host, Assigned(BDF, managed))
            lived.check()
            refused += not lived.found.starts
    assert refused >= 2 * len(faults)


@pytest.mark.parametrize("beside", [[], [BESIDE]], ids=["alone", "shared bus"])
@pytest.mark.parametrize(("driver", "managed"), DRIVERS[:3])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.label)
def test_observe_says_in_a_life_what_was_planned(
    model: Model,
    driver: str,
    managed: bool,
    beside: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Word by word; of one that dies of its guest nothing is foretold but that it does."""
    host = SimHost(policy='mode = "observe"\n')
    host.add(BDF, model, driver, beside=beside)
    device = Assigned(BDF, managed)
    (controller,) = planned(host, device).controllers
    caplog.set_level(logging.INFO)
    caplog.clear()
    life = Life(host, [device], called)
    assert life.start()
    life.daemon_restart()
    names = ["start", "started", "reconnect"]
    if not host.function(BDF).frozen:
        life.guest_shutdown()
        names += ["stopped"] if driver == "nvme" else ["stopped", "release"]
    lived = [
        tuple(each.removeprefix(f"{BDF}: observe: ").split(" would: ", 1))
        for each in caplog.messages
        if each.startswith(f"{BDF}: observe: ")
    ]
    words = {
        part.moment: part.does[-1].removeprefix("only say: ")
        for part in controller.parts
        if part.by == HOOK
    }
    assert [name for name, _ in lived] == [*(["prepare"] if driver != "nvme" else []), *names]
    for name, would in lived:
        assert words[name] == would, name
