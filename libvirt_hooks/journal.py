# SPDX-License-Identifier: LGPL-2.1-or-later
"""Owner records and undo entries: what must outlive a hook, but not the boot.

``owners/<uuid>`` says which guest has which controllers: reaching libvirt's `start` is the proof
of it (libvirt src/qemu/qemu_process.c, 9.0: its own in-use check has passed by then).
``journal/<bdf>`` holds what an attribute said before we first wrote it. At rest both are empty.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .bdf import Bdf
from .errors import BadRecord
from .host import Host, Records

OWNERS = "owners"
JOURNAL = "journal"


@dataclass(frozen=True)
class Owner:
    """A guest and the controllers that it has."""

    uuid: str
    bdfs: tuple[Bdf, ...]


def owner(host: Host, uuid: str) -> Owner | None:
    """Return a guest's record, None if there is none of this boot.

    :raises BadRecord: the file is not one of ours.
    """
    content = _load(host.records, OWNERS, uuid)
    if content is None or content.get("boot_id") != host.boot_id():
        return None
    try:
        return Owner(uuid, tuple(Bdf.parse(text) for text in content["bdfs"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _bad(OWNERS, uuid, repr(error)) from error


def owners(host: Host) -> list[Owner]:
    """Return the records of every guest."""
    found = (owner(host, uuid) for uuid in host.records.names(OWNERS))
    return [each for each in found if each is not None]


def claim(host: Host, uuid: str, bdfs: Iterable[Bdf]) -> None:
    """Record that this guest has these controllers now, and that no other guest has them."""
    wanted = tuple(sorted(set(bdfs)))
    for other in owners(host):
        left = tuple(bdf for bdf in other.bdfs if bdf not in wanted)
        if other.uuid != uuid and left != other.bdfs:
            _store_owner(host, Owner(other.uuid, left))
    _store_owner(host, Owner(uuid, wanted))


def disown(host: Host, uuid: str) -> None:
    """Forget what this guest has."""
    host.records.drop(OWNERS, uuid)


def _store_owner(host: Host, owned: Owner) -> None:
    bdfs = [str(bdf) for bdf in owned.bdfs]
    _store(host.records, OWNERS, owned.uuid, {"boot_id": host.boot_id(), "bdfs": bdfs})


class Undo:
    """What to put back on one controller, by the attribute's name. For the lock's holder only."""

    def __init__(self, records: Records, bdf: Bdf) -> None:
        self._records = records
        self._name = str(bdf)

    def original(self, attribute: str) -> str | None:
        """Return what *attribute* said before we first wrote it, None if we did not."""
        value = self._content().get(attribute)
        return value if isinstance(value, str) else None

    def keep(self, attribute: str, value: str) -> None:
        """Remember *value*, on stable storage, unless an earlier one is remembered."""
        content = self._content()
        if attribute not in content:
            self._store({**content, attribute: value})

    def forget(self, attribute: str) -> None:
        """The attribute is back, or is no longer ours to put back."""
        content = self._content()
        if content.pop(attribute, None) is not None:
            self._store(content)

    def _content(self) -> dict[str, Any]:
        return _load(self._records, JOURNAL, self._name) or {}

    def _store(self, content: dict[str, Any]) -> None:
        if content:
            _store(self._records, JOURNAL, self._name, content)
        else:
            self._records.drop(JOURNAL, self._name)


def _store(records: Records, folder: str, name: str, content: dict[str, Any]) -> None:
    records.store(folder, name, json.dumps(content).encode() + b"\n")


def _load(records: Records, folder: str, name: str) -> dict[str, Any] | None:
    data = records.load(folder, name)
    if data is None:
        return None
    try:
        content = json.loads(data)
    except ValueError as error:
        raise _bad(folder, name, str(error)) from error
    if not isinstance(content, dict):
        raise _bad(folder, name, f"{type(content).__name__} against dict")
    return content


def _bad(folder: str, name: str, why: str) -> BadRecord:
    return BadRecord(
        f"{folder}/{name}: not a record of virt-nvme-reset: {why}",
        hint=f"remove /run/virt-nvme-reset/{folder}/{name} when no guest uses the controller",
    )
