# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshot: the frozen facts about who uses block devices on this host. Nothing but the facts.

linux.usage gathers them, usage judges them. Names are the kernel's (``nvme0n1p2``, ``dm-3``),
device numbers are text as the attribute ``dev`` prints them (``259:2``), and an empty string is
what is not there. Nothing here is escaped; printable() is for whoever prints it.
"""

from typing import NamedTuple

from .bdf import Bdf


class Process(NamedTuple):
    """A process, by number and name; prints as ``4211 (qemu)``."""

    pid: int
    comm: str

    def __str__(self) -> str:
        return f"{self.pid} ({printable(self.comm)})"


class Backing(NamedTuple):
    """What a loop device, a swap area or an export stands on."""

    path: str
    number: str = ""
    """Of the device node that *path* is; empty for a file."""


class Block(NamedTuple):
    """A block device."""

    name: str
    number: str
    partitions: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    dm_name: str = ""
    dm_kind: str = ""
    """What its dm uuid begins with: ``LVM``, ``CRYPT``, ``mpath``, ``part1``."""
    md_level: str = ""
    bcache: str = ""
    """``backing`` or ``cache`` where bcache has it."""
    fs_type: str = ""
    """udev's ID_FS_TYPE: what is on the disk, used or not. So with the label."""
    fs_label: str = ""
    backing: Backing | None = None
    """Of a loop device in use."""


class Mount(NamedTuple):
    """One line of a mountinfo (proc(5)), its escapes decoded."""

    number: str
    """Of the file system; major 0 where that is no single block device (btrfs, zfs, overlay)."""
    point: str
    fstype: str
    source: str = ""
    source_number: str = ""
    """Of the device node that the source is, for file systems whose own number says nothing."""
    layers: tuple[str, ...] = ()
    """The directories that an overlay is made of."""
    namespace: Process | None = None
    """Somebody in the mount namespace that it is in; None: that of pid 1."""


class Export(NamedTuple):
    """An enabled namespace of the kernel's NVMe target, or the passthru of a whole controller."""

    subsystem: str
    namespace: str
    """Its number; empty for a passthru, whose backing is a character node."""
    backing: Backing


class Handle(NamedTuple):
    """An open file descriptor of a device node."""

    number: str
    block: bool
    """Else it is a character device."""
    path: str
    process: Process


class Node(NamedTuple):
    """A character device of a controller: ``nvme0``, ``ng0n1``."""

    name: str
    number: str


class Controller(NamedTuple):
    """What the host's NVMe driver shows of a PCI function; empty without that driver."""

    bdf: Bdf
    disks: tuple[str, ...] = ()
    """The disks that can be opened: with nvme multipath those of the subsystem."""
    nodes: tuple[Node, ...] = ()


class Snapshot(NamedTuple):
    """What was found on the host at one time."""

    controllers: tuple[Controller, ...]
    blocks: tuple[Block, ...] = ()
    """At least everything that stands on the controllers' disks, and every loop device in use."""
    mounts: tuple[Mount, ...] = ()
    """All of pid 1's namespace, in its order; of the others at least what is on *blocks*."""
    swaps: tuple[Backing, ...] = ()
    exports: tuple[Export, ...] = ()
    btrfs: tuple[tuple[str, ...], ...] = ()
    """Device numbers of the members of each btrfs that is mounted somewhere."""
    handles: tuple[Handle, ...] = ()
    unseen: int = 0
    """Processes whose descriptors could not be read, by the will of AppArmor or SELinux."""


def printable(text: str) -> str:
    r"""Make what comes from the system fit for a log line: a newline becomes ``\x0a``."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8 (PEP 383)
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
