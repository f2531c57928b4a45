# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes as /proc shows them: what they have open, whether they run, who has a vfio node.

Sources: proc(5); kernel fs/proc/array.c (do_task_stat), fs/proc/fd.c, v6.1; drivers/vfio/group.c
and device_cdev.c for the nodes, v6.6; libvirt src/qemu/qemu_command.c for `-uuid`.
"""

import os
from collections.abc import Collection, Iterator, Mapping

from ..bdf import Bdf
from ..snapshot import Process
from .reads import names, text
from .sysfs import DEVICES

PROC = "/proc"


def pids(proc: str = PROC) -> list[int]:
    """Return the number of every process, sorted."""
    return sorted(int(name) for name in names(proc) if name.isdecimal())


def process(pid: int, proc: str = PROC) -> Process:
    """Return a process with its name, which is empty if it is gone."""
    return Process(pid, text(f"{proc}/{pid}/comm"))


def opened(pid: int, proc: str = PROC) -> Iterator[tuple[str, str]]:
    """Yield each descriptor of a process with its target; none if the process is gone.

    The target is text, as seen in the mount namespace of who opened it, and is not looked up.

    :raises PermissionError: a security module forbids to look.
    """
    try:
        folder = os.open(f"{proc}/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        raise
    except OSError:
        return
    try:
        for name in os.listdir(folder):
            try:
                yield name, os.readlink(name, dir_fd=folder)
            except PermissionError:
                raise
            except OSError:  # closed meanwhile
                continue
    finally:
        os.close(folder)


def vfio_nodes(bdf: Bdf, devices: str = DEVICES) -> tuple[str, ...]:
    """Return the nodes by which somebody may have a function open through vfio.

    That of the IOMMU group is shared by every function in the group.
    """
    found = [f"/dev/vfio/devices/{name}" for name in names(f"{devices}/{bdf}/vfio-dev")]
    try:
        group = os.path.basename(os.readlink(f"{devices}/{bdf}/iommu_group"))
    except OSError:
        return tuple(found)
    return (f"/dev/vfio/{group}", f"/dev/vfio/noiommu-{group}", *found)


def vfio_users(
    nodes: Mapping[Bdf, Collection[str]], proc: str = PROC
) -> dict[Bdf, tuple[Process, ...]]:
    """Tell who has one of each function's nodes open, by pid. One walk for all of them.

    One that is exiting has none any more, though the kernel may still be closing them.
    """
    wanted = {node for each in nodes.values() for node in each}
    users = [(pid, found) for pid in pids(proc) if (found := _has_open(pid, wanted, proc))]
    return {
        bdf: tuple(process(pid, proc) for pid, found in users if not found.isdisjoint(each))
        for bdf, each in nodes.items()
    }


def _has_open(pid: int, nodes: Collection[str], proc: str) -> set[str]:
    if not nodes:
        return set()
    try:
        # libvirt takes a node out of the guest's /dev while the guest still has it open.
        targets = {target.removesuffix(" (deleted)") for _, target in opened(pid, proc)}
    except PermissionError:
        return set()
    return targets.intersection(nodes)


def qemu_pids(uuid: str, proc: str = PROC) -> Iterator[int]:
    """Yield each process with the arguments `-uuid` and *uuid*, as libvirt starts QEMU.

    May wait for one that is stuck in the kernel with its memory map locked: no hook asks, only
    what a person or nobody waits for.
    """
    wanted = f"\0-uuid\0{uuid}\0"
    return (pid for pid in pids(proc) if wanted in text(f"{proc}/{pid}/cmdline"))


def qemu_runs(uuid: str, proc: str = PROC) -> bool:
    """Is there such a process? As ``qemu_pids``, but the first one is enough."""
    return next(qemu_pids(uuid, proc), None) is not None


def start_time(pid: int, proc: str = PROC) -> int | None:
    """Return when a process started, in clock ticks since boot; None if it does not run.

    With the pid it names a process for as long as the host is up. A zombie does not run, but the
    first thread is one, too, when the process was killed and another thread is still in the kernel.
    """
    fields = _stat(f"{proc}/{pid}/stat")
    if len(fields) < 20:
        return None
    threads = names(f"{proc}/{pid}/task")
    if not any(_lives(_stat(f"{proc}/{pid}/task/{tid}/stat")) for tid in threads):
        return None
    return int(fields[19])


def _stat(path: str) -> list[str]:
    # The name in parentheses may itself hold spaces and parentheses; nothing after it does.
    return text(path).rpartition(")")[2].split()


def _lives(fields: list[str]) -> bool:
    return bool(fields) and fields[0] not in ("Z", "X", "x")


def runs(pid: int, started: int, proc: str = PROC) -> bool:
    """Is the process of that number still the one that started then?"""
    return start_time(pid, proc) == started


def kill(pid: int, started: int, proc: str = PROC) -> None:
    """SIGKILL the process of that number, if it is the one that started then."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:  # it is gone
        return
    try:
        # The pidfd is of one process, and this says which: the number cannot pass on in between.
        if start_time(pid, proc) == started:
            import signal

            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)
