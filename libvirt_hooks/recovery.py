# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset recover`: find what hooks have left behind, and bring it to where it belongs.

A guest whose QEMU is gone and for which no hook came, a journal of a hook that died, records of an
earlier boot; or one controller by name, whatever is wrong with it.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from . import admission, custody, journal, marks, store
from .bdf import Bdf
from .errors import BadRecord, DeviceBusy, HookError
from .host import Host
from .journal import Owner
from .observe import VFIO_PCI
from .operation import UNFINISHED, Operation, Results, raise_first
from .policy import Policy
from .survey import survey

FOLDERS = (journal.OWNERS, journal.JOURNAL, marks.DEAD, marks.STUCK)


def recover_all(host: Host, policy: Policy) -> Iterator[str | HookError]:
    """Undo all that is left over, and say of each thing what came of it.

    A guest that runs, or that a hook has just heard of, is left alone.
    """
    for name in store.sweep(host, FOLDERS):
        yield f"{name}: of an earlier boot: dropped"
    yield from _unreadable(host)
    owners = journal.owners(host)
    orphans = [each for each in owners if not journal.is_running(host, each)]
    in_use = {bdf for each in owners if each not in orphans for bdf in each.bdfs}
    lost = {bdf for each in orphans for bdf in each.bdfs if host.read_attr(bdf, "class")}
    wanted = sorted((lost | set(journal.journaled(host))) - in_use)
    guests = [each.uuid for each in orphans]
    operation = Operation.patient(host, policy, wanted, *guests)
    # A live one that the host uses again is only looked at; a dead one would be removed.
    refused = _refusals(operation, [bdf for bdf in wanted if host.nvme_state(bdf) == "dead"])
    mended = operation.each([bdf for bdf in wanted if bdf not in refused], custody.verify)
    results = {**mended, **refused}
    for bdf, result in results.items():
        yield _told(host, bdf, result)
    for orphan in orphans:
        left = _forget(host, orphan, set(orphan.bdfs) - set(results), results)
        if left:
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
    owner = next((each for each in journal.owners(host) if bdf in each.bdfs), None)
    if owner is not None and journal.is_running(host, owner):
        raise DeviceBusy(
            f"{bdf}: may not be recovered: the guest with uuid {owner.uuid} has it",
            hint="stop that guest first; one that is gone is believed to be after"
            f" {journal.ON_ITS_WAY:.0f} s",
        )
    guests = [owner.uuid] if owner is not None else []
    operation = Operation.patient(host, policy, [bdf], *guests)
    raise_first(_refusals(operation, [bdf]))
    results = operation.each([bdf], custody.verify)
    if owner is not None:
        _forget(host, owner, (), results)
    raise_first(results)
    return str(_told(host, bdf, results[bdf]))


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


def _forget(host: Host, owner: Owner, away: Collection[Bdf], results: Results) -> list[Bdf]:
    """Forget what is done with, or *away*, of what a guest had; return what is left."""
    done = {bdf for bdf, result in results.items() if not isinstance(result, UNFINISHED)}
    left = [bdf for bdf in owner.bdfs if bdf not in done.union(away)]
    journal.keep_only(host, owner.uuid, left)
    return left


def _unreadable(host: Host) -> Iterator[BadRecord]:
    for folder in FOLDERS:
        for name in host.records.names(folder):
            try:
                store.load(host, folder, name)
            except BadRecord as error:
                yield error
