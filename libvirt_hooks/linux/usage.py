# SPDX-License-Identifier: LGPL-2.1-or-later
"""gather() takes the Snapshot that usage judges; claimed() tries what only an open can tell.

Looking changes nothing, never blocks and never fails because something went meanwhile. It calls
stat(2) only for device nodes: through /proc/PID/fd that follows the descriptor to the very inode
(proc(5)), also where the node is in a container's /dev, but on a dead NFS or FUSE it never returns.
Sources: kernel fs/proc/fd.c (proc_fd_link, seq_show), block/bdev.c (bd_may_claim), v6.1.
"""

import errno
import os
import stat
from collections.abc import Collection, Iterator

from ..bdf import Bdf
from ..errors import SysfsError
from ..snapshot import Handle, Snapshot
from . import blocks, mounts
from .blocks import SYS, UDEV
from .processes import PROC, opened, pids, process
from .reads import DEV, device, text

LOCAL = frozenset(("devtmpfs", "tmpfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"))
"""File systems that ask nobody before they answer stat(2) of an open file."""


def gather(
    bdfs: Collection[Bdf], sys: str = SYS, proc: str = PROC, dev: str = DEV, udev: str = UDEV
) -> Snapshot:
    """Look at who uses the disks of these controllers; this process is left out, no other is.

    The arguments after the first are where those trees are, for tests.
    """
    controllers = tuple(blocks.controller(bdf, sys) for bdf in bdfs)
    disks = [disk for each in controllers for disk in each.disks]
    nodes = {node.number for each in controllers for node in each.nodes}
    if not disks and not nodes:  # on vfio-pci, or without a driver
        return Snapshot(controllers)
    tower = blocks.tower([*disks, *blocks.loops(sys)], sys, dev, udev)
    numbers = {block.number for block in tower}
    namespaces = mounts.Namespaces(numbers, proc, dev)
    handles: list[Handle] = []
    unseen = 0
    for pid in pids(proc):
        namespaces.look(pid)
        try:
            handles += _handles(pid, numbers, nodes, proc, dev)
        except PermissionError:
            unseen += 1
    return Snapshot(
        controllers,
        tower,
        tuple(namespaces.mounts),
        mounts.swaps(proc, dev),
        blocks.exports(sys, dev),
        blocks.btrfs(sys),
        tuple(handles),
        unseen,
    )


def claimed(bdf: Bdf, sys: str = SYS, dev: str = DEV) -> tuple[str, ...]:
    """Name the controller's disks that O_EXCL is refused for, each with its refused partitions.

    Waits for the kernel where a disk does not answer: use it in a worker, and after gather(),
    which would see this open. With all partitions refused it may be them or the disk.

    :raises SysfsError: a disk is there and could not be tried.
    """
    found = []
    for disk in blocks.controller(bdf, sys).disks:
        if _is_claimed(disk, sys, dev):
            found.append(disk)
            for part in blocks.partitions(disk, sys):
                try:
                    found += [part] if _is_claimed(part, sys, dev) else []
                except SysfsError:  # the disk has been named; this would only have been more exact
                    continue
    return tuple(found)


def _is_claimed(name: str, sys: str, dev: str) -> bool:
    path = f"{dev}/{name}"
    try:
        if device(os.stat(path)) != text(f"{sys}/class/block/{name}/dev"):
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        if text(f"{sys}/class/block/{name}/dev"):
            number = error.errno or errno.EIO
            raise SysfsError(name, f"opening {path} with O_EXCL", number) from error
    return False


def _handles(
    pid: int, numbers: Collection[str], nodes: Collection[str], proc: str, dev: str
) -> Iterator[Handle]:
    if pid == os.getpid():
        return
    seen: set[tuple[str, str]] = set()
    known: dict[str, bool] = {}
    for descriptor, target in opened(pid, proc):
        if "/dev/" not in target or not _may_stat(pid, descriptor, target, proc, dev, known):
            continue
        try:
            status = os.stat(f"{proc}/{pid}/fd/{descriptor}")
        except OSError:  # closed meanwhile
            continue
        number, block = device(status), stat.S_ISBLK(status.st_mode)
        if number in (numbers if block else nodes) and (number, target) not in seen:
            seen.add((number, target))
            yield Handle(number, block, target, process(pid, proc))


def _may_stat(
    pid: int, descriptor: str, target: str, proc: str, dev: str, known: dict[str, bool]
) -> bool:
    if target.startswith(f"{dev}/"):
        return not target.startswith(f"{dev}/shm/")  # where everybody may mount a FUSE
    # Below the /dev of a chroot, or below somebody's ~/dev on a dead NFS: ask what it is on.
    lines = text(f"{proc}/{pid}/fdinfo/{descriptor}").split("\n")
    mount = next((line.split()[1] for line in lines if line.startswith("mnt_id:")), "")
    if mount not in known:
        lines = text(f"{proc}/{pid}/mountinfo").split("\n")
        tails = (line.partition(" - ")[2] for line in lines if line.startswith(f"{mount} "))
        known[mount] = next(tails, "").partition(" ")[0] in LOCAL
    return known[mount]
