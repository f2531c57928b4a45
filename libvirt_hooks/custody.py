# SPDX-License-Identifier: LGPL-2.1-or-later
"""Work on one controller, locked: take it for a guest, keep it guarded, give it back clean.

Each public function but refuse_open is a job for ``Host.each``: it returns one line on what came
of it, or raises HookError. When which of them is due is ``lifecycle``'s table.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from . import pci, quirks
from .bdf import Bdf
from .deadline import Deadline
from .engine import RESET_METHOD, Outcome, await_config, gone, look, reach, write_methods
from .errors import DeviceBusy, HookError, LadderExhausted, RegistersUnreadable, SysfsError
from .guard import guards
from .host import Host
from .journal import Undo
from .ladder import CONFIG_TIMEOUT
from .observe import NVME, VFIO_PCI, Observation, is_open, number
from .plan import Goal
from .power import POWER_CONTROL, let_sleep, memory_decode, wake
from .telling import about

log = logging.getLogger(__name__)

LOCK_TIMEOUT = 5.0
CLOSE_TIMEOUT = 10.0
"""Seconds for QEMU's last descriptor to go: libvirt may call `stopped` while it still exits."""
LIVE_TIMEOUT = 10.0
"""Seconds for the host's driver to finish its probe."""
POLL = 0.01
PROBE = "subsystem/drivers_probe"
"""/sys/bus/pci/drivers_probe, by the link that every function has."""


def refuse_open(host: Host, bdf: Bdf) -> None:
    """Refuse a controller that somebody has open.

    :raises DeviceBusy: vfio-pci has it open already.
    """
    if is_open(host, bdf, host.driver(bdf)):
        raise DeviceBusy(
            f"{bdf}: in use: open through vfio already, expected it to be idle",
            hint="stop the guest that has it",
        )


def clean(host: Host, bdf: Bdf) -> str:
    """Bring an idle controller to PRISTINE, and let it sleep again."""
    with _locked(host, bdf) as undo:
        refuse_open(host, bdf)
        try:
            return _make_pristine(host, bdf, undo)
        except LadderExhausted as error:
            if _quirk(host, bdf).flr_lethal_while_enabled and not error.disabled:
                raise
            # vfio will try to reset it once more, and that cannot kill it.
            log.warning("%s", error.message, extra=about(bdf))
            return "not pristine, going on"
        finally:
            _put_back(host, bdf, undo)


def take(host: Host, bdf: Bdf) -> str:
    """Disable a controller and guard it, before QEMU opens it.

    Stays awake until ``give_back``.

    :raises DeviceGone: it does not answer: QEMU would hang for 65 s in the kernel.
    :raises HookError: a drive that an FLR kills could not be made safe.
    """
    with _locked(host, bdf) as undo:
        lethal = _quirk(host, bdf).flr_lethal_while_enabled
        _refuse_gone(host, bdf, undo)
        wake(host, bdf, undo)
        try:
            result = _disable(host, bdf, undo)
            trouble: HookError | None = None
        except (LadderExhausted, RegistersUnreadable, SysfsError) as error:
            result, trouble = error.message.removeprefix(f"{bdf}: "), error
        no_flr = _set_guard(host, look(host, bdf, undo), undo)
        harmless = not lethal or (no_flr and isinstance(trouble, RegistersUnreadable))
        if trouble and not harmless:
            raise trouble
        if trouble:
            log.warning("%s: not disabled, going on: %s", bdf, result, extra=about(bdf))
        return result


def refresh(host: Host, bdf: Bdf) -> str:
    """Guard a controller that a running guest has open; its registers are not ours to touch."""
    with _locked(host, bdf) as undo:
        _set_guard(host, look(host, bdf, undo), undo)
        return f"reset_method is {host.read_attr(bdf, RESET_METHOD)!r} while its guest runs"


def give_back(host: Host, bdf: Bdf) -> str:
    """Clean a controller that its guest has let go of, before the host gets it back.

    :raises DeviceBusy: it is still open; then nothing is touched.
    """
    with _locked(host, bdf) as undo:
        if host.driver(bdf) not in (None, VFIO_PCI):
            # Hot-unplugged: the host's driver has it.
            _put_back(host, bdf, undo)
            return "already back with the host"
        _await_closed(host, bdf)
        _settle(host, bdf)
        result = _make_pristine(host, bdf, undo)
        # Only now: while the drive is not clean, the guard protects it from the next FLR.
        _put_back(host, bdf, undo)
        return result


def verify(host: Host, bdf: Bdf) -> str:
    """See that a controller is well where libvirt left it; mend what is not.

    :raises HookError: it is not, and why.
    """
    with _locked(host, bdf) as undo:
        try:
            if host.driver(bdf) == NVME:
                return _await_live(host, bdf)
            _await_closed(host, bdf)
            result = _make_pristine(host, bdf, undo)
            if host.driver(bdf) is None:
                return f"{result}; {_probe(host, bdf)}"
            return result
        finally:
            _put_back(host, bdf, undo)


@contextmanager
def _locked(host: Host, bdf: Bdf) -> Iterator[Undo]:
    host.doing("waiting for another hook to finish with it", LOCK_TIMEOUT)
    with host.lock(bdf, LOCK_TIMEOUT):
        yield Undo(host.records, bdf)


def _settle(host: Host, bdf: Bdf) -> None:
    """vfio has just reset it: the table's times hold for that reset as for ours."""
    quirk = _quirk(host, bdf)
    if quirk.settle_after_reset:
        host.sleep(quirk.settle_after_reset)
        await_config(host, bdf, CONFIG_TIMEOUT)


def _quirk(host: Host, bdf: Bdf) -> quirks.Quirk:
    vendor, device = (number(host.read_attr(bdf, name)) for name in ("vendor", "device"))
    return quirks.find(vendor, device)


def _refuse_gone(host: Host, bdf: Bdf, undo: Undo) -> None:
    """Before anything else, for waking a dead function takes the kernel seconds."""
    if pci.word(host.read_config(bdf, pci.VENDOR_ID, 2)) == pci.NOBODY:
        raise gone(look(host, bdf, undo))


def _disable(host: Host, bdf: Bdf, undo: Undo) -> str:
    with memory_decode(host, bdf):
        return f"disabled: {reach(host, bdf, Goal.DISABLED, undo)}"


def _make_pristine(host: Host, bdf: Bdf, undo: Undo) -> str:
    _refuse_gone(host, bdf, undo)
    wake(host, bdf, undo)
    try:
        with memory_decode(host, bdf):
            outcome: Outcome = reach(host, bdf, Goal.PRISTINE, undo)
    except RegistersUnreadable as error:
        log.warning("%s", error.message, extra=about(bdf))
        return "not verified: its registers cannot be read"
    return f"pristine: {outcome}"


def _set_guard(host: Host, seen: Observation, undo: Undo) -> bool:
    """Write the best guard that the kernel takes. Return whether vfio's resets are no FLR now."""
    bdf, current = seen.bdf, seen.reset_methods
    if current is None:
        return False
    for value in guards(seen):
        if value.split() == list(current):
            return True
        undo.keep(RESET_METHOD, " ".join(current))
        with suppress(SysfsError):
            host.write_attr(bdf, RESET_METHOD, value)
            what = f"reset_method is {value.strip()!r} while its guest runs"
            log.info("%s: %s", bdf, what, extra=about(bdf))
            return True
    return not current or current[0] == pci.ResetMethod.DEVICE_SPECIFIC


def _put_back(host: Host, bdf: Bdf, undo: Undo) -> None:
    """Restore what the journal holds: reset_method, then power/control.

    power/control is the driver's that bound since: vfio-pci set it to auto, nvme has not.
    """
    if host.driver(bdf) not in (None, VFIO_PCI):
        undo.forget(POWER_CONTROL)
    methods = undo.original(RESET_METHOD)
    if methods is not None:
        write_methods(host, bdf, methods.split())
        undo.forget(RESET_METHOD)
    let_sleep(host, bdf, undo)


def _await_closed(host: Host, bdf: Bdf) -> None:
    host.doing("waiting for vfio's last close", CLOSE_TIMEOUT)
    deadline = Deadline(host.monotonic, CLOSE_TIMEOUT)
    while is_open(host, bdf, host.driver(bdf)):
        if deadline.expired:
            raise DeviceBusy(
                f"{bdf}: still open through vfio {CLOSE_TIMEOUT:.0f} s after its guest ended:"
                " left alone",
                hint="its QEMU may be stuck in the kernel: look for state D in ps",
            )
        host.sleep(POLL)


def _await_live(host: Host, bdf: Bdf) -> str:
    host.doing("waiting for the host's nvme driver", LIVE_TIMEOUT)
    deadline = Deadline(host.monotonic, LIVE_TIMEOUT)
    while (state := host.nvme_state(bdf)) != "live":
        if deadline.expired or state == "dead":
            raise HookError(
                f"{bdf}: back with the host after {deadline.elapsed:.1f} s: controller is"
                f" {state}, expected live",
                hint="dmesg says why",
            )
        host.sleep(POLL)
    return "back with the host, live"


def _probe(host: Host, bdf: Bdf) -> str:
    """Have the kernel look for a driver: at libvirt's reattach the drive answered none."""
    host.write_attr(bdf, PROBE, str(bdf))
    if host.driver(bdf) == NVME:
        return _await_live(host, bdf)
    return f"driver is {host.driver(bdf)} now"
