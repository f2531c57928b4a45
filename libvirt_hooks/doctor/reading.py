# SPDX-License-Identifier: LGPL-2.1-or-later
"""Has a daemon found a hook? Pure; for the doctor, and for `install`.

libvirt looks once, at its start and at SIGHUP, whether there is any executable entry; if there was,
it lists the directory anew at each call (libvirt src/util/virhook.c, virHookInitialize and
virHookCall, 9.0). So one entry that has not changed since is proof, and which one does not matter.
"""

from collections.abc import Collection, Iterable
from enum import Enum

from .facts import Daemon, Entry


class Reading(Enum):
    """What is known of it."""

    YES = "has read hooks"
    NO = "has read no hook"
    UNKNOWN = "may have read no hook"


def reading(
    daemon: Daemon, entries: Iterable[Entry], readers: Collection[tuple[int, int]] = ()
) -> Reading:
    """Judge one daemon.

    :param readers: daemons that are known to have read hooks, by pid and start.
    """
    looked = max(daemon.started, daemon.reloaded)
    if (daemon.pid, daemon.ticks) in readers:
        return Reading.YES
    if any(each.runs and each.changed < looked for each in entries):
        return Reading.YES
    # All are newer than its last look that is known. A SIGHUP that did not come from systemd
    # leaves no trace.
    return Reading.NO if daemon.supervised else Reading.UNKNOWN
