# SPDX-License-Identifier: LGPL-2.1-or-later
"""Gather what the doctor judges of drives, guests and records. Changes nothing, reads no register.

Records are read by ``store`` alone: ``marks`` drops what is stale or unreadable, and ``keepers``
warns of it, where here each is told once, as what is left over.
"""

from collections.abc import Collection, Iterable, Iterator

from . import journal, keepers, marks, recovery, store, usage
from .bdf import Bdf
from .doctor.facts import Drive, HostUse, Leftover
from .domain import Domain
from .errors import BadRecord
from .guard import wants_keeper
from .host import Host
from .journal import Undo
from .methods import RESET_METHOD
from .nvme import CLASS_NVME
from .observe import NVME, ids, is_open, number
from .pci import ResetMethod
from .policy import GuardChoice, Policy

RECOVER = "virt-nvme-reset recover"


def drives(host: Host, policy: Policy) -> tuple[Drive, ...]:
    """Return every NVMe controller of the machine."""
    owners = {bdf: each.uuid for each in journal.owners(host) for bdf in each.bdfs}
    kept = {name for uuid in host.records.names(keepers.KEEPERS) for name in _held(host, uuid)}
    found = [b for b in host.functions() if number(host.read_attr(b, "class")) == CLASS_NVME]
    return tuple(_drive(host, policy, bdf, owners.get(bdf), str(bdf) in kept) for bdf in found)


def _drive(host: Host, policy: Policy, bdf: Bdf, owner: str | None, kept: bool) -> Drive:
    vendor, device = ids(host, bdf)
    driver = host.driver(bdf)
    now = tuple((host.read_attr(bdf, RESET_METHOD) or "").split())
    before = _before(host, bdf) or now
    if owner is None and is_open(host, bdf, driver):
        owner = "?"
    keep = policy.guard(bdf, vendor, device) is GuardChoice.KEEP
    return Drive(
        bdf=str(bdf),
        ids=f"{vendor:04x}:{device:04x}",
        lethal=policy.quirk(bdf, vendor, device).flr_lethal_while_enabled,
        kernel_knows=before[:1] == (ResetMethod.DEVICE_SPECIFIC,),
        guarded=keep or not {ResetMethod.FLR, ResetMethod.AF_FLR}.intersection(now),
        guest=owner,
        wants_keeper=wants_keeper(before, policy.close(bdf, vendor, device)),
        kept=kept,
        hot_pluggable=host.slot(bdf) is not None,
    )


def _before(host: Host, bdf: Bdf) -> tuple[str, ...]:
    try:
        return tuple((Undo(host, bdf).original(RESET_METHOD) or "").split())
    except BadRecord:  # told among what is left over
        return ()


def _runs(host: Host, uuid: str) -> bool:
    """Does the keeper of a guest run?"""
    match _content(host, keepers.KEEPERS, uuid):
        case {"process": [int(pid), int(started)]}:
            return host.runs(pid, started)
    return False


def _held(host: Host, uuid: str) -> set[str]:
    """What the keeper of a guest has."""
    match _content(host, keepers.KEEPERS, uuid):
        case {"bdfs": [*bdfs]} if _runs(host, uuid):
            return set(map(str, bdfs))
    return set()


def host_uses(host: Host, guests: Iterable[Domain], running: Collection[str]) -> Iterator[HostUse]:
    """Yield the drives of guests that the host uses by now: their starts would be refused.

    :param guests: their definitions, as libvirt has them.
    :param running: uuids of those that run.
    """
    for guest in guests:
        wanted = [each.bdf for each in guest.candidates if host.driver(each.bdf) == NVME]
        snapshot = host.usage(wanted)
        for bdf in wanted:
            if found := usage.uses(snapshot, bdf):
                said = ", ".join(map(str, found))
                yield HostUse(guest.name, str(bdf), said, guest.uuid in running)


def leftovers(host: Host) -> Iterator[Leftover]:
    """Yield the records that belong to nobody any more, as `recover` would find them."""
    yield from _unusable(host)
    yield from _orphaned(host)
    yield from _marked(host)


def _unusable(host: Host) -> Iterator[Leftover]:
    for folder in recovery.FOLDERS:
        for name in host.records.names(folder):
            try:
                if store.load(host, folder, name) is None:
                    yield Leftover(f"{folder}/{name}: of an earlier boot", RECOVER)
            except BadRecord as error:
                yield Leftover(error.message, error.hint or RECOVER)


def _orphaned(host: Host) -> Iterator[Leftover]:
    owners = journal.owners(host)
    gone = [each for each in owners if not journal.is_running(host, each)]
    for owner in gone:
        yield Leftover(f"guest {owner.uuid}: gone, and no hook came", RECOVER)
    in_use = {bdf for each in owners if each not in gone for bdf in each.bdfs}
    for bdf in journal.journaled(host):
        if bdf not in in_use and _content(host, journal.JOURNAL, str(bdf)) is not None:
            yield Leftover(f"{bdf}: something is to be put back, and no guest has it", RECOVER)
    for uuid in host.records.names(keepers.KEEPERS):
        if _content(host, keepers.KEEPERS, uuid) is not None and not _runs(host, uuid):
            yield Leftover(f"guest {uuid}: its keeper died", RECOVER)


def _marked(host: Host) -> Iterator[Leftover]:
    for bdf in store.bdfs(host, marks.STUCK):
        match _content(host, marks.STUCK, str(bdf)):
            case {"why": why, "pid": int(pid), "started": int(at)} if host.runs(pid, at):
                yield Leftover(
                    f"{bdf}: an earlier hook is still in the kernel with it: {why}",
                    "wait for it; if it stays, power the host off and on",
                )
    for bdf in store.bdfs(host, marks.DEAD):
        match _content(host, marks.DEAD, str(bdf)):
            case {"why": why}:
                yield Leftover(f"{bdf}: given up in this boot: {why}", f"{RECOVER} {bdf}")


def _content(host: Host, folder: str, name: str) -> dict[str, object] | None:
    """A record of this boot, if it can be read."""
    try:
        return store.load(host, folder, name)
    except BadRecord:
        return None
