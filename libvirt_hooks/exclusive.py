# SPDX-License-Identifier: LGPL-2.1-or-later
"""Registers through vfio where the kernel lets nobody map BAR0: under lockdown (Secure Boot).

vfio gives a function to one user only, so nobody is raced. But it resets what is opened and closed
(drivers/vfio/pci/vfio_pci_core.c, v6.1: vfio_pci_core_enable, vfio_pci_core_disable), and what is
opened here is still enabled. With reset_method empty the open resets nothing, and the close knows
it then: it resets the bus, if all that is on it is vfio's and idle, or nothing.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .errors import RegistersUnreadable
from .methods import RESET_METHOD, write_methods
from .observe import VFIO_PCI
from .pci import NO_METHOD
from .work import Work


@contextmanager
def where_needed(work: Work) -> Iterator[None]:
    """Have registers that cannot be mapped be reached through vfio, as long as this lasts.

    :raises RegistersUnreadable: vfio will not have it either.
    :raises SysfsError: reset_method could not be emptied.
    """
    forbidden = _why_forbidden(work)
    if forbidden is None:
        yield
        return
    with _without_methods(work), ExitStack() as opened:
        try:
            opened.enter_context(work.host.exclusive(work.bdf))
        except RegistersUnreadable as error:
            also = error.message.removeprefix(f"{work.bdf}: ")
            raise RegistersUnreadable(
                f"{work.bdf}: registers cannot be read: {forbidden}; {also}", error.hint
            ) from error
        yield


@contextmanager
def _without_methods(work: Work) -> Iterator[None]:
    methods = work.host.read_attr(work.bdf, RESET_METHOD)
    if not methods:  # the kernel has none, or the guard is that already
        yield
        return
    guarded = work.undo.original(RESET_METHOD) is not None
    work.undo.keep(RESET_METHOD, methods)
    work.host.write_attr(work.bdf, RESET_METHOD, NO_METHOD)
    try:
        yield
    finally:
        write_methods(work, methods.split())
        if not guarded:
            work.undo.forget(RESET_METHOD)


def _why_forbidden(work: Work) -> str | None:
    """Why the kernel lets nobody map what vfio could open; None: it lets us, or cannot."""
    # One that does not answer would keep vfio's close in the kernel for 65 s.
    if work.driver != VFIO_PCI or not work.is_idle or not work.answers:
        return None
    try:
        with work.host.registers(work.bdf):
            return None
    except RegistersUnreadable as error:
        return error.message.removeprefix(f"{work.bdf}: ") if error.forbidden else None
