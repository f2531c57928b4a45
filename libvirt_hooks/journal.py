# SPDX-License-Identifier: LGPL-2.1-or-later
"""Owner records and undo entries: what must outlive a hook, but not the boot.

``owners/<uuid>`` says which guest has which controllers: reaching libvirt's `start` is the proof
of it (libvirt src/qemu/qemu_process.c, 9.0: its own in-use check has passed by then).
``journal/<bdf>`` holds what an attribute said before we first wrote it. At rest both are empty.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from . import store
from .bdf import Bdf
from .errors import BadRecord
from .host import Host

LOCK_TIMEOUT = 5.0
"""Seconds: a record is written in some milliseconds."""

OWNERS = "owners"
JOURNAL = "journal"

ON_ITS_WAY = 30.0
"""Seconds after a hook's last word of a guest in which it may have no QEMU process: libvirt execs
it after `start`, and gives its controllers back between `stopped` and `release`."""


class Owner(NamedTuple):
    """A guest and the controllers that it has; *since* when, on the host's monotonic clock."""

    uuid: str
    bdfs: tuple[Bdf, ...]
    since: float = 0.0


def owner(host: Host, uuid: str) -> Owner | None:
    """Return a guest's record, None if there is none of this boot.

    :raises BadRecord: the file is not one of ours.
    """
    content = store.load(host, OWNERS, uuid)
    if content is None:
        return None
    try:
        bdfs = tuple(Bdf.parse(text) for text in content["bdfs"])
        return Owner(uuid, bdfs, float(content["since"]))
    except (KeyError, TypeError, ValueError) as error:
        raise store.bad(OWNERS, uuid, repr(error)) from error


def owners(host: Host) -> list[Owner]:
    """Return the records of every guest; one that cannot be believed is told and passed over.

    It must not keep every other guest from starting: that its controller is open protects it.
    """
    found = []
    for uuid in host.records.names(OWNERS):
        try:
            found.append(owner(host, uuid))
        except BadRecord as error:
            import logging  # only here: `list` would wait for it

            logging.getLogger(__name__).warning("%s", error.message)
    return [each for each in found if each is not None]


def owners_of(host: Host, bdf: Bdf) -> list[Owner]:
    """Return the guests that have this controller, by their records: mostly one, or none."""
    return [each for each in owners(host) if bdf in each.bdfs]


def other_owner(host: Host, uuid: str, bdf: Bdf) -> str | None:
    """Return the uuid of another guest than *uuid* that has this controller, by its record."""
    return next((each.uuid for each in owners_of(host, bdf) if each.uuid != uuid), None)


def claim(host: Host, uuid: str, bdfs: Iterable[Bdf]) -> None:
    """Record that this guest has these controllers now, and that no other guest has them.

    :raises DeviceBusy: another hook kept the records' lock.
    :raises BadRecord: they could not be written.
    """
    wanted = set(bdfs)
    with host.lock(OWNERS, LOCK_TIMEOUT):
        _remember(host, uuid, wanted, host.monotonic())
        for other in owners(host):
            if other.uuid != uuid and wanted.intersection(other.bdfs):
                _remember(host, other.uuid, set(other.bdfs) - wanted, other.since)


def keep_only(host: Host, uuid: str, bdfs: Iterable[Bdf]) -> None:
    """Of what this guest has, remember only *bdfs*; with none of them, forget the guest.

    What another guest has claimed meanwhile is that guest's.

    :raises DeviceBusy: another hook kept the records' lock.
    :raises BadRecord: they could not be written.
    """
    with host.lock(OWNERS, LOCK_TIMEOUT):
        taken = {bdf for each in owners(host) if each.uuid != uuid for bdf in each.bdfs}
        _remember(host, uuid, set(bdfs) - taken, host.monotonic())


def forget(host: Host, gone: Owner, done: Collection[Bdf]) -> tuple[Bdf, ...]:
    """Of a guest that is gone, forget what is *done* with; return what is left of it.

    A record that is another by now is a guest's that has come back: it stays as it is.

    :raises DeviceBusy: another hook kept the records' lock.
    :raises BadRecord: they could not be written.
    """
    with host.lock(OWNERS, LOCK_TIMEOUT):
        now = owner(host, gone.uuid)
        if now is None or now.since != gone.since:
            return ()
        left = tuple(bdf for bdf in now.bdfs if bdf not in done)
        _remember(host, gone.uuid, left, gone.since)
        return left


def _remember(host: Host, uuid: str, bdfs: Collection[Bdf], since: float) -> None:
    if bdfs:
        _store_owner(host, Owner(uuid, tuple(sorted(bdfs)), since))
    else:
        host.records.drop(OWNERS, uuid)


def is_running(host: Host, owned: Owner) -> bool:
    """Does this guest run, start or end just now?

    Nobody can tell a guest that libvirt is about to start from one that it has forgotten, but by
    the time that has passed since a hook last heard of it.
    """
    return host.qemu_runs(owned.uuid) or host.monotonic() - owned.since < ON_ITS_WAY


def _store_owner(host: Host, owned: Owner) -> None:
    bdfs = [str(bdf) for bdf in owned.bdfs]
    store.save(host, OWNERS, owned.uuid, {"bdfs": bdfs, "since": owned.since})


def journaled(host: Host) -> list[Bdf]:
    """Return the controllers on which something has to be put back."""
    return store.bdfs(host, JOURNAL)


class Undo:
    """What to put back on one controller, by the attribute's name. For the lock's holder only."""

    def __init__(self, host: Host, bdf: Bdf) -> None:
        self._host = host
        self._name = str(bdf)
        self._known: Mapping[str, object] | None = None

    def original(self, attribute: str) -> str | None:
        """Return what *attribute* said before we first wrote it, None if we did not."""
        value = self._content().get(attribute)
        return value if isinstance(value, str) else None

    def keep(self, attribute: str, value: str) -> None:
        """Remember *value*, on stable storage, unless an earlier one is remembered."""
        content = self._content()
        if attribute not in content:
            self._store({**content, attribute: value})

    def forget(self, *attributes: str) -> None:
        """They are back, or are no longer ours to put back."""
        content = self._content()
        left = {name: value for name, value in content.items() if name not in attributes}
        if left != content:
            self._store(left)

    def _content(self) -> Mapping[str, object]:
        if self._known is None:
            self._known = store.load(self._host, JOURNAL, self._name) or {}
        return self._known

    def _store(self, content: Mapping[str, object]) -> None:
        self._known = None  # until it is written: who fails here must not believe it is
        if content:
            store.save(self._host, JOURNAL, self._name, content)
        else:
            self._host.records.drop(JOURNAL, self._name)
        self._known = content
