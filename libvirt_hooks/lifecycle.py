# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each libvirt operation asks of a guest's controllers: the table, and who is asked.

Work on one controller is in ``custody``; here is which controllers an operation concerns, and
what a failure means to libvirt. Source: libvirt docs/hooks.rst and src/qemu/qemu_process.c (9.0):
only `prepare` and `start` may refuse; non-zero from `reconnect` would kill a running guest.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from . import closing, custody, intent, journal, keepers, marks, observe, policy
from .admission import Facts, refusal
from .bdf import Bdf
from .custody import Task
from .deadline import Deadline
from .domain import Controller, Domain
from .errors import HookError
from .host import Host
from .nvme import CLASS_NVME
from .observe import VFIO_PCI, number
from .operation import UNFINISHED, Operation, Results, believed, deadline_of, raise_first
from .policy import Mode, Policy
from .survey import survey
from .telling import about
from .work import Work

log = logging.getLogger(__name__)

Handler = Callable[[Host, Domain], None]

KEEPERS_SHARE = 0.5
"""Of an operation's deadline: what the guest's keeper may take of it, to let go of all."""


def on_prepare(host: Host, domain: Domain) -> None:
    """Admission; and clean what no driver will clean, because libvirt will not rebind it.

    :raises HookError: why the guest may not start.
    """
    left = left_by_dead_hooks(host, domain, domain.uuid)
    concerned = list(_concerned(host, domain, left))
    if not concerned:
        return
    if domain.policy_error is not None:
        raise domain.policy_error
    bdfs = [each.bdf for each in concerned]
    operation = Operation.begin(host, policy.load(host, domain.policy), bdfs, {domain.uuid: None})
    operation.each(left, custody.tidy)
    facts = survey(operation, domain.uuid, bdfs, domain.policy.expected)
    for each in facts:
        _admit(each, operation.policy.mode)
    idle = [each.bdf for each in facts if each.is_idle]
    if operation.policy.mode is Mode.ENFORCE:
        raise_first(operation.each(idle, custody.clean))
    elif operation.policy.mode is Mode.OBSERVE:
        intent.tell(operation, "prepare", idle)


def on_start(host: Host, domain: Domain) -> None:
    """Make every controller safe for vfio's resets; from here on they are this guest's.

    :raises HookError: going on would hang, or kill a drive.
    """
    bdfs = _on_vfio(host, _controllers(host, domain))
    if not bdfs:
        return
    operation = _begin(host, domain, bdfs)
    if operation.policy.mode is Mode.ENFORCE:
        for bdf in bdfs:
            custody.refuse_open(host, bdf, operation.users[bdf])
        journal.claim(host, domain.uuid, bdfs)
        raise_first(operation.each(bdfs, custody.take))
    elif operation.policy.mode is Mode.OBSERVE:
        intent.tell(operation, "start", bdfs)


def on_started(host: Host, domain: Domain) -> None:
    """QEMU has the controllers open: have a keeper hold them, too."""
    bdfs = _on_vfio(host, _controllers(host, domain))
    if not bdfs:
        return
    believed_in = _believed(host, domain)
    if believed_in.mode is Mode.ENFORCE:
        _keep(host, domain, believed_in, bdfs)
    elif believed_in.mode is Mode.OBSERVE:
        intent.tell(Operation.begin(host, believed_in, bdfs), "started", bdfs)


def on_stopped(host: Host, domain: Domain) -> None:
    """Clean what the guest had; only with a record, for a failed start brings us here too."""
    deadline = _await_keeper(host, domain)
    owned, left = _owned(host, domain), left_by_dead_hooks(host, domain)
    if owned or left:
        operation = _begin(host, domain, [*owned, *left], deadline)
        operation.each([*owned, *left], _only_idle(left, custody.give_back))
        if owned:
            # Libvirt gives the controllers back now: the record says that it is still at it.
            journal.keep_only(host, domain.uuid, owned)
    else:
        _observe(host, domain, "stopped")


def on_release(host: Host, domain: Domain) -> None:
    """See that every controller is well where it is now, and forget the guest."""
    deadline = _await_keeper(host, domain)
    owned, left = _owned(host, domain), left_by_dead_hooks(host, domain)
    results: Results = {}
    if owned or left:
        operation = _begin(host, domain, [*owned, *left], deadline)
        results = operation.each([*owned, *left], _only_idle(left, custody.verify))
    elif journal.owner(host, domain.uuid) is None:
        _observe(host, domain, "release")
        return
    journal.keep_only(host, domain.uuid, _unfinished(host, owned, results))


def on_reconnect(host: Host, domain: Domain) -> None:
    """libvirtd was restarted under a running guest: refresh what protects its controllers."""
    bdfs = _on_vfio(host, _controllers(host, domain))
    if not bdfs:
        return
    operation = _begin(host, domain, bdfs)
    if operation.policy.mode is Mode.ENFORCE:
        try:
            journal.claim(host, domain.uuid, bdfs)
        except HookError as error:  # the guard is what protects a guest that runs
            log.error("%s", error.in_full)
        operation.each(bdfs, custody.refresh)
        _keep(host, domain, operation.policy, bdfs)
    elif operation.policy.mode is Mode.OBSERVE:
        intent.tell(operation, "reconnect", bdfs)


HANDLERS: Mapping[tuple[str, str], Handler] = {
    ("prepare", "begin"): on_prepare,
    ("start", "begin"): on_start,
    ("started", "begin"): on_started,
    ("stopped", "end"): on_stopped,
    ("release", "end"): on_release,
    ("reconnect", "begin"): on_reconnect,
}
"""Operation and sub-operation, as libvirt names them. Everything else: nothing to do."""

MAY_REFUSE = frozenset({"prepare", "start"})


def is_counted(host: Host, domain: Domain) -> bool:
    """Has the guest, or had it, an NVMe controller? Then what comes of it is counted."""
    try:
        return domain.uuid in host.records.names(journal.OWNERS) or any(
            each.element == "disk"
            or number(host.read_attr(each.bdf, "class")) == CLASS_NVME
            or marks.dead(host, each.bdf) is not None
            for each in domain.candidates
        )
    except HookError:  # the handler will say so
        return False


def _admit(facts: Facts, mode: Mode) -> None:
    """Raise what speaks against it, or only tell; a policy that lets go of all keeps the root."""
    refused = refusal(facts)
    if refused is None:
        return
    if refuses(mode, facts):
        raise refused
    if mode is Mode.OBSERVE:
        log.warning("observe: would refuse: %s", refused.message, extra=about(facts.bdf))


def refuses(mode: Mode, facts: Facts) -> bool:
    """Does what speaks against a controller refuse the start, and is not only told?"""
    return mode is Mode.ENFORCE or facts.is_root


def _begin(
    host: Host, domain: Domain, bdfs: Sequence[Bdf], deadline: Deadline | None = None
) -> Operation:
    """Begin what is done for this guest, where nothing may be refused for the policy's sake."""
    return Operation.begin(host, _believed(host, domain), bdfs, {domain.uuid: None}, deadline)


def _await_keeper(host: Host, domain: Domain) -> Deadline | None:
    """The guest has ended: wait until its keeper has let go; return the deadline that runs then.

    First of all: what it holds looks like another guest's.
    """
    if domain.uuid not in host.records.names(keepers.KEEPERS):
        return None
    policy = _believed(host, domain)
    deadline = deadline_of(host, policy)
    keepers.await_end(host, domain.uuid, deadline, policy.deadline * KEEPERS_SHARE)
    return deadline


def _keep(host: Host, domain: Domain, policy: Policy, bdfs: Sequence[Bdf]) -> None:
    """Have a keeper for those that need one; that there is none costs the guest nothing."""
    if any(closing.is_wanted(host, policy, bdf) for bdf in bdfs):
        try:
            keepers.start(host, domain.uuid)
        except HookError as error:
            log.warning("%s; without a keeper reset_method alone guards", error.message)


def _believed(host: Host, domain: Domain) -> Policy:
    """The policy where nothing may be refused for its sake: what cannot be believed is told."""
    if domain.policy_error is not None:
        log.error("%s", domain.policy_error.in_full)
    return believed(host, domain.policy)


def _observe(host: Host, domain: Domain, operation: str) -> None:
    bdfs = [bdf for bdf in _controllers(host, domain) if host.driver(bdf) == VFIO_PCI]
    if bdfs:
        believed = _believed(host, domain)
        if believed.mode is Mode.OBSERVE:
            intent.tell(Operation.begin(host, believed, bdfs), operation, bdfs)


def _concerned(host: Host, domain: Domain, left: Iterable[Bdf]) -> Iterator[Controller]:
    for each in domain.candidates:
        if concerns_us(host, each, left):
            yield each
        elif host.read_attr(each.bdf, "class") is None:
            what = "no such PCI function: left to libvirt"
            log.warning("%s: %s", each.bdf, what, extra=about(each.bdf))


def concerns_us(host: Host, controller: Controller, left: Iterable[Bdf]) -> bool:
    """Only NVMe; but a `<disk type='nvme'>` must be one, and what we know is, whatever is there.

    :param left: what hooks have left half done, see ``left_by_dead_hooks``.
    """
    known = controller.bdf in left or marks.dead(host, controller.bdf) is not None
    if controller.element == "disk" or known:
        return True
    return number(host.read_attr(controller.bdf, "class")) == CLASS_NVME


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
    named = {each.bdf for each in domain.candidates}
    candidates = {*record.bdfs, *_controllers(host, domain)} - others
    # What was unplugged from it, and is open, is another guest's, whose start no hook has seen.
    moved = {bdf for bdf in candidates - named if observe.is_open(host, bdf, host.driver(bdf))}
    away = journal.journaled(host)
    return sorted(
        bdf for bdf in candidates - moved if bdf in away or host.read_attr(bdf, "class") is not None
    )


def left_by_dead_hooks(host: Host, domain: Domain, ended: str = "") -> list[Bdf]:
    """Return those of the guest's controllers that a hook has left half done and nobody owns.

    :param ended: uuid of a guest that does not run, whatever its record says.
    """
    owned = {bdf for each in journal.owners(host) for bdf in each.bdfs if each.uuid != ended}
    candidates = {each.bdf for each in domain.candidates}
    return [bdf for bdf in journal.journaled(host) if bdf in candidates - owned]


def _only_idle(left: Iterable[Bdf], task: Task) -> Task:
    """Make *task* wait for nobody where it is only about what a dead hook has *left*."""
    unowned = frozenset(left)

    def do(work: Work) -> str:
        if work.bdf in unowned:
            custody.refuse_open(work.host, work.bdf, work.users)
        return task(work)

    return do


def _unfinished(host: Host, owned: Iterable[Bdf], results: Results) -> list[Bdf]:
    journaled = journal.journaled(host)
    return [bdf for bdf in owned if bdf in journaled or isinstance(results.get(bdf), UNFINISHED)]
