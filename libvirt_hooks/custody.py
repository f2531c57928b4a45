# SPDX-License-Identifier: LGPL-2.1-or-later
"""Work on one controller: take it for a guest, keep it guarded, give it back clean.

Each function takes a Work and returns one line on what came of it, or raises HookError; ``job``
makes work for ``Host.each`` of it. When which of them is due is ``lifecycle``'s table.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from . import exclusive, journal, keepers, marks, pci, reenumerate
from .bdf import Bdf
from .deadline import Deadline
from .engine import await_config, await_live, glimpse, is_wanted_by_host, look, reach
from .errors import (
    BadRecord,
    DeviceBusy,
    HookError,
    LadderExhausted,
    OutOfTime,
    RegistersUnreadable,
    SysfsError,
)
from .guard import guards
from .host import Host
from .ladder import CONFIG_TIMEOUT, LIVE_TIMEOUT, READY_TIMEOUT
from .methods import RESET_METHOD, restore_methods
from .observe import NVME, VFIO_PCI, Observation, is_open
from .plan import Goal
from .policy import FailedDisable, Policy
from .power import restore_command, restore_power
from .snapshot import Process
from .telling import about
from .work import Work, locked

log = logging.getLogger(__name__)

CLOSE_POLL, SCAN_POLL = 0.01, 0.25
"""Seconds between two looks whether vfio has let go: at the function, at every process."""

Task = Callable[[Work], str]

Guests = Mapping[str, float | None]
"""Guests by uuid, each with the time of its record; None: whatever the record says by now."""
NOBODY: Guests = {}


def job(
    task: Task,
    host: Host,
    bdf: Bdf,
    policy: Policy,
    deadline: Deadline,
    users: Sequence[Process] = (),
    guests: Guests = NOBODY,
) -> str:
    """Do *task* on one controller, locked, from where a hook that died left it.

    :param guests: those for which it is done.
    :raises DeviceBusy: a guest has it by now: whoever decided to do this had no lock yet.
    """
    with locked(host, bdf, policy, deadline, users) as work:
        for owner in journal.owners_of(host, bdf):
            if owner.uuid not in guests or guests[owner.uuid] not in (None, owner.since):
                raise DeviceBusy(f"{bdf}: left alone: the guest with uuid {owner.uuid} has it")
        _finish_removal(work)
        try:
            return task(work)
        finally:
            restore_command(work)


def clean(work: Work) -> str:
    """Bring an idle controller to PRISTINE, and let it sleep again."""
    refuse_open(work.host, work.bdf, work.users)
    try:
        return _bring(work, Goal.PRISTINE)
    except LadderExhausted as error:
        if work.quirk.flr_lethal_while_enabled and not error.disabled:
            raise
        # vfio will try to reset it once more, and that cannot kill it.
        log.warning("%s", error.message, extra=about(work.bdf))
        return "not pristine, going on"
    finally:
        put_back(work)


def take(work: Work) -> str:
    """Disable a controller and guard it, before QEMU opens it.

    Stays awake until ``give_back``.

    :raises DeviceGone: it does not answer: QEMU would hang for 65 s in the kernel.
    :raises HookError: it could not be disabled, and the policy refuses it then.
    """
    refuse_open(work.host, work.bdf, work.users)
    lethal = work.quirk.flr_lethal_while_enabled
    try:
        with exclusive.where_needed(work):
            result = f"disabled: {reach(work, Goal.DISABLED)}"
        trouble: HookError | None = None
    except (LadderExhausted, OutOfTime, RegistersUnreadable, SysfsError) as error:
        result, trouble = error.message.removeprefix(f"{work.bdf}: "), error
    no_flr = _set_guard(work, look(work))
    harmless = not lethal or (no_flr and isinstance(trouble, RegistersUnreadable))
    if trouble and refuses(work.policy.failed_disable, harmless):
        raise trouble
    if trouble:
        log.warning("%s: not disabled, going on: %s", work.bdf, result, extra=about(work.bdf))
    return result


def refresh(work: Work) -> str:
    """Guard a controller that a running guest has open; its registers are not ours to touch."""
    _set_guard(work, glimpse(work, kept_off="its guest has them"))
    methods = work.host.read_attr(work.bdf, RESET_METHOD)
    return f"reset_method is {methods!r} while its guest runs"


def give_back(work: Work) -> str:
    """Clean a controller that its guest has let go of, before the host gets it back.

    :raises DeviceBusy: it is still open; then nothing is touched.
    """
    if not work.present:
        return put_back(work)
    if work.driver not in (None, VFIO_PCI):
        # Hot-unplugged: the host's driver has it.
        put_back(work)
        return "already back with the host"
    await_closed(work)
    _settle(work)
    result = _bring(work, Goal.PRISTINE)
    # Only now: while the drive is not clean, the guard protects it from the next FLR.
    put_back(work)
    return result


def verify(work: Work) -> str:
    """See that a controller is well where libvirt left it; mend what is not, by every means.

    :raises DeviceBusy: it is still open; then nothing is touched.
    :raises HookError: nothing brought it back: it is marked dead, and the next start refused.
    """
    if work.driver not in (None, NVME, VFIO_PCI):
        put_back(work)
        return f"driver {work.driver} has it"
    await_closed(work)
    if work.driver == NVME:
        _await_host(work)
    elif work.present:
        _settle(work)
    try:
        goal = Goal.LIVE if is_wanted_by_host(work) else Goal.PRISTINE
        result = _bring(work, goal, recovering=True)
    except LadderExhausted as error:
        _mark_dead(work, error)
        reenumerate.give_up(work)
        put_back(work)
        raise
    put_back(work)
    return result


def _mark_dead(work: Work, error: HookError) -> None:
    try:
        marks.mark_dead(work.host, work.bdf, error)
    except BadRecord as full:  # what is wrong with the drive is the news
        log.error("%s", full.message, extra=about(work.bdf))


def _await_host(work: Work) -> None:
    """Give the host's driver its time; only one that has given up leaves something to mend.

    :raises HookError: it has not, and has it still.
    """
    ended = await_live(work, LIVE_TIMEOUT)
    if ended and work.driver == NVME and work.host.nvme_state(work.bdf) != "dead":
        put_back(work)
        raise HookError(f"{work.bdf}: back with the host, not live: {ended}", hint="dmesg says why")


def put_back(work: Work) -> str:
    """Restore what the journal holds, in an order in which each finds what it needs.

    Of a function that was taken away and is not found everything stays journaled: `release` and
    `recover` have more ways to look for it. And of one that somebody has opened: the guard is
    there for that.
    """
    if work.is_open:
        return "open by now: left as it is"
    _finish_removal(work)
    if reenumerate.is_due(work):
        return "taken away by an earlier hook, and not found again"
    restore_command(work)
    restore_methods(work)
    restore_power(work)
    return "everything is as it was"


def _finish_removal(work: Work) -> None:
    """Look for what a hook has taken away. That the kernel refuses is no reason to stop here:
    the ladder has other ways."""
    if reenumerate.is_due(work):
        try:
            reenumerate.finish(work)
        except SysfsError as error:
            log.warning("%s", error.message, extra=about(work.bdf))
    reenumerate.free_probes(work)


def tidy(work: Work) -> str:
    """Put back what a hook that died had changed, on a controller that nobody has.

    :raises DeviceBusy: somebody has it after all.
    """
    refuse_open(work.host, work.bdf, work.users)
    return put_back(work)


def refuse_open(host: Host, bdf: Bdf, users: Sequence[Process]) -> None:
    """Refuse a controller that somebody has open.

    :raises DeviceBusy: vfio-pci has it open already, or *users* its group.
    """
    if users or is_open(host, bdf, host.driver(bdf)):
        by = "".join(f", by {each}" for each in _holders(host, bdf, users))
        raise DeviceBusy(
            f"{bdf}: in use: open through vfio already{by}, expected it to be idle",
            hint="stop the guest that has it",
        )


def _holders(host: Host, bdf: Bdf, users: Sequence[Process]) -> list[str]:
    found = [str(each) for each in users]
    return [*found, *(str(each) for each in keepers.find_all(host) if bdf in each.bdfs)]


def await_closed(work: Work) -> None:
    """Wait until nobody has it open, as long as the operation may take.

    libvirt gives up on a QEMU that does not die and calls `stopped` all the same (9.0,
    virProcessKillPainfullyDelay): it may still be in the kernel, closing the device.

    :raises DeviceBusy: somebody still has.
    """
    work.host.doing("waiting for vfio's last close")
    users = work.users
    while (opened := work.is_open) or users:
        if work.deadline.expired:
            by = "".join(f", by {each}" for each in _holders(work.host, work.bdf, users))
            raise DeviceBusy(
                f"{work.bdf}: still open through vfio {work.deadline.elapsed:.0f} s after its"
                f" guest ended{by}: left alone",
                hint="whoever has it may be stuck in the kernel: look for state D in ps; the next"
                " start, or virt-nvme-reset recover, goes on from here",
            )
        work.host.sleep(CLOSE_POLL if opened else SCAN_POLL)
        if not opened:
            users = work.host.vfio_users([work.bdf])[work.bdf]


def _settle(work: Work) -> None:
    """vfio may just have reset it: the table's times hold for that reset as for ours."""
    settle = work.quirk.settle_after_reset
    if settle:
        work.host.sleep(settle)
    await_config(work, CONFIG_TIMEOUT if settle else READY_TIMEOUT)


def _bring(work: Work, goal: Goal, recovering: bool = False) -> str:
    try:
        with exclusive.where_needed(work):
            # What we have open ourselves cannot be removed.
            outcome = reach(work, goal, recovering and not work.host.holds(work.bdf))
    except RegistersUnreadable as error:
        log.warning("%s", error.message, extra=about(work.bdf))
        return "not verified: its registers cannot be read"
    marks.revive(work.host, work.bdf)
    return f"{goal.value}: {outcome}"


def refuses(policy: FailedDisable, harmless: bool) -> bool:
    """Does a controller that could not be disabled refuse the start?"""
    match policy:
        case FailedDisable.REFUSE:
            return True
        case FailedDisable.REFUSE_LETHAL:
            return not harmless
        case FailedDisable.GO_ON:
            return False


def _set_guard(work: Work, seen: Observation) -> bool:
    """Write the best guard that the kernel takes. Return whether vfio's resets are no FLR now."""
    current = seen.reset_methods
    if current is None:
        return False
    for value in guards(seen, work.guard):
        if value.split() == list(current):
            return True
        work.undo.keep(RESET_METHOD, " ".join(current))
        with suppress(SysfsError):
            work.host.write_attr(work.bdf, RESET_METHOD, value)
            what = f"reset_method is {value.strip()!r} while its guest runs"
            log.info("%s: %s", work.bdf, what, extra=about(work.bdf))
            return True
    return not current or current[0] == pci.ResetMethod.DEVICE_SPECIFIC
