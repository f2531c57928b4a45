# SPDX-License-Identifier: LGPL-2.1-or-later
"""Wake a controller so that its registers tell the truth; let it sleep again.

Sources: kernel drivers/base/power/sysfs.c (control_store resumes before it returns),
drivers/vfio/pci/vfio_pci_core.c (idle functions sleep in D3hot), v6.1.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from . import pci
from .bdf import Bdf
from .deadline import Deadline
from .errors import SysfsError
from .host import Host
from .journal import Undo
from .observe import read_power_state

POWER_CONTROL = "power/control"
WAKE_TIMEOUT = 1.0
"""Seconds: PCI PM asks for 10 ms from D3hot and 100 ms from D3cold."""
POLL = 0.002


def wake(host: Host, bdf: Bdf, undo: Undo) -> None:
    """Bring the function to D0 and keep it there until ``let_sleep``."""
    control = host.read_attr(bdf, POWER_CONTROL)
    if control is not None and control != "on":
        undo.keep(POWER_CONTROL, control)
        host.write_attr(bdf, POWER_CONTROL, "on")
    deadline = Deadline(host.monotonic, WAKE_TIMEOUT)
    while read_power_state(host, bdf) != "D0" and not deadline.expired:
        host.sleep(POLL)


def let_sleep(host: Host, bdf: Bdf, undo: Undo) -> None:
    """Put power/control back to what it was."""
    control = undo.original(POWER_CONTROL)
    if control is not None:
        host.write_attr(bdf, POWER_CONTROL, control)
        undo.forget(POWER_CONTROL)


@contextmanager
def memory_decode(host: Host, bdf: Bdf) -> Iterator[None]:
    """Have BAR0 answer for as long as this lasts.

    Not journaled: vfio-pci and nvme both set COMMAND as they need it when they take a device.

    :raises SysfsError: EPERM under kernel lockdown.
    """
    command = pci.word(host.read_config(bdf, pci.COMMAND, 2))
    if command == pci.NOBODY or command & pci.COMMAND_MEMORY:
        yield
        return
    try:
        _write_command(host, bdf, command | pci.COMMAND_MEMORY)
    except SysfsError:
        # The next look says that memory decode is off, and why that matters.
        yield
        return
    try:
        yield
    finally:
        _write_command(host, bdf, command)


def _write_command(host: Host, bdf: Bdf, command: int) -> None:
    host.write_config(bdf, pci.COMMAND, command.to_bytes(2, "little"))
