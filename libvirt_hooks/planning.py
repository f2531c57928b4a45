# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find out what a guest's next life would be: what the hook would do, and what would refuse it.

Asks what the hook asks, in its order and by its code; reads, and wakes nothing. What is seen of one
controller is put into words where it is seen, by a worker (``outlook``).
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial

from . import admission, closing, journal, keepers, policy, worst
from .admission import Facts
from .bdf import Bdf
from .deadline import Deadline
from .domain import Controller, Domain
from .engine import glimpse, gone
from .errors import BadPolicy, HookError, SysfsError
from .host import Host
from .lifecycle import concerns_us, left_by_dead_hooks, refuses
from .observe import VFIO_PCI, ids
from .operation import Operation
from .outlook import Part, Prospect, is_back_with_host, outlook
from .policy import Mode, Policy
from .survey import survey
from .work import locked
from .worst import Drive

HOOK, LIBVIRT = "hook", "libvirt"


@dataclass(frozen=True)
class Objection:
    """Something that speaks against the start."""

    operation: str
    by: str
    bdf: str | None
    message: str
    hint: str
    refuses: bool = True
    """False: the hook only says so, for its mode."""


@dataclass(frozen=True)
class Outlook:
    """One controller."""

    bdf: str
    vendor: str | None
    device: str | None
    quirk: str
    symptom: str
    element: str
    managed: bool
    driver: str | None
    unseen: str
    """Why it could not be looked at; empty if it was."""
    parts: list[Part]


@dataclass(frozen=True)
class Plan:
    """A guest's next life; or what is left of the one that it has."""

    uuid: str
    name: str
    mode: str | None
    """None: there is nothing to ask the policy for."""
    running: bool
    objections: list[Objection]
    controllers: list[Outlook]
    seconds: dict[str, float] = field(default_factory=dict)
    """The most that each operation may take."""
    unread: list[str] = field(default_factory=list)
    """The controllers whose CAP.TO is not known."""

    @property
    def starts(self) -> bool:
        """Would the start go through?"""
        return not any(each.refuses for each in self.objections)


def plan(host: Host, domain: Domain) -> Plan:
    """Foretell a guest's life.

    :raises SysfsError: the kernel refused a read.
    """
    running = host.qemu_runs(domain.uuid)
    left = left_by_dead_hooks(host, domain, domain.uuid)
    concerned = {each.bdf: each for each in domain.candidates if concerns_us(host, each, left)}
    known, objections = _policy(host, domain) if concerned else (Policy(), [])
    operation = Operation.patient(host, known, list(concerned))
    facts: dict[Bdf, Facts] = {}
    if not running:
        expected = domain.policy.expected
        found = survey(operation, domain.uuid, list(concerned), expected, reviving=False)
        facts = {each.bdf: each for each in found}
        objections += _admission(known.mode, found)
        objections += _libvirt(host, domain.candidates, facts, known.mode)
    taken = _taken(host, domain) if running else ()
    held = _held(host, domain) if running else ()
    prospects = {
        bdf: Prospect(
            policy=known,
            managed=each.managed,
            facts=facts.get(bdf),
            left=bdf in left,
            taken=bdf in taken,
            held=bdf in held,
        )
        for bdf, each in concerned.items()
    }
    looked = _look(operation, prospects)
    if running:  # nothing is refused any more: what is wrong is told, and the defaults hold
        objections = [replace(each, operation="stopped", refuses=False) for each in objections]
    else:
        objections += [each for one in looked.values() for each in one.objections]
    return Plan(
        uuid=domain.uuid,
        name=domain.name,
        mode=known.mode if concerned else None,
        running=running,
        objections=objections,
        controllers=[_outlook(host, known, each, looked[each.bdf]) for each in concerned.values()],
        seconds=_seconds(known, {bdf: one.drive for bdf, one in looked.items()}, running, taken),
        unread=[str(bdf) for bdf, one in looked.items() if one.drive.ready_timeout is None],
    )


def _taken(host: Host, domain: Domain) -> Collection[Bdf]:
    owner = journal.owner(host, domain.uuid)
    return () if owner is None else owner.bdfs


def _held(host: Host, domain: Domain) -> Collection[Bdf]:
    keeper = keepers.find(host, domain.uuid)
    return () if keeper is None else keeper.bdfs


def _seconds(
    known: Policy, drives: Mapping[Bdf, Drive], running: bool, taken: Collection[Bdf]
) -> dict[str, float]:
    if running:  # what a hook has taken is given back in any mode
        drives = {bdf: drive for bdf, drive in drives.items() if bdf in taken}
        known = known._replace(mode=Mode.ENFORCE)
    return worst.seconds(known, list(drives.values()), running) if drives else {}


def _policy(host: Host, domain: Domain) -> tuple[Policy, list[Objection]]:
    """What holds; and what is wrong with it, which refuses every start."""
    wrong: list[HookError] = [domain.policy_error] if domain.policy_error is not None else []
    try:
        return policy.load(host, domain.policy), list(map(_objection, wrong))
    except (BadPolicy, SysfsError) as error:
        return Policy(), list(map(_objection, [*wrong, error]))


def _objection(error: HookError, bdf: Bdf | None = None, operation: str = "prepare") -> Objection:
    where = None if bdf is None else str(bdf)
    return Objection(operation, HOOK, where, error.message, error.hint)


def _admission(mode: Mode, found: Sequence[Facts]) -> Iterator[Objection]:
    for facts in found:
        for refused in admission.refusals(facts):
            # A mode that is not to be obeyed is so by the first reason: what the host runs from.
            by_mode = refuses(mode, facts)
            yield Objection("prepare", HOOK, str(facts.bdf), refused.message, refused.hint, by_mode)


def _libvirt(
    host: Host, candidates: Sequence[Controller], facts: Collection[Bdf], mode: Mode
) -> Iterator[Objection]:
    """What libvirt itself would refuse (9.0, virHostdevPreparePCIDevicesImpl).

    Whatever it is that is not there; else only of the controllers among *facts*.
    """
    for each in candidates:
        ours, driver = each.bdf in facts, host.driver(each.bdf)
        if host.read_attr(each.bdf, "class") is None:
            if ours and mode is Mode.ENFORCE:
                continue  # the hook has said so before
            seen = "there is no such PCI function"
            hint = "look for its address with: lspci -D -d ::0108"
        elif ours and not each.managed and driver != VFIO_PCI:
            seen = f"managed is 'no' and its driver is {driver or 'none'}, expected {VFIO_PCI}"
            hint = f"virsh nodedev-detach {each.bdf.nodedev}"
        else:
            continue
        message = f"{each.bdf}: libvirt would refuse it: {seen}"
        yield Objection("prepare", LIBVIRT, str(each.bdf), message, hint)


@dataclass(frozen=True)
class _Look:
    # What a worker has found out about one controller.
    parts: list[Part]
    drive: Drive
    objections: list[Objection]
    unseen: str = ""


def _look(operation: Operation, prospects: dict[Bdf, Prospect]) -> dict[Bdf, _Look]:
    results = operation.ask(list(prospects), partial(_told, operation, prospects))
    return {bdf: _heard(bdf, result) for bdf, result in results.items()}


def _told(operation: Operation, prospects: dict[Bdf, Prospect], bdf: Bdf) -> str:
    return json.dumps(asdict(_seen(operation, prospects[bdf], bdf)))


def _heard(bdf: Bdf, result: str | HookError) -> _Look:
    if isinstance(result, HookError):
        return _Look([], Drive(None, True, True, True), [], result.in_full.removeprefix(f"{bdf}: "))
    told = json.loads(result)
    return _Look(
        [Part(**each) for each in told["parts"]],
        Drive(**told["drive"]),
        [Objection(**each) for each in told["objections"]],
    )


def _seen(operation: Operation, prospect: Prospect, bdf: Bdf) -> _Look:
    host, known, facts = operation.host, prospect.policy, prospect.facts
    with locked(host, bdf, known, Deadline(host.monotonic, known.deadline), ()) as work:
        seen = glimpse(work)
    idle = facts is not None and facts.is_idle
    readable = seen.registers is not None and not seen.gone
    drive = Drive(
        ready_timeout=seen.registers.cap.ready_timeout if readable and seen.registers else None,
        idle=idle,
        to_host=is_back_with_host(seen, prospect),
        keeper=closing.is_wanted(host, known, bdf),
    )
    objections = []
    if seen.gone and seen.present and known.mode is Mode.ENFORCE:
        objections.append(_objection(gone(seen), bdf, "prepare" if idle else "start"))
    return _Look(outlook(seen, prospect), drive, objections)


def _outlook(host: Host, known: Policy, controller: Controller, looked: _Look) -> Outlook:
    bdf = controller.bdf
    vendor, device = ids(host, bdf)
    quirk = known.quirk(bdf, vendor, device)
    return Outlook(
        bdf=str(bdf),
        vendor=f"{vendor:04x}" if vendor else None,
        device=f"{device:04x}" if vendor else None,
        quirk=quirk.name,
        symptom=quirk.symptom,
        element=controller.element,
        managed=controller.managed,
        driver=host.driver(bdf),
        unseen=looked.unseen,
        parts=looked.parts,
    )
