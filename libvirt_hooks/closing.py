# SPDX-License-Identifier: LGPL-2.1-or-later
"""The last close of a controller that a keeper holds: disabled first, then vfio's own reset.

The order of the kernel's nvme_disable_and_flr (drivers/pci/quirks.c), at the one moment when it
cannot race with anybody: QEMU has let go, and the descriptor that is left is ours. The steps of a
keeper take a Work and the QEMU; most return whether the controller is closed.
"""

import logging

from .attributes import ids
from .bdf import Bdf
from .custody import refresh
from .engine import await_config, disable, look
from .errors import BadRecord
from .guard import may_close_by_flr, wants_keeper
from .host import Host, Qemu
from .journal import Undo
from .ladder import CONFIG_TIMEOUT
from .methods import RESET_METHOD, restore_methods
from .observe import Observation
from .pci import ResetMethod
from .policy import Policy
from .telling import about
from .work import Work

log = logging.getLogger(__name__)


def is_wanted(host: Host, policy: Policy, bdf: Bdf) -> bool:
    """Is the last close of this controller a matter for a keeper, when a guest has it?"""
    methods = None
    try:
        methods = Undo(host, bdf).original(RESET_METHOD)
    except BadRecord as error:  # of one drive: the others want their keeper
        log.warning("%s", error.message)
    methods = methods or host.read_attr(bdf, RESET_METHOD) or ""
    return wants_keeper(tuple(methods.split()), policy.close(bdf, *ids(host, bdf)))


def after_its_guest(work: Work, qemu: Qemu) -> bool:
    """QEMU has ended: disable the controller, and have vfio's close reset it by an FLR.

    One that does not get disabled stays open; the guard is there for it.
    """
    seen = _disabled(work, qemu)
    if not seen.disabled:
        log.warning("%s: not disabled: %s", work.bdf, seen.evidence, extra=about(work.bdf))
        return False
    if may_close_by_flr(seen):
        work.undo.keep(RESET_METHOD, " ".join(seen.reset_methods or ()))
        work.host.write_attr(work.bdf, RESET_METHOD, ResetMethod.FLR)
    began = work.host.monotonic()
    work.host.doing("vfio's last close")
    qemu.close(work.bdf)
    _verify(work, work.host.monotonic() - began)
    return True


def as_it_is(work: Work, qemu: Qemu) -> bool:
    """Close what does not get disabled: vfio's reset is what the guard says."""
    qemu.close(work.bdf)
    methods = work.host.read_attr(work.bdf, RESET_METHOD)
    log.warning("%s: closed, reset_method is %r", work.bdf, methods, extra=about(work.bdf))
    return True


def unplugged(work: Work, qemu: Qemu) -> bool:
    """QEMU has closed this one and runs on: disable it, and close it at once.

    libvirt's unbind waits for that, and has the device's lock meanwhile: vfio then resets nothing
    (vfio_pci_core_disable tries that lock, v6.1). The guard stays as long as the guest runs: no
    hook would set it if the controller were plugged again.
    """
    if not qemu.has_another(work.bdf):
        seen = _disabled(work, qemu)
        what = f"unplugged: {seen.state.value if seen.state else seen.unreadable}"
        log.info("%s: %s", work.bdf, what, extra=about(work.bdf))
    qemu.close(work.bdf)
    return True


def guard(work: Work, qemu: Qemu) -> bool:
    """Guard what QEMU has open: of what is hot-plugged no hook has heard."""
    refresh(work)
    return True


def patience(work: Work, qemu: Qemu) -> float:
    """QEMU has ended: return the seconds that the drive may take to be disabled."""
    with qemu.lent(work.bdf):
        seen = look(work)
    return seen.registers.cap.ready_timeout if seen.registers and not seen.gone else 0.0


def _disabled(work: Work, qemu: Qemu) -> Observation:
    with qemu.lent(work.bdf):
        return disable(work)


def _verify(work: Work, seconds: float) -> None:
    if work.quirk.settle_after_reset:
        work.host.sleep(work.quirk.settle_after_reset)
    if trouble := await_config(work, CONFIG_TIMEOUT):
        log.error("%s: after vfio's last close: %s", work.bdf, trouble, extra=about(work.bdf))
        return
    fields = {"ELAPSED_MS": f"{seconds * 1000:.3f}"}
    log.info("%s: disabled, then closed", work.bdf, extra=about(work.bdf, **fields))
    if not work.is_open:
        restore_methods(work)
