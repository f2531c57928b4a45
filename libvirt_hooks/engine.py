# SPDX-License-Identifier: LGPL-2.1-or-later
"""The loop: observe, decide, apply, observe again. All effects on a controller are here.

What to do is ``plan``'s; who calls, with the controller locked and awake, is ``lifecycle``.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from . import pci
from .bdf import Bdf
from .deadline import Deadline
from .errors import DeviceGone, LadderExhausted, RegistersUnreadable, SysfsError
from .host import Host
from .journal import Undo
from .ladder import (
    CFS_GRACE,
    AwaitConfig,
    AwaitReady,
    ClearEnable,
    KernelReset,
    Method,
    Refusal,
    Settle,
    Step,
)
from .nvme import CC, CSTS
from .observe import Observation, observe
from .pci import NO_METHOD, ResetMethod
from .plan import Done, GiveUp, Goal, Try, decide
from .registers import read, write
from .telling import about

log = logging.getLogger(__name__)

POLL = 0.002
"""Seconds between two looks at CSTS or configuration space: nvme core waits 1 to 2 ms (v6.1)."""
SLACK = 2.0
"""Seconds that a watcher adds to what a step may take."""
RESET_TIMEOUT = 5.0
"""Seconds for a reset by the kernel: 0.8 s at worst, of a function that answers (v6.1)."""
RESET_METHOD = "reset_method"
POWER_CYCLE = "power the host off and on: nothing less brings such a drive back"

Ended = str | None
"""Why a rung ended before its last step; None: go on."""


@dataclass(frozen=True)
class Outcome:
    """How a goal was reached."""

    before: Observation
    after: Observation
    tried: tuple[Method, ...]
    seconds: float

    def __str__(self) -> str:
        how = " and ".join(self.tried)
        return f"{how}, {self.seconds * 1000:.1f} ms" if self.tried else "nothing to do"


def look(host: Host, bdf: Bdf, undo: Undo) -> Observation:
    """Observe, with what ``reset_method`` said before our guard."""
    return observe(host, bdf, undo.original(RESET_METHOD))


def reach(host: Host, bdf: Bdf, goal: Goal, undo: Undo) -> Outcome:
    """Bring one controller to *goal*.

    :raises DeviceGone: all ones; no reset was started on it.
    :raises RegistersUnreadable: no reset was started either: it could not be verified.
    :raises LadderExhausted: no allowed reset is left.
    :raises SysfsError: the function went away.
    """
    began = host.monotonic()
    first = seen = look(host, bdf, undo)
    tried: list[Method] = []
    was_reset = False
    while True:
        match decide(seen, tried, goal, was_reset):
            case Done():
                return Outcome(first, seen, tuple(tried), host.monotonic() - began)
            case GiveUp(refusals):
                raise _gave_up(seen, goal, tried, refusals)
            case Try(method, steps):
                tried.append(method)
                started = host.monotonic()
                completed = _take(host, bdf, undo, method, steps)
                was_reset |= completed and method is not Method.CONTROLLER
                before, seen = seen, look(host, bdf, undo)
                _tell(method, before, seen, host.monotonic() - started)


def _take(host: Host, bdf: Bdf, undo: Undo, method: Method, steps: Sequence[Step]) -> bool:
    """Apply a rung's steps; return whether all of them ran to their end.

    What goes wrong is seen at the next look, so here it is only told.
    """
    for step in steps:
        log.info("%s: %s", bdf, step.describe(), extra=about(bdf, METHOD=method))
        try:
            ended = apply(host, bdf, undo, step)
        except SysfsError as error:
            ended = error.message.removeprefix(f"{bdf}: ")
        if ended:
            log.warning("%s: %s: %s", bdf, method, ended, extra=about(bdf, METHOD=method))
            return False
    return True


def apply(host: Host, bdf: Bdf, undo: Undo, step: Step) -> Ended:
    """Carry out one step."""
    match step:
        case ClearEnable():
            return clear_enable(host, bdf)
        case AwaitReady(target, timeout):
            host.doing(step.describe(), timeout + SLACK)
            return await_ready(host, bdf, target, timeout)
        case KernelReset(method, restore):
            host.doing(step.describe(), RESET_TIMEOUT)
            return kernel_reset(host, bdf, undo, method, restore)
        case Settle(seconds):
            host.doing(step.describe(), seconds + SLACK)
            host.sleep(seconds)
            return None
        case AwaitConfig(timeout):
            host.doing(step.describe(), timeout + SLACK)
            return await_config(host, bdf, timeout)
        case _:
            assert_never(step)


def clear_enable(host: Host, bdf: Bdf) -> Ended:
    """Write CC once; as nvme_disable_ctrl does (kernel drivers/nvme/host/core.c, v6.1)."""
    with host.registers(bdf) as bar:
        cc = read(bar, CC)
        if cc.all_ones:
            return f"{cc.raw}: nobody answers"
        write(bar, cc.replace(EN=0, SHN=0))
    return None


def await_ready(host: Host, bdf: Bdf, target: bool, timeout: float) -> Ended:
    """Poll CSTS.RDY; a controller with CFS=1 gets CFS_GRACE and no more."""
    deadline = Deadline(host.monotonic, timeout)
    with host.registers(bdf) as bar:
        while True:
            csts = read(bar, CSTS)
            if csts.all_ones:
                return f"{csts.raw}: nobody answers"
            if csts.RDY is target:
                return None
            if deadline.expired or (csts.CFS and deadline.elapsed >= CFS_GRACE):
                waited = f"waited {deadline.elapsed:.1f} s of CAP.TO {timeout:.1f} s"
                return f"CSTS.RDY is not {target:d}: {csts}, {waited}"
            host.sleep(POLL)


def kernel_reset(
    host: Host, bdf: Bdf, undo: Undo, method: ResetMethod, restore: tuple[str, ...]
) -> Ended:
    """Write exactly *method*: after a failed one the kernel would go on to the next, 65 s later.

    :raises SysfsError: the kernel refused; reset_method is back then too.
    """
    guarded = undo.original(RESET_METHOD) is not None
    undo.keep(RESET_METHOD, " ".join(restore))
    host.write_attr(bdf, RESET_METHOD, method)
    try:
        host.write_attr(bdf, "reset", "1")
    finally:
        write_methods(host, bdf, restore)
        if not guarded:
            undo.forget(RESET_METHOD)
    return None


def write_methods(host: Host, bdf: Bdf, methods: Sequence[str]) -> None:
    """Have reset_method say *methods*, or as many of them as the kernel still takes.

    It takes no `bus` any more once the bus has another function (pci_parent_bus_reset, v6.1),
    and then refuses the whole list.
    """
    try:
        host.write_attr(bdf, RESET_METHOD, " ".join(methods) or NO_METHOD)
        return
    except SysfsError as error:
        log.warning("%s", error.message, extra=about(bdf))
    left = [method for method in methods if _takes(host, bdf, method)]
    host.write_attr(bdf, RESET_METHOD, " ".join(left) or "default")


def _takes(host: Host, bdf: Bdf, method: str) -> bool:
    try:
        host.write_attr(bdf, RESET_METHOD, method)
    except SysfsError:
        return False
    return True


def await_config(host: Host, bdf: Bdf, timeout: float) -> Ended:
    """Wait for a vendor id in configuration space."""
    deadline = Deadline(host.monotonic, timeout)
    while pci.word(host.read_config(bdf, pci.VENDOR_ID, 2)) == pci.NOBODY:
        if deadline.expired:
            return f"configuration space reads all ones after {timeout:.1f} s"
        host.sleep(POLL)
    return None


def gone(seen: Observation) -> DeviceGone:
    """Word the error for a controller that does not answer."""
    return DeviceGone(
        f"{seen.bdf}: does not answer: {seen.evidence}, expected {seen.vendor:04x}:"
        f"{seen.device:04x}",
        hint=POWER_CYCLE,
    )


def _gave_up(
    seen: Observation, goal: Goal, tried: Sequence[Method], refusals: dict[Method, Refusal]
) -> DeviceGone | RegistersUnreadable | LadderExhausted:
    if seen.gone:
        return gone(seen)
    if seen.registers is None:
        return RegistersUnreadable(f"{seen.bdf}: registers cannot be read: {seen.unreadable}")
    after = f" after {', '.join(tried)}" if tried else ""
    refused = "".join(f"; {method}: {why}" for method, why in refusals.items())
    return LadderExhausted(
        f"{seen.bdf}: not {goal.value}{after}: {seen.evidence}{refused}",
        hint=POWER_CYCLE,
        disabled=seen.disabled,
    )


def _tell(method: Method, before: Observation, after: Observation, seconds: float) -> None:
    """One line of old -> new, with fields that need no parsing to compare."""
    fields = {"METHOD": method, "ELAPSED_MS": f"{seconds * 1000:.3f}"}
    for when, seen in (("BEFORE", before), ("AFTER", after)):
        if seen.registers is not None:
            fields[f"CC_{when}"] = f"{int(seen.registers.cc):#010x}"
            fields[f"CSTS_{when}"] = f"{int(seen.registers.csts):#010x}"
    old, new = (seen.state.value if seen.state else "unknown" for seen in (before, after))
    change = f"{method}: {old} -> {new}"
    log.info("%s: %s", after.bdf, change, extra=about(after.bdf, **fields))
