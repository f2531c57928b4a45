# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each libvirt operation asks of a guest's controllers: the table, and who is asked.

Work on one controller is in ``custody``; here is which controllers an operation concerns, and
what a failure means to libvirt. Source: libvirt docs/hooks.rst and src/qemu/qemu_process.c (9.0):
only `prepare` and `start` may refuse; non-zero from `reconnect` would kill a running guest.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from . import admission, custody, journal, policy
from .bdf import Bdf
from .domain import Controller, Domain
from .errors import HookError
from .host import Host, Job
from .nvme import CLASS_NVME
from .observe import VFIO_PCI, is_open, number
from .telling import about

log = logging.getLogger(__name__)

JOB_TIMEOUT = 20.0
"""Seconds for one controller; longer only where CAP.TO says that RDY may take longer."""

Handler = Callable[[Host, Domain], None]


def on_prepare(host: Host, domain: Domain) -> None:
    """Admission; and clean what no driver will clean, because libvirt will not rebind it.

    :raises HookError: why the guest may not start.
    """
    concerned = [each for each in domain.candidates if _concerns_us(host, each)]
    if not concerned:
        return
    denied = policy.load(host).deny
    idle = []
    for controller in concerned:
        facts = gather(host, domain.uuid, controller.bdf, denied)
        refused = admission.refusal(facts)
        if refused is not None:
            raise refused
        if facts.driver in (None, VFIO_PCI) and facts.owner is None:
            idle.append(controller.bdf)
    _raise_first(_each(host, idle, custody.clean))


def on_start(host: Host, domain: Domain) -> None:
    """Make every controller safe for vfio's resets; from here on they are this guest's.

    :raises HookError: going on would hang, or kill a drive.
    """
    bdfs = _on_vfio(host, _controllers(host, domain))
    if not bdfs:
        return
    for bdf in bdfs:
        custody.refuse_open(host, bdf)
    journal.claim(host, domain.uuid, bdfs)
    _raise_first(_each(host, bdfs, custody.take))


def on_stopped(host: Host, domain: Domain) -> None:
    """Clean what the guest had; only with a record, for a failed start brings us here too."""
    _each(host, _owned(host, domain), custody.give_back)


def on_release(host: Host, domain: Domain) -> None:
    """See that every controller is well where it is now, and forget the guest."""
    _each(host, _owned(host, domain), custody.verify)
    journal.disown(host, domain.uuid)


def on_reconnect(host: Host, domain: Domain) -> None:
    """libvirtd was restarted under a running guest: refresh what protects its controllers."""
    bdfs = _on_vfio(host, _controllers(host, domain))
    if bdfs:
        journal.claim(host, domain.uuid, bdfs)
        _each(host, bdfs, custody.refresh)


HANDLERS: Mapping[tuple[str, str], Handler] = {
    ("prepare", "begin"): on_prepare,
    ("start", "begin"): on_start,
    ("stopped", "end"): on_stopped,
    ("release", "end"): on_release,
    ("reconnect", "begin"): on_reconnect,
}
"""Operation and sub-operation, as libvirt names them. Everything else: nothing to do."""

MAY_REFUSE = frozenset({"prepare", "start"})


def gather(host: Host, uuid: str, bdf: Bdf, denied: Iterable[Bdf]) -> admission.Facts:
    """Find out what admission wants to know about one controller."""
    code = host.read_attr(bdf, "class")
    others = (each.uuid for each in journal.owners(host) if bdf in each.bdfs)
    driver = host.driver(bdf) if code is not None else None
    return admission.Facts(
        bdf=bdf,
        present=code is not None,
        class_code=number(code),
        driver=driver,
        open=is_open(host, bdf, driver),
        owner=next((each for each in others if each != uuid), None),
        virtual_functions=number(host.read_attr(bdf, "sriov_numvfs")),
        denied=bdf in denied,
    )


def _concerns_us(host: Host, controller: Controller) -> bool:
    """Only NVMe; but a `<disk type='nvme'>` must be one, whatever is there."""
    if controller.element == "disk":
        return True
    code = host.read_attr(controller.bdf, "class")
    if code is None:
        what = "no such PCI function: left to libvirt"
        log.warning("%s: %s", controller.bdf, what, extra=about(controller.bdf))
    return number(code) == CLASS_NVME


def _controllers(host: Host, domain: Domain) -> list[Bdf]:
    """Return the guest's controllers that are there."""
    return [
        each.bdf
        for each in domain.candidates
        if number(host.read_attr(each.bdf, "class")) == CLASS_NVME
    ]


def _on_vfio(host: Host, bdfs: Iterable[Bdf]) -> list[Bdf]:
    """Return those that are on vfio-pci; say which are not, for they stay untouched."""
    wanted = []
    for bdf in bdfs:
        driver = host.driver(bdf)
        if driver == VFIO_PCI:
            wanted.append(bdf)
        else:
            what = f"driver is {driver}, expected {VFIO_PCI}: left alone"
            log.warning("%s: %s", bdf, what, extra=about(bdf))
    return wanted


def _owned(host: Host, domain: Domain) -> list[Bdf]:
    """Return what this guest has: its record, and what was hot-plugged since.

    Nothing without a record: then the guest never had any of them.
    """
    record = journal.owner(host, domain.uuid)
    if record is None:
        return []
    others = {bdf for each in journal.owners(host) if each.uuid != domain.uuid for bdf in each.bdfs}
    candidates = {*record.bdfs, *_controllers(host, domain)} - others
    return sorted(bdf for bdf in candidates if host.read_attr(bdf, "class") is not None)


def _each(
    host: Host, bdfs: list[Bdf], work: Callable[[Host, Bdf], str]
) -> dict[Bdf, str | HookError]:
    """Do *work* on all of them at once."""
    job: Job = partial(_tell, host, work)
    results = host.each(bdfs, job, JOB_TIMEOUT) if bdfs else {}
    for bdf, result in results.items():
        if isinstance(result, HookError) and not result.told:
            # A worker that was killed, or is stuck, could not.
            log.error("%s", result.message, extra=about(bdf))
    return results


def _tell(host: Host, work: Callable[[Host, Bdf], str], bdf: Bdf) -> str:
    """Do *work*, and tell what came of it."""
    began = host.monotonic()
    try:
        result = work(host, bdf)
    except HookError as error:
        log.error("%s", error.message, extra=about(bdf, ELAPSED_MS=_since(host, began)))
        error.told = True
        raise
    log.info("%s: %s", bdf, result, extra=about(bdf, ELAPSED_MS=_since(host, began)))
    return result


def _since(host: Host, began: float) -> str:
    return f"{(host.monotonic() - began) * 1000:.3f}"


def _raise_first(results: Mapping[Bdf, str | HookError]) -> None:
    for result in results.values():
        if isinstance(result, HookError):
            raise result
