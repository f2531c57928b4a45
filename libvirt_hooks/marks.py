# SPDX-License-Identifier: LGPL-2.1-or-later
"""Marks on a controller: ``dead/<bdf>``, nothing brought it back; ``stuck/<bdf>``, a process of
an earlier hook is still in the kernel with it.

Either is a sentence that refuses the next start at once, where without it that start would hang.
"""

from contextlib import suppress

from . import store
from .bdf import Bdf
from .errors import BadRecord, HookError, Stuck
from .host import Host

DEAD = "dead"
STUCK = "stuck"


def mark_dead(host: Host, bdf: Bdf, error: HookError) -> None:
    """Remember, until the next boot, why nothing is to be expected of this drive."""
    store.save(host, DEAD, str(bdf), {"why": _said(bdf, error)})


def dead(host: Host, bdf: Bdf) -> str | None:
    """Return why the drive is given up, None if it is not."""
    return _why(host, DEAD, bdf)


def revive(host: Host, bdf: Bdf) -> None:
    """It has been seen alive."""
    host.records.drop(DEAD, str(bdf))


def mark_stuck(host: Host, bdf: Bdf, stuck: Stuck) -> None:
    """Remember the process that was left behind."""
    content = {"why": _said(bdf, stuck), "pid": stuck.pid, "started": stuck.started}
    store.save(host, STUCK, str(bdf), content)


def stuck(host: Host, bdf: Bdf) -> str | None:
    """Return what still keeps the controller in the kernel, None if nothing does (any more)."""
    content = _load(host, STUCK, bdf)
    match content:
        case {"why": str(why), "pid": int(pid), "started": int(started)} if host.runs(pid, started):
            return why
    if content is not None:
        host.records.drop(STUCK, str(bdf))
    return None


def _said(bdf: Bdf, error: HookError) -> str:
    return error.message.removeprefix(f"{bdf}: ")


def _why(host: Host, folder: str, bdf: Bdf) -> str | None:
    content = _load(host, folder, bdf)
    why = None if content is None else content.get("why")
    return why if isinstance(why, str) else None


def _load(host: Host, folder: str, bdf: Bdf) -> dict[str, object] | None:
    """A mark that cannot be read marks nothing: the drive itself is looked at all the same."""
    try:
        return store.load(host, folder, str(bdf))
    except BadRecord:
        with suppress(BadRecord):
            host.records.drop(folder, str(bdf))
        return None
