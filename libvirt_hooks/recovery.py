# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset recover`: find what hooks have left behind, and bring it to where it belongs.

A guest whose QEMU is gone and for which no hook came, a journal of a hook that died, records of an
earlier boot; or one controller by name, whatever is wrong with it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from . import admission, counters, custody, journal, keepers, marks, store
from .bdf import Bdf
from .custody import Guests
from .deadline import Deadline
from .errors import BadRecord, DeviceBusy, HookError, Refused
from .host import Host
from .journal import Owner
from .observe import NVME, VFIO_PCI
from .operation import UNFINISHED, Operation, Results, raise_first
from .policy import Policy
from .survey import survey

FOLDERS = (
    journal.OWNERS,
    journal.JOURNAL,
    keepers.KEEPERS,
    marks.DEAD,
    marks.STUCK,
    counters.METRICS,
)


def recover_all(host: Host, policy: Policy) -> Iterator[str | HookError]:
    """Undo all that is left over, and say of each thing what came of it.

    A guest that runs, or that a hook has just heard of, is left alone.
    """
    for name in store.sweep(host, FOLDERS):
        yield f"{name}: of an earlier boot: dropped"
    yield from _unreadable(host)
    for uuid in host.records.names(keepers.KEEPERS):
        keepers.withdraw(host, uuid)
    owners = journal.owners(host)
    orphans = [each for each in owners if not journal.is_running(host, each)]
    for orphan in orphans:
        _await_keeper(host, policy, orphan)
    in_use = {bdf for each in owners if each not in orphans for bdf in each.bdfs}
    lost = {bdf for each in orphans for bdf in each.bdfs if host.read_attr(bdf, "class")}
    wanted = sorted((lost | set(journal.journaled(host))) - in_use)
    operation = Operation.patient(host, policy, wanted, _as_seen(orphans))
    # A live one that the host uses again is only looked at; any other might be removed.
    failing = [bdf for bdf in wanted if host.driver(bdf) == NVME and host.nvme_state(bdf) != "live"]
    refused = _refusals(operation, failing)
    mended = operation.each([bdf for bdf in wanted if bdf not in refused], custody.verify)
    results = {**mended, **refused}
    for bdf, result in results.items():
        yield _told(host, bdf, result)
    for orphan in orphans:
        away = set(orphan.bdfs) - set(results)
        if left := journal.forget(host, orphan, away | _done(results)):
            which = ", ".join(map(str, left))
            yield HookError(f"guest {orphan.uuid}: gone, and no hook came: {which} not finished")
        else:
            yield f"guest {orphan.uuid}: gone, and no hook came: forgotten"
    for bdf in store.bdfs(host, marks.STUCK):
        if why := marks.stuck(host, bdf):
            yield DeviceBusy(f"{bdf}: an earlier hook is still in the kernel with it: {why}")
    for bdf in store.bdfs(host, marks.DEAD):
        if bdf not in results:
            yield f"{bdf}: given up in this boot: {marks.dead(host, bdf)}"


def recover_one(host: Host, policy: Policy, bdf: Bdf) -> str:
    """Bring one controller that nobody uses back, by every means there is.

    :raises HookError: it is in use, or nothing brought it back.
    """
    owners = journal.owners_of(host, bdf)
    for owner in owners:
        if journal.is_running(host, owner):
            raise DeviceBusy(
                f"{bdf}: may not be recovered: the guest with uuid {owner.uuid} has it",
                hint="stop that guest first; one that is gone is believed to be after"
                f" {journal.ON_ITS_WAY:.0f} s",
            )
        _await_keeper(host, policy, owner)
    operation = Operation.patient(host, policy, [bdf], _as_seen(owners))
    raise_first(_refusals(operation, [bdf]))
    results = operation.each([bdf], custody.verify)
    for owner in owners:
        journal.forget(host, owner, _done(results))
    raise_first(results)
    return str(_told(host, bdf, results[bdf]))


def _await_keeper(host: Host, policy: Policy, gone: Owner) -> None:
    """Of a guest that is gone: what it holds would be in use."""
    deadline = Deadline(host.monotonic, policy.deadline_cap)
    keepers.await_end(host, gone.uuid, deadline, policy.deadline)


def _refusals(operation: Operation, bdfs: Sequence[Bdf]) -> dict[Bdf, HookError]:
    """As before a guest's start, but for what recovery is there to mend."""
    away = journal.journaled(operation.host)
    found: dict[Bdf, HookError] = {}
    for facts in survey(operation, "", bdfs):
        if facts.present or not (facts.bdf in away or facts.dead is not None):
            wanted = replace(facts, dead=None, denied=None)
            refused = admission.refusal(wanted, "be recovered")
            if refused is not None:
                found[facts.bdf] = refused
    return found


def _told(host: Host, bdf: Bdf, result: str | HookError) -> str | HookError:
    if isinstance(result, HookError):
        return result
    if host.driver(bdf) == VFIO_PCI:
        return f"{bdf}: {result}; still on vfio-pci: virsh nodedev-reattach {bdf.nodedev}"
    return f"{bdf}: {result}"


def _as_seen(owners: Iterable[Owner]) -> Guests:
    """These guests, as they are recorded now: one that comes back has another record."""
    return {each.uuid: each.since for each in owners}


def _done(results: Results) -> set[Bdf]:
    unfinished = (*UNFINISHED, Refused)
    return {bdf for bdf, result in results.items() if not isinstance(result, unfinished)}


def _unreadable(host: Host) -> Iterator[BadRecord]:
    for folder in FOLDERS:
        for name in host.records.names(folder):
            try:
                store.load(host, folder, name)
            except BadRecord as error:
                yield error
