# SPDX-License-Identifier: LGPL-2.1-or-later
"""The loop: observe, decide, apply, observe again. All effects on a controller are here.

What to do is ``plan``'s; who calls, with the controller locked, is ``custody``. Each kind of
effect has a module of its own: ``power``, ``methods``, ``reenumerate``.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from . import counters
from .bdf import Bdf
from .errors import (
    DeviceBusy,
    DeviceGone,
    HookError,
    LadderExhausted,
    OutOfTime,
    RegistersUnreadable,
    SysfsError,
)
from .ladder import (
    CFS_GRACE,
    AwaitConfig,
    AwaitLive,
    AwaitReady,
    ClearEnable,
    KernelReset,
    Method,
    Probe,
    Reenumerate,
    Refusal,
    Settle,
    Step,
    controller_refusal,
    controller_steps,
)
from .methods import RESET_METHOD, kernel_reset
from .nvme import CC, CSTS
from .observe import NVME, VFIO_PCI, Observation, observe
from .plan import Done, GiveUp, Goal, Try, decide
from .power import make_readable
from .reenumerate import DRIVER, OVERRIDE, PORT, override, reenumerate
from .registers import read, write
from .telling import about
from .work import Work

log = logging.getLogger(__name__)

POLL = 0.002
"""Seconds between two looks at CSTS or configuration space: nvme core waits 1 to 2 ms (v6.1)."""
LIVE_POLL = 0.01
PROBE_GRACE = 1.0
"""Seconds until a driver that will bind has: newer kernels let nvme probe beside the caller."""
POWER_CYCLE = "power the host off and on: nothing less brings such a drive back"
RECOVER = "virt-nvme-reset recover {}; if that fails, power the host off and on"

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


def look(work: Work) -> Observation:
    """Observe; an idle function is woken for it."""
    make_readable(work)
    return glimpse(work)


def glimpse(work: Work, kept_off: str = "") -> Observation:
    """Observe as it is, with what ``reset_method`` said before our guard.

    :param kept_off: see ``observe``.
    """
    undo = work.undo
    seen = observe(work.host, work.bdf, work.quirk, undo.original(RESET_METHOD), kept_off)
    port = undo.original(PORT)
    # A function that is away has no bridge above it any more: the journal knows.
    return seen if seen.port or not port else replace(seen, port=Bdf.parse(port))


def reach(work: Work, goal: Goal, recovering: bool = False) -> Outcome:
    """Bring one controller to *goal*.

    :param recovering: the function may also be removed and enumerated anew.
    :raises DeviceGone: all ones; no reset was started on it that the kernel would wait for.
    :raises DeviceBusy: somebody else has it by now.
    :raises RegistersUnreadable: no reset was started either: it could not be verified.
    :raises LadderExhausted: no allowed reset is left.
    :raises OutOfTime: the deadline came first.
    :raises SysfsError: the kernel refused to be looked at.
    """
    began = work.host.monotonic()
    first = seen = look(work)
    tried: list[Method] = []
    was_reset = False
    while True:
        _allow(work, seen)
        match decide(seen, tried, goal, was_reset, recovering):
            case Done():
                return Outcome(first, seen, tuple(tried), work.host.monotonic() - began)
            case GiveUp(refusals):
                raise _gave_up(seen, goal, tried, refusals, recovering)
            case Try(method, steps):
                if work.deadline.expired:
                    raise _out_of_time(work, seen, goal, tried)
                tried.append(method)
                started = work.host.monotonic()
                completed = _take(work, method, steps)
                was_reset |= completed and method in (Method.FLR, Method.PM, Method.BUS)
                before, seen = seen, look(work)
                _tell(method, before, seen, work.host.monotonic() - started)
                counters.tried(work, method, completed)


def disable(work: Work) -> Observation:
    """Clear CC.EN and wait for CSTS.RDY; no reset, whatever comes of it. Return what is seen then.

    :raises SysfsError: the kernel refused to be looked at.
    """
    seen = look(work)
    _allow(work, seen)
    if controller_refusal(seen):
        return seen
    started = work.host.monotonic()
    completed = _take(work, Method.CONTROLLER, controller_steps(seen))
    after = look(work)
    _tell(Method.CONTROLLER, seen, after, work.host.monotonic() - started)
    counters.tried(work, Method.CONTROLLER, completed)
    return after


def _allow(work: Work, seen: Observation) -> None:
    """A drive may take what its own CAP.TO says."""
    if seen.registers is not None and not seen.gone:
        work.allow(seen.registers.cap.ready_timeout)


def _take(work: Work, method: Method, steps: Sequence[Step]) -> bool:
    """Apply a rung's steps; return whether all of them ran to their end.

    What goes wrong is seen at the next look, so here it is only told.
    """
    bdf = work.bdf
    for step in steps:
        log.info("%s: %s", bdf, step.describe(), extra=about(bdf, METHOD=method))
        try:
            ended = apply(work, step)
        except SysfsError as error:
            ended = error.message.removeprefix(f"{bdf}: ")
        if ended:
            log.warning("%s: %s: %s", bdf, method, ended, extra=about(bdf, METHOD=method))
            return False
    return True


def apply(work: Work, step: Step) -> Ended:
    """Carry out one step."""
    work.host.doing(step.describe())
    match step:
        case ClearEnable():
            return clear_enable(work)
        case AwaitReady(target, timeout):
            return await_ready(work, target, timeout)
        case AwaitConfig(timeout):
            return await_config(work, timeout)
        case AwaitLive(timeout):
            return await_live(work, timeout)
        case KernelReset(method, restore):
            kernel_reset(work, method, restore)
        case Settle(seconds):
            work.host.sleep(seconds)
        case Probe():
            work.host.write_bus("drivers_probe", str(work.bdf))
        case Reenumerate():
            reenumerate(work, step)
        case _:
            assert_never(step)
    return None


def clear_enable(work: Work) -> Ended:
    """Write CC once; as nvme_disable_ctrl does (kernel drivers/nvme/host/core.c, v6.1)."""
    with work.host.registers(work.bdf) as bar:
        cc = read(bar, CC)
        if cc.all_ones:
            return f"{cc.raw}: nobody answers"
        write(bar, cc.replace(EN=0, SHN=0))
    return None


def await_ready(work: Work, target: bool, timeout: float) -> Ended:
    """Poll CSTS.RDY; a controller with CFS=1 gets CFS_GRACE and no more."""
    deadline = work.deadline.within(timeout)
    with work.host.registers(work.bdf) as bar:
        while True:
            csts = read(bar, CSTS)
            if csts.all_ones:
                return f"{csts.raw}: nobody answers"
            if csts.RDY is target:
                return None
            if deadline.expired or (csts.CFS and deadline.elapsed >= CFS_GRACE):
                waited = f"waited {deadline.elapsed:.1f} s of CAP.TO {timeout:.1f} s"
                return f"CSTS.RDY is not {target:d}: {csts}, {waited}"
            work.host.sleep(POLL)


def await_config(work: Work, timeout: float) -> Ended:
    """Wait for a vendor id in configuration space."""
    deadline = work.deadline.within(timeout)
    while not work.answers:
        if deadline.expired:
            return f"configuration space reads all ones after {deadline.elapsed:.1f} s"
        work.host.sleep(POLL)
    return None


def await_live(work: Work, timeout: float) -> Ended:
    """Wait until the host's driver can use it; one that nobody else wants ends the wait."""
    if not is_wanted_by_host(work):
        return None
    work.allow(timeout)
    deadline = work.deadline.within(timeout)
    while (state := work.host.nvme_state(work.bdf)) != "live":
        unbound = work.driver != NVME and deadline.elapsed >= PROBE_GRACE
        if deadline.expired or state == "dead" or unbound:
            return f"host's nvme driver: {state or 'gave up'} after {deadline.elapsed:.1f} s"
        work.host.sleep(LIVE_POLL)
    return None


def is_wanted_by_host(work: Work) -> bool:
    """Is the host's nvme driver the one that binds to it if nobody else has it?

    Of a function that was taken away the journal knows.
    """
    driver = work.driver
    if driver is not None or not work.host.has_driver(NVME):
        return driver == NVME
    undo = work.undo
    due = undo.original(DRIVER) or undo.original(OVERRIDE)
    return (override(work) if work.present else due or "") in ("", NVME)


def gone(seen: Observation) -> DeviceGone:
    """Word the error for a controller that does not answer."""
    expected = f", expected {seen.vendor:04x}:{seen.device:04x}" if seen.present else ""
    message = f"{seen.bdf}: does not answer: {seen.evidence}{expected}"
    return DeviceGone(message, hint=RECOVER.format(seen.bdf))


def _gave_up(
    seen: Observation,
    goal: Goal,
    tried: Sequence[Method],
    refusals: dict[Method, Refusal],
    recovering: bool,
) -> HookError:
    owners = (None, VFIO_PCI) if goal is not Goal.LIVE else (None, NVME)
    if seen.open or seen.driver not in owners:
        # Whoever asked for this had seen it otherwise: somebody has come since.
        by = "vfio has it open" if seen.open else f"driver {seen.driver} has it"
        return DeviceBusy(f"{seen.bdf}: left alone: {by} by now")
    if seen.gone and not recovering:
        return gone(seen)
    if seen.registers is None and not seen.gone and goal is not Goal.LIVE:
        return RegistersUnreadable(f"{seen.bdf}: registers cannot be read: {seen.unreadable}")
    after = f" after {', '.join(tried)}" if tried else ""
    if goal is Goal.LIVE and seen.driver == NVME and seen.nvme_state != "dead":
        return OutOfTime(
            f"{seen.bdf}: not live{after}: {_evidence(seen)}: it may still come",
            hint=f"virt-nvme-reset recover {seen.bdf}",
        )
    refused = "".join(f"; {method}: {why}" for method, why in refusals.items())
    return LadderExhausted(
        f"{seen.bdf}: not {goal.value}{after}: {_evidence(seen)}{refused}",
        hint=POWER_CYCLE if recovering else RECOVER.format(seen.bdf),
        disabled=seen.disabled,
    )


def _evidence(seen: Observation) -> str:
    if seen.driver == NVME:
        return f"the host's nvme driver says {seen.nvme_state}"
    return seen.evidence


def _out_of_time(work: Work, seen: Observation, goal: Goal, tried: Sequence[Method]) -> OutOfTime:
    after = f" after {', '.join(tried)}" if tried else ""
    return OutOfTime(
        f"{seen.bdf}: not {goal.value}{after}: {_evidence(seen)}:"
        f" time is up, {work.deadline.elapsed:.1f} s",
        hint=f"virt-nvme-reset recover {seen.bdf}",
    )


def _tell(method: Method, before: Observation, after: Observation, seconds: float) -> None:
    """One line of old -> new, with fields that need no parsing to compare."""
    fields = {"METHOD": method, "ELAPSED_MS": f"{seconds * 1000:.3f}"}
    for when, seen in (("BEFORE", before), ("AFTER", after)):
        if seen.registers is not None:
            fields[f"CC_{when}"] = f"{int(seen.registers.cc):#010x}"
            fields[f"CSTS_{when}"] = f"{int(seen.registers.csts):#010x}"
    change = f"{method}: {_state(before)} -> {_state(after)}"
    log.info("%s: %s", after.bdf, change, extra=about(after.bdf, **fields))


def _state(seen: Observation) -> str:
    if seen.driver == NVME:
        return f"nvme {seen.nvme_state}"
    return seen.state.value if seen.state else "unknown"
