# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keepers, as a hook and the command see them: is there one, what has it, has it ended?

``keepers/<uuid>`` is written by the keeper itself (``keeper``), and gone when it has let go of all
in good order. It names the process, so one that was killed is no keeper any more. Nobody talks to a
keeper: that QEMU has ended it knows before libvirt does.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from . import store
from .bdf import Bdf
from .deadline import Deadline
from .errors import BadRecord
from .guard import wants_keeper
from .host import Host, Qemu
from .journal import Undo
from .methods import RESET_METHOD
from .observe import ids
from .policy import Policy

log = logging.getLogger(__name__)

KEEPERS = "keepers"
LOCK_TIMEOUT = 5.0
POLL = 0.01
"""Seconds between two looks whether a keeper has ended."""
END_TIMEOUT = 1.0
"""Seconds that a killed process may take, unless the kernel is busy with what it had open."""


Process = tuple[int, int]
"""Number and start time, as ``Host.runs`` takes them."""


@dataclass(frozen=True)
class Keeper:
    """A process and the controllers that it holds for a guest."""

    uuid: str
    process: Process
    qemu: Process
    bdfs: tuple[Bdf, ...]


def is_wanted(host: Host, policy: Policy, bdf: Bdf) -> bool:
    """Does this controller need a keeper, while a guest has it?"""
    methods = Undo(host, bdf).original(RESET_METHOD) or host.read_attr(bdf, RESET_METHOD) or ""
    return wants_keeper(tuple(methods.split()), policy.close(bdf, *ids(host, bdf)))


def find(host: Host, uuid: str) -> Keeper | None:
    """Return the keeper of a guest, None if none runs; the record of one that died is dropped."""
    try:
        found = _read(uuid, store.load(host, KEEPERS, uuid))
        if found is not None and host.runs(*found.process):
            return found
    except (BadRecord, ValueError) as error:
        log.warning("%s/%s: %s: dropped", KEEPERS, uuid, error)
    host.records.drop(KEEPERS, uuid)
    return None


def _read(uuid: str, content: Mapping[str, object] | None) -> Keeper | None:
    match content:
        case None:
            return None
        case {
            "process": [int(pid), int(started)],
            "qemu": [int(qemu), int(qemu_started)],
            "bdfs": [*bdfs],
        }:
            held = tuple(Bdf.parse(str(bdf)) for bdf in bdfs)
            return Keeper(uuid, (pid, started), (qemu, qemu_started), held)
    raise ValueError("no keeper's record")


def seen(host: Host) -> list[Keeper]:
    """Return every keeper that runs; drops nothing, for who only counts them."""
    found = []
    for uuid in host.records.names(KEEPERS):
        with suppress(BadRecord, ValueError):
            found.append(_read(uuid, store.load(host, KEEPERS, uuid)))
    return [each for each in found if each is not None and host.runs(*each.process)]


def find_all(host: Host) -> list[Keeper]:
    """Return every keeper that runs."""
    found = (find(host, uuid) for uuid in host.records.names(KEEPERS))
    return [each for each in found if each is not None]


def start(host: Host, uuid: str) -> None:
    """Start the keeper of a guest, unless one runs.

    :raises HookError: it cannot be started.
    """
    if find(host, uuid) is None:
        host.start_keeper(uuid)


def announce(host: Host, uuid: str, qemu: Qemu) -> bool:
    """Be the keeper of a guest, and tell what is held. False: another process is it.

    :raises DeviceBusy: somebody kept the records' lock.
    :raises BadRecord: the record could not be written.
    """
    process = host.this_process()
    with host.lock(KEEPERS, LOCK_TIMEOUT):
        other = find(host, uuid)
        if other is not None and other.process != process:
            return False
        bdfs = [str(bdf) for bdf in qemu.held]
        content = {"process": process, "qemu": qemu.process, "bdfs": bdfs}
        store.save(host, KEEPERS, uuid, content)
    return True


def withdraw(host: Host, uuid: str) -> None:
    """Be the keeper of that guest no more."""
    host.records.drop(KEEPERS, uuid)


def await_end(host: Host, uuid: str, deadline: Deadline) -> None:
    """Wait until the keeper of a guest that has ended has let go of all.

    One that does not is killed: then vfio's close comes as it would have without a keeper. Until
    it has come, the function is open, and whoever asked for this sees that. But while QEMU itself
    is still in the kernel, with other devices, its keeper has nothing to do yet.
    """
    keeper = find(host, uuid)
    if keeper is None or _ends(host, keeper, deadline) or host.runs(*keeper.qemu):
        return
    what = f"has not let go of its drives after {deadline.elapsed:.1f} s: killed"
    log.warning("keeper %d of guest %s %s", keeper.process[0], uuid, what)
    host.kill(*keeper.process)
    _ends(host, keeper, Deadline(host.monotonic, END_TIMEOUT))


def _ends(host: Host, keeper: Keeper, deadline: Deadline) -> bool:
    while host.runs(*keeper.process):
        if deadline.expired:
            return False
        host.sleep(POLL)
    find(host, keeper.uuid)  # drops what a killed one has left
    return True
