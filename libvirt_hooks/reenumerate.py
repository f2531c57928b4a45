# SPDX-License-Identifier: LGPL-2.1-or-later
"""Take a function away and have the kernel enumerate its bus again, with the driver it had.

What the kernel forgets with the function is journaled before, so that whoever finds the journal
after a crash can go on from any point: ``finish`` is for both. Sources: kernel
drivers/pci/{remove,probe,bus,pci-sysfs}.c, drivers/base/{bus,dd}.c (drivers_autoprobe), v6.1.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOENT

from . import pci, usage
from .bdf import Bdf
from .errors import DeviceBusy, SysfsError
from .ladder import READY_TIMEOUT, Reenumerate
from .methods import RESET_METHOD
from .observe import NVME
from .work import Work

PORT, SLOT, DRIVER, OVERRIDE = "port", "slot", "driver", "driver_override"
AUTOPROBE = "drivers_autoprobe"

RESET_SECONDS = 0.002
"""How long the secondary bus stays in reset: pci_reset_secondary_bus (v6.1)."""


def reenumerate(work: Work, step: Reenumerate) -> None:
    """Remove, do what *step* wants in between, and ``finish``.

    A driver other than the one that the kernel would choose is bound before any other can be, or
    at once after: until Linux 6.19 (ea34511aaf75) a function that is found gets a driver
    whatever drivers_autoprobe says. What the host has begun to use it keeps.

    :raises SysfsError: the kernel refused a write.
    :raises DeviceBusy: the host has begun to use it.
    """
    _remember(work)
    with _probes_held(work):
        if step.slot is not None:
            work.undo.keep(SLOT, step.slot)
            _slot_power(work, step.slot, "0")
            work.host.sleep(READY_TIMEOUT)
        elif work.present:
            work.host.write_attr(work.bdf, "remove", "1")
        if step.port is not None:
            _reset_secondary_bus(work, step.port)
        _find(work)


def is_due(work: Work) -> bool:
    """Is there something that was taken away and not brought back?"""
    return any(work.undo.original(name) is not None for name in (PORT, SLOT, DRIVER, OVERRIDE))


def finish(work: Work) -> None:
    """Look for the function where it was, and give it back the driver that it had.

    What is found no more stays journaled, for the next who looks for it.

    :raises SysfsError: the kernel refused a write.
    :raises DeviceBusy: the host uses it by now.
    """
    with _probes_held(work):
        _find(work)


def give_up(work: Work) -> None:
    """Nobody will look for it any more."""
    work.undo.forget(PORT, SLOT, DRIVER, OVERRIDE)
    if not work.present:
        work.undo.forget(RESET_METHOD)


def free_probes(work: Work) -> None:
    """Let drivers bind to what is found, if it was us who kept them from it."""
    held = work.undo.original(AUTOPROBE)
    if held is not None:
        work.host.write_bus(AUTOPROBE, held)
        work.undo.forget(AUTOPROBE)


def override(work: Work) -> str:
    """Return what driver_override says; empty: nothing."""
    text = work.host.read_attr(work.bdf, OVERRIDE) or ""
    return "" if text == "(null)" else text


def _find(work: Work) -> None:
    undo = work.undo
    slot = undo.original(SLOT)
    if slot is not None:
        if not work.present:
            _slot_power(work, slot, "1")
        undo.forget(SLOT)
    if not work.present:
        work.host.rescan(work.bdf)
    if work.present:
        _rebind(work)
        undo.forget(PORT, DRIVER, OVERRIDE)


def _remember(work: Work) -> None:
    if not work.present:
        return
    driver = work.driver
    work.undo.keep(PORT, str(work.host.port(work.bdf) or ""))
    work.undo.keep(OVERRIDE, override(work))
    if driver not in (None, NVME):
        work.undo.keep(DRIVER, driver)
    methods = work.host.read_attr(work.bdf, RESET_METHOD)
    if methods is not None:
        work.undo.keep(RESET_METHOD, methods)


def _rebind(work: Work) -> None:
    before, driver = work.undo.original(OVERRIDE) or "", work.undo.original(DRIVER)
    wanted = driver or before
    if wanted not in ("", NVME) and work.driver in (None, NVME):
        if work.driver == NVME:
            _refuse_used(work, wanted)
        work.host.write_attr(work.bdf, OVERRIDE, wanted)
        if work.driver == NVME:
            work.host.write_attr(work.bdf, "driver/unbind", str(work.bdf))
        if driver is not None:
            work.host.write_bus("drivers_probe", str(work.bdf))
    if override(work) != before:
        work.host.write_attr(work.bdf, OVERRIDE, before or "\n")


def _refuse_used(work: Work, driver: str) -> None:
    """Refuse to take from the host what it uses: minutes may lie between a crash and this."""
    host, bdf = work.host, work.bdf
    for _ in range(usage.PATIENCE):
        uses = usage.uses(host.usage([bdf]), bdf, host.claimed(bdf))
        if not usage.may_pass(uses):
            break
        host.sleep(usage.PAUSE)
    if uses:
        raise DeviceBusy(
            f"{bdf}: may not go back to {driver}: in use by the host: {usage.listed(uses)}",
            hint=f"{usage.remedy(uses)}, then virt-nvme-reset recover {bdf}",
        )


@contextmanager
def _probes_held(work: Work) -> Iterator[None]:
    """Keep drivers from binding by themselves for as long as this lasts.

    On the whole machine: there is no other switch. So only where another driver than the kernel's
    choice is due.
    """
    if not (work.undo.original(DRIVER) or work.undo.original(OVERRIDE)):
        yield
        return
    with work.host.lock(AUTOPROBE, max(work.deadline.left, 0.0)):
        if work.host.read_bus(AUTOPROBE) == "1":
            work.undo.keep(AUTOPROBE, "1")
            work.host.write_bus(AUTOPROBE, "0")
        try:
            yield
        finally:
            free_probes(work)


def _slot_power(work: Work, slot: str, power: str) -> None:
    """Switch a slot. pciehp refuses what is so already, as after a power-on that found nothing:
    then it has switched off again (pciehp_sysfs_disable_slot, board_added; v6.1)."""
    attribute = f"slots/{slot}/power"
    if work.host.read_bus(attribute) != power:
        work.host.write_bus(attribute, power)


def _reset_secondary_bus(work: Work, port: Bdf) -> None:
    """Reset the bus below *port*, which is empty now: the kernel waits for nobody.

    By ``reset_subordinate`` where the kernel has it (v6.13), else as libvirt does, by the bridge
    control register (src/util/virpci.c, virPCIDeviceTrySecondaryBusReset, 9.0).
    """
    try:
        work.host.write_attr(port, "reset_subordinate", "1")
    except SysfsError as error:
        if error.number != ENOENT:
            raise
        _pulse_bus_reset(work, port)
    work.host.sleep(READY_TIMEOUT)


def _pulse_bus_reset(work: Work, port: Bdf) -> None:
    control = pci.word(work.host.read_config(port, pci.BRIDGE_CONTROL, 2))
    control &= ~pci.BRIDGE_CTL_BUS_RESET
    for value in (control | pci.BRIDGE_CTL_BUS_RESET, control):
        work.host.write_config(port, pci.BRIDGE_CONTROL, value.to_bytes(2, "little"))
        work.host.sleep(RESET_SECONDS)
