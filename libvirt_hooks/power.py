# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make a controller's registers tell the truth: awake, memory decode on; and put both back.

Sources: kernel drivers/base/power/sysfs.c (control_store resumes before it returns),
drivers/vfio/pci/vfio_pci_core.c (idle functions sleep in D3hot), v6.1.
"""

from contextlib import suppress

from . import pci
from .errors import SysfsError
from .observe import read_power_state
from .work import Work

POWER_CONTROL = "power/control"
COMMAND = "COMMAND"
WAKE_TIMEOUT = 1.0
"""Seconds: PCI PM asks for 10 ms from D3hot and 100 ms from D3cold."""
POLL = 0.002


def make_readable(work: Work) -> None:
    """Wake an idle function that answers, and have BAR0 decoded.

    Not one that is gone: waking it takes the kernel seconds.
    """
    if not (work.present and work.is_idle and work.answers):
        return
    if work.host.holds(work.bdf):
        open_up(work)
    else:
        wake(work)
        decode(work)


def open_up(work: Work) -> None:
    """Have a function that we hold answer, however its guest has left it.

    By its descriptor alone: a write of power/control waits for the device's lock, and libvirt's
    unbind may have that while it waits for us (drivers/base/power/sysfs.c, v6.1). Nothing is
    journaled: vfio puts configuration space back at the last close (vfio_pci_core_disable).
    """
    config = work.host.read_config(work.bdf, 0, pci.HEADER_LENGTH)
    with suppress(SysfsError):
        power = pci.find_capability(config, pci.CAP_ID_PM)
        if power is not None and pci.word(config, power + pci.PM_CTRL) & pci.POWER_STATE:
            control = pci.word(config, power + pci.PM_CTRL) & ~pci.POWER_STATE
            _write_word(work, power + pci.PM_CTRL, control)
        command = pci.word(config, pci.COMMAND)
        if not command & pci.COMMAND_MEMORY:
            _write_command(work, command | pci.COMMAND_MEMORY)


def wake(work: Work) -> None:
    """Bring the function to D0 and keep it there until ``restore_power``."""
    control = work.host.read_attr(work.bdf, POWER_CONTROL)
    if control is not None and control != "on":
        work.undo.keep(POWER_CONTROL, control)
        work.host.write_attr(work.bdf, POWER_CONTROL, "on")
    deadline = work.deadline.within(WAKE_TIMEOUT)
    while read_power_state(work.host, work.bdf) != "D0" and not deadline.expired:
        work.host.sleep(POLL)


def restore_power(work: Work) -> None:
    """Put power/control back to what it was.

    It is the driver's that bound since: vfio-pci set it to auto, nvme has not.
    """
    control = work.undo.original(POWER_CONTROL)
    if control is not None:
        if work.present and work.is_idle:
            work.host.write_attr(work.bdf, POWER_CONTROL, control)
        work.undo.forget(POWER_CONTROL)


def decode(work: Work) -> None:
    """Have BAR0 answer until ``restore_command``."""
    command = pci.word(work.host.read_config(work.bdf, pci.COMMAND, 2))
    if command == pci.NOBODY or command & pci.COMMAND_MEMORY:
        return
    work.undo.keep(COMMAND, f"{command:#06x}")
    # Under kernel lockdown the next look says that memory decode is off, and why that matters.
    with suppress(SysfsError):
        _write_command(work, command | pci.COMMAND_MEMORY)


def restore_command(work: Work) -> None:
    """Put COMMAND back to what it was; a driver that has bound since has set its own."""
    original = work.undo.original(COMMAND)
    if original is not None:
        if work.present and work.is_idle:
            with suppress(SysfsError):
                _write_command(work, int(original, 16))
        work.undo.forget(COMMAND)


def _write_command(work: Work, command: int) -> None:
    _write_word(work, pci.COMMAND, command)


def _write_word(work: Work, offset: int, word: int) -> None:
    work.host.write_config(work.bdf, offset, word.to_bytes(2, "little"))
