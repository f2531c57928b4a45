# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ladder: every way to reset a controller, gentlest first, as data.

A rung is a row: the method, why it may not be used (a sentence, or None), and its steps. The
same sentence decides, explains a dry run and words the error. Who walks the ladder is ``plan``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from .observe import Observation
from .pci import ResetMethod

CFS_GRACE = 0.5
"""Seconds that a controller with CFS=1 still gets to lower RDY: it may never do so."""
CONFIG_TIMEOUT = 5.0
"""Seconds until configuration space must answer again: PCI Express Base 5.0, 6.6.1, asks for 1.0
after a conventional reset; drives that claim Immediate Readiness falsely keep to no figure."""


class Method(StrEnum):
    """A way to reset; those of the kernel as ``reset_method`` spells them."""

    CONTROLLER = "controller"
    FLR = "flr"
    PM = "pm"
    BUS = "bus"


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


Step = ClearEnable | AwaitReady | KernelReset | Settle | AwaitConfig
Refusal = str
"""Why a rung may not be used, as the end of a sentence: ``would also reset 0000:01:00.1``."""


@dataclass(frozen=True)
class Rung:
    """One way to reset."""

    method: Method
    refusal: Callable[[Observation], Refusal | None]
    steps: Callable[[Observation], tuple[Step, ...]]


def controller_refusal(seen: Observation) -> Refusal | None:
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
        if not seen.offers(method):
            return "the kernel does not offer it for this device"
        return next((why for each in more if (why := each(seen))), None)

    return refusal


def kernel_steps(method: ResetMethod) -> Callable[[Observation], tuple[Step, ...]]:
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
    if seen.virtual_functions:
        return f"would also reset its {seen.virtual_functions} virtual functions"
    return None


def shared_bus(seen: Observation) -> Refusal | None:
    if seen.neighbours:
        return f"would also reset {', '.join(map(str, seen.neighbours))}"
    return None


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

LADDER = (CONTROLLER, FLR, PM, BUS)
LADDER_BUS_FIRST = (CONTROLLER, BUS, FLR, PM)
"""For drives that an FLR damages."""


def ladder_for(seen: Observation) -> tuple[Rung, ...]:
    return LADDER_BUS_FIRST if seen.quirk.prefer_bus else LADDER
