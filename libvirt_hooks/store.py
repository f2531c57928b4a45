# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records as JSON objects of this boot: what is from an earlier one does not count.

/run is empty after a boot where it is a tmpfs; where it is not, what a record says of
reset_method, of a process or of a drive that died is no longer true.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from .bdf import Bdf
from .errors import BadRecord
from .host import Host

BOOT_ID = "boot_id"


def save(host: Host, folder: str, name: str, content: Mapping[str, object]) -> None:
    """Replace a record; on stable storage when this returns.

    :raises BadRecord: it cannot be written.
    """
    import json  # at rest there is no record

    data = json.dumps({BOOT_ID: host.boot_id(), **content})
    host.records.store(folder, name, data.encode() + b"\n")


def load(host: Host, folder: str, name: str) -> dict[str, Any] | None:
    """Return a record's content, None if there is none of this boot.

    :raises BadRecord: it cannot be read, or is not one of ours.
    """
    data = host.records.load(folder, name)
    if data is None:
        return None
    import json  # at rest there is no record

    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise bad(folder, name, str(error)) from error
    if not isinstance(content, dict):
        raise bad(folder, name, f"{type(content).__name__} against dict")
    if content.pop(BOOT_ID, None) != host.boot_id():
        return None
    return content


def sweep(host: Host, folders: Iterable[str]) -> list[str]:
    """Drop what is from an earlier boot; return the names, as folder/name."""
    dropped = []
    for folder in folders:
        for name in host.records.names(folder):
            try:
                stale = load(host, folder, name) is None
            except BadRecord:
                continue
            if stale:
                host.records.drop(folder, name)
                dropped.append(f"{folder}/{name}")
    return dropped


def bdfs(host: Host, folder: str) -> list[Bdf]:
    """Return the controllers that have a record in a folder; other names are none of ours."""
    found = []
    for name in host.records.names(folder):
        try:
            found.append(Bdf.parse(name))
        except ValueError:
            continue
    return sorted(found)


def bad(folder: str, name: str, why: str) -> BadRecord:
    """Word the error for a record that cannot be believed."""
    return BadRecord(
        f"{folder}/{name}: not a record of virt-nvme-reset: {why}",
        hint=f"remove /run/virt-nvme-reset/{folder}/{name} when no guest uses the controller",
    )
