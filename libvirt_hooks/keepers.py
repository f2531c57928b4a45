# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keepers, as a hook and the command see them: is there one, what has it, has it ended?

``keepers/<uuid>`` is written by the keeper itself (``keeper``), and gone when it has let go of all
in good order. It names the process, so one that was killed is no keeper any more. Nobody talks to a
keeper: that QEMU has ended it knows before libvirt does.
"""

from collections.abc import Mapping
from typing import NamedTuple

from . import store
from .bdf import Bdf
from .deadline import Deadline
from .errors import BadRecord
from .host import Host, Qemu

KEEPERS = "keepers"
LOCK_TIMEOUT = 5.0
START_TIMEOUT = 5.0
"""Seconds that starting one may take (``linux.detached``); a guest then goes on without."""
POLL = 0.01
"""Seconds between two looks whether a keeper has ended."""
END_TIMEOUT = 1.0
"""Seconds that a killed process may take, unless the kernel is busy with what it had open."""

Process = tuple[int, int]
"""Number and start time, as ``Host.runs`` takes them."""


class Keeper(NamedTuple):
    """A process and the controllers that it holds for a guest."""

    uuid: str
    process: Process
    qemu: Process
    bdfs: tuple[Bdf, ...]
    seconds: float
    """What the drives may legally take to be disabled (CAP.TO), once it is at that."""

    def __str__(self) -> str:
        return f"{self.process[0]} (keeper of guest {self.uuid})"


def find(host: Host, uuid: str) -> Keeper | None:
    """Return the keeper of a guest, None if none runs."""
    try:
        found = _read(uuid, store.load(host, KEEPERS, uuid))
    except (BadRecord, ValueError) as error:
        _warn(f"{KEEPERS}/{uuid}: {error}")
        return None
    return found if found is not None and host.runs(*found.process) else None


def _read(uuid: str, content: Mapping[str, object] | None) -> Keeper | None:
    match content:
        case None:
            return None
        case {
            "process": [int(pid), int(started)],
            "qemu": [int(qemu), int(qemu_started)],
            "bdfs": [*bdfs],
            "seconds": int() | float() as seconds,
        }:
            held = tuple(Bdf.parse(str(bdf)) for bdf in bdfs)
            return Keeper(uuid, (pid, started), (qemu, qemu_started), held, seconds)
    raise ValueError("no keeper's record")


def find_all(host: Host) -> list[Keeper]:
    """Return every keeper that runs."""
    found = (find(host, uuid) for uuid in host.records.names(KEEPERS))
    return [each for each in found if each is not None]


def start(host: Host, uuid: str) -> None:
    """Start the keeper of a guest that runs, unless it has one.

    :raises HookError: it cannot be started.
    """
    if _current(host, uuid) is None:
        host.start_keeper(uuid)


def _current(host: Host, uuid: str) -> Keeper | None:
    """That of the guest's last life may still be in the kernel, closing a dead drive."""
    keeper = find(host, uuid)
    return keeper if keeper is not None and host.runs(*keeper.qemu) else None


def announce(host: Host, uuid: str, qemu: Qemu, seconds: float = 0.0) -> bool:
    """Be the keeper of a guest, and tell what is held. False: another process is it.

    :param seconds: what the drives may legally take, once there is no guest.
    :raises DeviceBusy: somebody kept the records' lock.
    :raises BadRecord: the record could not be written.
    """
    process = host.this_process()
    with host.lock(KEEPERS, LOCK_TIMEOUT):
        other = _current(host, uuid)
        if other is not None and other.process != process:
            return False
        bdfs = [str(bdf) for bdf in qemu.held]
        content = {"process": process, "qemu": qemu.process, "bdfs": bdfs, "seconds": seconds}
        store.save(host, KEEPERS, uuid, content)
    return True


def withdraw(host: Host, uuid: str, process: Process | None = None) -> None:
    """Drop a guest's record if it is that of *process*, or of nobody who runs.

    :raises DeviceBusy: somebody kept the records' lock.
    """
    with host.lock(KEEPERS, LOCK_TIMEOUT):
        keeper = find(host, uuid)
        if keeper is None or keeper.process == process:
            host.records.drop(KEEPERS, uuid)


def await_end(host: Host, uuid: str, deadline: Deadline, share: float) -> None:
    """Wait until the keeper of a guest that has ended has let go of all.

    One that does not is killed: then vfio's close comes as it would have without a keeper. Until
    it has come, the function is open, and whoever asked for this sees that. But while QEMU itself
    is still in the kernel, with other devices, its keeper has nothing to do yet: it is waited for
    with nothing locked, since it needs the controllers' locks then.

    :param deadline: of the operation.
    :param share: seconds of it that the keeper gets from QEMU's end on, and what the drives may
        take on top.
    """
    ended: Deadline | None = None
    while (keeper := find(host, uuid)) is not None:
        if ended is None and not host.runs(*keeper.qemu):
            ended = deadline.within(share)
        for limit in filter(None, (deadline, ended)):
            limit.allow(keeper.seconds)
        if ended is not None and (ended.expired or deadline.expired):
            _give_up(host, keeper, deadline)
            return
        if deadline.expired:
            return
        host.sleep(POLL)
    if uuid in host.records.names(KEEPERS):  # of one that was killed
        withdraw(host, uuid)


def _give_up(host: Host, keeper: Keeper, deadline: Deadline) -> None:
    what = f"has not let go of its drives after {deadline.elapsed:.1f} s: killed"
    _warn(f"keeper {keeper.process[0]} of guest {keeper.uuid} {what}")
    host.kill(*keeper.process)
    until = Deadline(host.monotonic, END_TIMEOUT)
    while host.runs(*keeper.process) and not until.expired:
        host.sleep(POLL)
    withdraw(host, keeper.uuid)


def _warn(text: str) -> None:
    import logging  # only here: `list` would wait for it

    logging.getLogger(__name__).warning("%s", text)
