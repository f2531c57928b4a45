# SPDX-License-Identifier: LGPL-2.1-or-later
"""``reset_method``: one reset by the kernel with exactly one method; the list put back.

Source: kernel drivers/pci/pci-sysfs.c (reset_method_store), drivers/pci/pci.c
(__pci_reset_function_locked), v6.1.
"""

import logging
from collections.abc import Sequence

from .errors import SysfsError
from .pci import NO_METHOD, ResetMethod
from .telling import about
from .work import Work

log = logging.getLogger(__name__)

RESET_METHOD = "reset_method"


def kernel_reset(work: Work, method: ResetMethod, restore: tuple[str, ...]) -> None:
    """Write exactly *method*: after a failed one the kernel would go on to the next, 65 s later.

    :raises SysfsError: the kernel refused; reset_method is back then too.
    """
    guarded = work.undo.original(RESET_METHOD) is not None
    work.undo.keep(RESET_METHOD, " ".join(restore))
    work.host.write_attr(work.bdf, RESET_METHOD, method)
    try:
        work.host.write_attr(work.bdf, "reset", "1")
    finally:
        write_methods(work, restore)
        if not guarded:
            work.undo.forget(RESET_METHOD)


def write_methods(work: Work, methods: Sequence[str]) -> None:
    """Have reset_method say *methods*, or as many of them as the kernel still takes.

    It takes no `bus` any more once the bus has another function (pci_parent_bus_reset, v6.1),
    and then refuses the whole list.
    """
    try:
        work.host.write_attr(work.bdf, RESET_METHOD, " ".join(methods) or NO_METHOD)
        return
    except SysfsError as error:
        log.warning("%s", error.message, extra=about(work.bdf))
    left = [method for method in methods if _takes(work, method)]
    work.host.write_attr(work.bdf, RESET_METHOD, " ".join(left) or "default")


def restore_methods(work: Work) -> None:
    """Put reset_method back to what it said before our first write."""
    methods = work.undo.original(RESET_METHOD)
    if methods is not None:
        if work.host.read_attr(work.bdf, RESET_METHOD) not in (None, methods):
            write_methods(work, methods.split())
        work.undo.forget(RESET_METHOD)


def _takes(work: Work, method: str) -> bool:
    try:
        work.host.write_attr(work.bdf, RESET_METHOD, method)
    except SysfsError:
        return False
    return True
