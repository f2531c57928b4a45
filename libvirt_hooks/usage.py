# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does this host use the disks of a controller? A Snapshot in, reasons out. Pure.

What stands on a disk is followed upwards through partitions, holders and loop devices, the
uppermost first: that is also the order in which a person has to take it down. Sources: kernel
block/holder.c (holders), block/bdev.c (bd_may_claim: what O_EXCL is refused for), v6.1.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from . import remedies
from .bdf import Bdf
from .snapshot import Backing, Block, Controller, Mount, Node, Snapshot, printable

KINDS = ("root", "mount", "swap", "holder", "bcache", "loop", "export", "open", "claimed")
"""Every kind of reason, in the order in which a person would want to hear of them."""

PASSING = frozenset({"open", "claimed"})
"""Those that a program may make of a disk for a moment."""
PATIENCE = 3
"""How often such a use is looked at before it is believed."""
PAUSE = 0.3
"""Seconds between two looks: a udev worker probes a disk in some 10 ms."""

MOST_LISTED = 8
MOST_CHARACTERS = 200
_MOST_OF_ONE = 150  # a mount point can have 4,096
_OTHER_DISK = "it is the disk that this host runs from: give the guest another one"

_Reason = tuple[str, str, str]  # kind, object, remedy


class Use(NamedTuple):
    """One reason why a disk may not go to a guest; prints as ``mount@nvme0n1p2:/home``."""

    kind: str
    object: str
    remedy: str = ""
    """A command, or in words what to do; in the imperative."""
    step: int = 0
    """When to do that among the uses of one controller: what stands on others goes first."""

    def __str__(self) -> str:
        return f"{self.kind}@{self.object}"


def uses(snapshot: Snapshot, bdf: Bdf, claimed: Collection[str] | None = None) -> tuple[Use, ...]:
    """Tell what the host does with the disks of a controller; empty: nothing, it is free.

    :param claimed: the disks, and partitions of them, that could not be opened with O_EXCL;
        reported where nothing else explains it. None: nobody tried.
    :raises KeyError: the controller is not in the snapshot.
    """
    controllers = {each.bdf: each for each in snapshot.controllers}
    found: dict[tuple[str, str], Use] = {}
    for kind, what, how in _View(snapshot, controllers[bdf], claimed).reasons():
        found.setdefault(
            (kind, what), Use(kind, _cut(printable(what), _MOST_OF_ONE), how, len(found))
        )
    return tuple(sorted(found.values(), key=lambda use: (KINDS.index(use.kind), _natural(use))))


def is_root(uses: Sequence[Use]) -> bool:
    """Does the host run from it? Then no policy may give it away."""
    return any(use.kind == "root" for use in uses)


def may_pass(uses: Sequence[Use]) -> bool:
    """Could the disk be free in a moment, with nobody doing anything about it?"""
    return bool(uses) and all(use.kind in PASSING for use in uses)


def listed(uses: Sequence[Use]) -> str:
    """Name the reasons in one line, the first eight of a long list."""
    text = ", ".join(map(str, uses[:MOST_LISTED]))
    return f"{text} and {len(uses) - MOST_LISTED} more" if len(uses) > MOST_LISTED else text


def remedy(uses: Sequence[Use]) -> str:
    """Say in one sentence how to free the disk, in an order that works."""
    if is_root(uses):
        return _OTHER_DISK
    wanted = [use.remedy for use in sorted(uses, key=lambda use: use.step) if use.remedy]
    # What is wanted twice is possible only the last time: `vgchange -an` needs every volume of
    # the group unmounted.
    steps = list(dict.fromkeys(reversed(wanted)))[::-1]
    for count in range(len(steps), 0, -1):
        text = ", then ".join(steps[:count])
        text += f", and {len(steps) - count} more steps" if count < len(steps) else ""
        if len(text) <= MOST_CHARACTERS:
            return text
    return _cut(steps[0], MOST_CHARACTERS) if steps else ""


class _View:
    # The host as seen from one controller: the tower of devices on its disks, and what is on each.

    def __init__(
        self, snapshot: Snapshot, controller: Controller, claimed: Collection[str] | None
    ) -> None:
        self._snapshot = snapshot
        self._controller = controller
        self._claimed = claimed
        self._blocks = {block.name: block for block in snapshot.blocks}
        self._parents = {part: disk.name for disk in snapshot.blocks for part in disk.partitions}
        # Pid 1's first: of the same mount in several namespaces it is the one to name.
        mounts = sorted(snapshot.mounts, key=lambda mount: mount.namespace is not None)
        self._mounts = [(mount, self._devices(mount)) for mount in mounts]
        self._root = self._root_devices()
        self._loops = [(b.name, self._homes(b.backing)) for b in snapshot.blocks if b.backing]
        self._tower: dict[str, Block] = {}
        seen: set[str] = set()
        for disk in controller.disks:
            self._climb(disk, seen)

    def reasons(self) -> Iterator[_Reason]:
        held = {holder for block in self._tower.values() for holder in block.holders}
        for block in self._tower.values():
            yield from self._handles(block.number, block=True)
            yield from self._exports(block)
            yield from self._swaps(block)
            yield from self._mounted(block)
            yield from _standing(block, block.name in held)
        for node in self._controller.nodes:
            yield from self._handles(node.number, block=False)
            yield from self._passthrus(node)
        yield from self._claims()

    def _block(self, name: str) -> Block:
        # One that went while the facts were gathered is still named by what it stood on.
        return self._blocks.get(name) or Block(name, "")

    def _climb(self, name: str, seen: set[str]) -> None:
        if name in seen:
            return
        seen.add(name)
        block = self._block(name)
        loops = [loop for loop, homes in self._loops if block.number in homes]
        for upper in (*block.partitions, *block.holders, *loops):
            self._climb(upper, seen)
        self._tower[name] = block  # after all that stands on it

    def _homes(self, backing: Backing) -> frozenset[str]:
        # The devices that a path is on, by number.
        if backing.number:
            return frozenset((backing.number,))
        return self._devices(self._mount_of(backing.path))

    def _mount_of(self, path: str) -> Mount | None:
        # The longest mount point that the path is below; of two on one point the later is on top.
        below = (
            mount
            for mount in reversed(self._snapshot.mounts)
            if mount.namespace is None and f"{path}/".startswith(mount.point.rstrip("/") + "/")
        )
        return max(below, key=lambda mount: len(mount.point), default=None)

    def _devices(self, mount: Mount | None) -> frozenset[str]:
        # The devices that a file system is on, by number.
        if mount is None:
            return frozenset()
        numbers = {mount.number, mount.source_number}
        if mount.fstype == "btrfs":
            for members in self._snapshot.btrfs:
                # A source that is no node here, such as /dev/root, can be any of them. All of
                # them are in use, so a wrong guess refuses no free disk.
                if mount.source_number in members or not mount.source_number:
                    numbers.update(members)
        elif mount.fstype == "zfs":
            name = remedies.pool(mount)
            numbers.update(b.number for b in self._snapshot.blocks if self._is_member(b, name))
        return frozenset(numbers - {""})

    def _is_member(self, block: Block, pool: str) -> bool:
        if block.fs_type != "zfs_member" or block.fs_label != pool:
            return False
        # A label outlives its pool, on a clone or on a disk that was replaced; but what ZFS uses
        # it has claimed. Only the controller's own disks are ever tried for that.
        disk = self._parents.get(block.name, block.name)
        if self._claimed is None or disk not in self._controller.disks:
            return True
        return block.name in self._claimed or (
            disk in self._claimed and not self._claimed_partitions(disk)
        )

    def _claimed_partitions(self, disk: str) -> list[str]:
        return [part for part in self._block(disk).partitions if part in (self._claimed or ())]

    def _root_devices(self) -> frozenset[str]:
        # A root that is an overlay (composefs, a live system) is on what its layers are on.
        roots = [mount for mount, _ in self._mounts if _is_host_root(mount)]
        layers = [self._mount_of(layer) for root in roots for layer in root.layers]
        return frozenset().union(*(self._devices(mount) for mount in (*roots, *layers)))

    def _handles(self, number: str, block: bool) -> Iterator[_Reason]:
        for handle in self._snapshot.handles:
            if handle.number == number and handle.block == block:
                yield "open", f"{handle.path} by {handle.process}", remedies.end(handle.process)

    def _exports(self, block: Block) -> Iterator[_Reason]:
        for export in self._snapshot.exports:
            if export.namespace and block.number in self._homes(export.backing):
                where = f"{_place(block, export.backing)} ({export.subsystem} {export.namespace})"
                yield "export", where, remedies.disable(export)

    def _passthrus(self, node: Node) -> Iterator[_Reason]:
        for export in self._snapshot.exports:
            if not export.namespace and export.backing.number == node.number:
                yield "export", f"{node.name} ({export.subsystem})", remedies.disable(export)

    def _swaps(self, block: Block) -> Iterator[_Reason]:
        for swap in self._snapshot.swaps:
            if block.number in self._homes(swap):
                yield "swap", _place(block, swap), remedies.swap_off(swap.path)

    def _mounted(self, block: Block) -> Iterator[_Reason]:
        if block.number in self._root:
            yield "root", f"{block.name}:/{_named(block.dm_name)}", ""
        first: dict[str, Mount] = {}
        for mount, numbers in self._mounts:
            if block.number in numbers:
                first.setdefault(mount.point, mount)
        for point in sorted(first, reverse=True):  # a mount below another one goes before it
            mount = first[point]
            where = f"{block.name}:{point}"
            if mount.namespace is not None:
                where += f" (in the mount namespace of {mount.namespace})"
            if not _is_host_root(mount):
                yield "mount", where, remedies.unmount(mount)

    def _claims(self) -> Iterator[_Reason]:
        taken = frozenset().union(*(numbers for _, numbers in self._mounts))
        taken |= {swap.number for swap in self._snapshot.swaps if swap.number}
        for disk in self._controller.disks:
            if disk not in (self._claimed or ()):
                continue
            partitions = self._block(disk).partitions
            claimed = self._claimed_partitions(disk)
            # Who claims a disk claims all its partitions; so all of them may well mean the disk.
            whole = len(claimed) in (0, len(partitions))
            inside = list(map(self._block, partitions)) if whole else []
            for block in [self._block(disk)] if whole else map(self._block, claimed):
                around = [self._block(disk), block, *inside]
                if not any(b.holders or b.bcache or b.number in taken for b in around):
                    yield _claim([block, *inside])


def _claim(blocks: Sequence[Block]) -> _Reason:
    for block in blocks:
        if block.fs_type.endswith("_member"):
            is_pool = block.fs_type == "zfs_member" and block.fs_label
            what = f"{block.fs_type} {block.fs_label}".rstrip()
            how = remedies.export_pool(block.fs_label) if is_pool else remedies.let_go(block.name)
            return "claimed", block.name + _named(what), how
    return "claimed", blocks[0].name, remedies.let_go(blocks[0].name)


def _standing(block: Block, held: bool) -> Iterator[_Reason]:
    # What the device itself is to those below it.
    if held:
        what = block.name + _named(block.dm_name or block.md_level)
        yield "holder", what, remedies.teardown(block)
    if block.bcache:
        stopped = any(holder.startswith("bcache") for holder in block.holders)
        yield "bcache", block.name, "" if stopped else remedies.stop_bcache(block)
    if block.backing is not None:
        yield "loop", block.name + _named(block.backing.path), remedies.detach(block)


def _is_host_root(mount: Mount) -> bool:
    return mount.namespace is None and mount.point == "/"


def _place(block: Block, backing: Backing) -> str:
    return block.name if backing.number else f"{block.name}:{backing.path}"


def _named(what: str) -> str:
    return f" ({what})" if what else ""


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _natural(use: Use) -> list[str | int]:
    # p2 before p10: words and numbers take turns, so that only like is compared with like.
    parts = re.split(r"([0-9]+)", use.object)
    return [int(part) if at % 2 else part for at, part in enumerate(parts)]
