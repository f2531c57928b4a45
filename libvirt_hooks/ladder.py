# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ladder: every way to reset a controller, gentlest first, as data.

A rung is a row: the method, why it may not be used (a sentence, or None), and its steps. The
same sentence decides, explains a dry run and words the error. Who walks the ladder is ``plan``.
Recovery goes on where the ladder ends: then the function may be taken away and enumerated anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from .bdf import Bdf
from .observe import NVME, VFIO_PCI, Observation
from .pci import ResetMethod

CFS_GRACE = 0.5
"""Seconds that a controller with CFS=1 still gets to lower RDY: it may never do so."""
READY_TIMEOUT = 1.0
"""Seconds after a reset in which a function may be silent: PCI Express Base 5.0, 6.6.1."""
CONFIG_TIMEOUT = 5.0
"""Seconds that a drive gets all the same: those that claim Immediate Readiness falsely keep to no
figure."""
LIVE_TIMEOUT = 10.0
"""Seconds for the host's driver to finish its probe, on top of what CAP.TO allows the drive."""


class Method(StrEnum):
    """A way to reset; those of the kernel as ``reset_method`` spells them."""

    CONTROLLER = "controller"
    FLR = "flr"
    PM = "pm"
    BUS = "bus"
    PROBE = "probe"
    """No reset: the host's driver may take it again, and disables it first."""
    RESCAN = "remove/rescan"
    BUS_RESCAN = "remove/bus/rescan"
    SLOT = "slot power"


@dataclass(frozen=True)
class ClearEnable:
    """Write CC once, EN and SHN cleared, every other field as it was read."""

    def describe(self) -> str:
        return "clear CC.EN and CC.SHN"


@dataclass(frozen=True)
class AwaitReady:
    """Wait until CSTS.RDY is *target*; what ends the wait early is a fact for the next look."""

    target: bool
    timeout: float

    def describe(self) -> str:
        return f"wait for CSTS.RDY={self.target:d}, {self.timeout:.1f} s at most"


@dataclass(frozen=True)
class KernelReset:
    """Have the kernel do exactly this reset, then put reset_method back to *restore*."""

    method: ResetMethod
    restore: tuple[str, ...]

    def describe(self) -> str:
        return f"reset by {self.method}"


@dataclass(frozen=True)
class Settle:
    """Leave the drive alone."""

    seconds: float

    def describe(self) -> str:
        return f"leave it alone for {self.seconds:.2f} s"


@dataclass(frozen=True)
class AwaitConfig:
    """Wait until configuration space answers with a vendor id."""

    timeout: float

    def describe(self) -> str:
        return f"wait for configuration space, {self.timeout:.1f} s at most"


@dataclass(frozen=True)
class Probe:
    """Have the kernel look for a driver."""

    def describe(self) -> str:
        return "let the host's driver probe it"


@dataclass(frozen=True)
class AwaitLive:
    """Wait until the host's driver can use it."""

    timeout: float

    def describe(self) -> str:
        return f"wait for the host's nvme driver, {self.timeout:.1f} s at most"


@dataclass(frozen=True)
class Reenumerate:
    """Take the function away and enumerate its bus again, with a driver as before.

    :param port: the bridge above, whose secondary bus is reset in between; None: it is not.
    :param slot: the slot whose power is switched off and on instead of a removal.
    """

    port: Bdf | None = None
    slot: str | None = None

    def describe(self) -> str:
        if self.slot is not None:
            return f"switch slot {self.slot} off and on"
        between = "" if self.port is None else f", reset the bus below {self.port}"
        return f"remove it{between}, rescan"


Step = (
    ClearEnable | AwaitReady | KernelReset | Settle | AwaitConfig | Probe | AwaitLive | Reenumerate
)
Refusal = str
"""Why a rung may not be used, as the end of a sentence: ``would also reset 0000:01:00.1``."""


@dataclass(frozen=True)
class Rung:
    """One way to reset."""

    method: Method
    refusal: Callable[[Observation], Refusal | None]
    steps: Callable[[Observation], tuple[Step, ...]]


def controller_refusal(seen: Observation) -> Refusal | None:
    """Refuse what cannot be reached, or is disabled already (Base 2.0, 3.7.2)."""
    if seen.gone:
        return "it does not answer"
    if seen.registers is None:
        return seen.unreadable
    cc, csts = seen.registers.cc, seen.registers.csts
    if not (cc.EN or cc.SHN or csts.RDY):
        return "CC.EN is 0 already"
    return None


def controller_steps(seen: Observation) -> tuple[Step, ...]:
    """Base 2.0, CC.EN: while EN and RDY differ, changing EN is undefined. So wait first."""
    assert seen.registers is not None, "controller_refusal comes first"
    cap, cc, csts = seen.registers.cap, seen.registers.cc, seen.registers.csts
    timeout = cap.ready_timeout
    steps: list[Step] = []
    if cc.EN and not (csts.RDY or csts.CFS):
        steps.append(AwaitReady(True, timeout))
    if cc.EN or cc.SHN:
        steps.append(ClearEnable())
        if seen.quirk.ready_check_delay:
            steps.append(Settle(seen.quirk.ready_check_delay))
    return (*steps, AwaitReady(False, timeout))


def kernel_refusal(
    method: ResetMethod, *more: Callable[[Observation], Refusal | None]
) -> Callable[[Observation], Refusal | None]:
    """Refuse what the kernel does not offer, then what *more* says against it."""

    def refusal(seen: Observation) -> Refusal | None:
        if seen.gone:
            # pci_dev_wait() is an uninterruptible sleep (v6.1).
            return "the kernel would wait 65 s for a function that does not answer"
        if seen.registers is None:
            return f"could not be verified: {seen.unreadable}"
        if not seen.offers(method):
            return "the kernel does not offer it for this device"
        return _first(seen, more)

    return refusal


def _first(
    seen: Observation, refusals: Sequence[Callable[[Observation], Refusal | None]]
) -> Refusal | None:
    return next((why for each in refusals if (why := each(seen))), None)


def kernel_steps(method: ResetMethod) -> Callable[[Observation], tuple[Step, ...]]:
    """One reset by the kernel, the drive's own rest, and until configuration space answers."""

    def steps(seen: Observation) -> tuple[Step, ...]:
        settle = seen.quirk.settle_after_reset
        return (
            KernelReset(method, seen.reset_methods or ()),
            *((Settle(settle),) if settle else ()),
            AwaitConfig(CONFIG_TIMEOUT),
        )

    return steps


def lethal_while_enabled(seen: Observation) -> Refusal | None:
    """An FLR on such a drive needs EN=0 *seen*; nobody can have seen what nobody could read."""
    if seen.quirk.flr_lethal_while_enabled and not seen.disabled:
        return f"kills this drive ({seen.quirk.name}) unless it is seen disabled: {seen.evidence}"
    return None


def virtual_functions(seen: Observation) -> Refusal | None:
    """A reset of the physical function disables them (drivers/pci/iov.c, v6.1)."""
    if seen.virtual_functions:
        return f"would also reset its {seen.virtual_functions} virtual functions"
    return None


def shared_bus(seen: Observation) -> Refusal | None:
    """A reset of the bus resets everything on it."""
    if seen.neighbours:
        return f"would also reset {', '.join(map(str, seen.neighbours))}"
    return None


def probe_refusal(seen: Observation) -> Refusal | None:
    """nvme disables a controller first, and newer ones reset it if that fails (5b2c214a9594)."""
    if seen.driver is not None:
        return f"driver {seen.driver} has it"
    if seen.gone:
        return "it does not answer"
    if seen.registers is not None and not seen.disabled:
        return f"it is not disabled: {seen.evidence}"
    return None


def removal(*more: Callable[[Observation], Refusal | None]) -> Callable[[Observation], str | None]:
    """Refuse what would take more away than a function that is no use to anybody."""

    def refusal(seen: Observation) -> Refusal | None:
        if seen.open:
            return "vfio has it open"
        if seen.driver == NVME and seen.nvme_state != "dead":
            return f"the host's nvme driver has it: {seen.nvme_state or 'probing'}"
        if seen.driver not in (None, NVME, VFIO_PCI):
            return f"driver {seen.driver} has it"
        if not seen.gone and seen.registers is None and seen.driver == VFIO_PCI:
            return f"nothing says that it needs it: {seen.unreadable}"
        if seen.virtual_functions:
            return f"would also take away its {seen.virtual_functions} virtual functions"
        return _first(seen, more)

    return refusal


def no_port(seen: Observation) -> Refusal | None:
    """Its bus is reset by the bridge above it."""
    if seen.port is None:
        return "it is on a root bus" if seen.present else "the port above it is not known any more"
    return None


def no_slot(seen: Observation) -> Refusal | None:
    """Only a hot-plug driver switches slots (drivers/pci/hotplug, v6.1)."""
    return "it is in no slot whose power can be switched" if seen.slot is None else None


def bring_back(seen: Observation, step: Step) -> tuple[Step, ...]:
    """What follows in recovery: a driver that was not there to be waited for costs no time."""
    slow = seen.registers.cap.ready_timeout if seen.registers and not seen.gone else 0.0
    return (step, AwaitLive(LIVE_TIMEOUT + slow))


CONTROLLER = Rung(Method.CONTROLLER, controller_refusal, controller_steps)
FLR = Rung(
    Method.FLR,
    kernel_refusal(ResetMethod.FLR, lethal_while_enabled, virtual_functions),
    kernel_steps(ResetMethod.FLR),
)
PM = Rung(
    Method.PM,
    kernel_refusal(ResetMethod.PM, virtual_functions),
    kernel_steps(ResetMethod.PM),
)
BUS = Rung(
    Method.BUS,
    kernel_refusal(ResetMethod.BUS, shared_bus, virtual_functions),
    kernel_steps(ResetMethod.BUS),
)
PROBE = Rung(Method.PROBE, probe_refusal, lambda seen: bring_back(seen, Probe()))
RESCAN = Rung(Method.RESCAN, removal(), lambda seen: bring_back(seen, Reenumerate()))
BUS_RESCAN = Rung(
    Method.BUS_RESCAN,
    removal(no_port, shared_bus),
    lambda seen: bring_back(seen, Reenumerate(port=seen.port)),
)
SLOT = Rung(
    Method.SLOT,
    removal(no_slot, shared_bus),
    lambda seen: bring_back(seen, Reenumerate(slot=seen.slot)),
)

LADDER = (CONTROLLER, FLR, PM, BUS)
LADDER_BUS_FIRST = (CONTROLLER, BUS, FLR, PM)
"""For drives that an FLR damages."""
RECOVERY = (RESCAN, BUS_RESCAN, SLOT)
"""What is left when the ladder is used up, or nobody answers. A removal is gentler than a reset of
the bus: it does nothing to a drive that is gone, and the reset can then be done on an empty bus,
where the kernel waits for nobody."""
