# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest's keeper in the rig: its record, and its process as the kernel sees it.

Both are looked at by hand: a record without a process, or a process without a record, is no keeper.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from . import records
from .deadline import Deadline
from .guests import Guest
from .rig import Rig

PROCESS = "/run/rig/checkout/tests/vm/process.py"
SCRIPT = "libvirt_hooks/keep.py"
VFIO_DEVICE, PIDFD = "anon_inode:[vfio-device]", "anon_inode:[pidfd]"
NULL = "/dev/null"
END_SECONDS = 30.0


@dataclass(frozen=True)
class Process:
    """A process, by /proc."""

    command: list[str]
    parent: int
    session: int
    cwd: str
    descriptors: dict[str, str]
    oom_score_adj: int
    private_dirty: int
    """Memory that is its own alone, in kB."""
    label: str

    @property
    def opened(self) -> list[str]:
        """What it has open beside the three that every process has."""
        return sorted(
            what for number, what in self.descriptors.items() if number not in ("0", "1", "2")
        )


def look_at(rig: Rig, pid: int) -> Process:
    found = rig.run(["/usr/bin/python3", "-I", PROCESS, str(pid)]).stdout
    return Process(**json.loads(found))


def pids(guest: Guest) -> list[int]:
    """Its keepers' processes, with a record or without; more than one is one too many."""
    command = ["pgrep", "-f", f"{SCRIPT} {guest.uuid}$"]
    return [int(pid) for pid in guest.rig.run(command, check=False).stdout.split()]


def pid(guest: Guest) -> int:
    """The one that its record names, which runs."""
    recorded = records.keeper(guest.rig, guest.uuid)
    assert recorded is not None, f"{guest.name} has no keeper"
    assert [recorded] == pids(guest)
    return recorded


def held(guest: Guest) -> list[str]:
    """The controllers that its keeper says it holds; none without one."""
    running = records.keeper(guest.rig, guest.uuid) in pids(guest)
    return records.held(guest.rig, guest.uuid) if running else []


def kill(guest: Guest) -> None:
    guest.rig.run(["kill", "-KILL", str(pid(guest))])
    wait_gone(guest)


def wait_gone(guest: Guest) -> None:
    Deadline.after(END_SECONDS).wait_until("the keeper ends", lambda: not pids(guest))
