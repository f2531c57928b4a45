# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots to judge: a host with one NVMe of two partitions, and changes to it."""

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.snapshot import (
    Backing,
    Block,
    Controller,
    Export,
    Handle,
    Mount,
    Node,
    Process,
    Snapshot,
)
from libvirt_hooks.usage import uses

BDF = Bdf.parse("0000:03:00.0")

DISK = Block("nvme0n1", "259:0", partitions=("nvme0n1p1", "nvme0n1p2"))
P1 = Block("nvme0n1p1", "259:1", fs_type="vfat")
P2 = Block("nvme0n1p2", "259:2", fs_type="ext4", fs_label="data")
NODES = (Node("nvme0", "241:0"), Node("ng0n1", "242:0"))
QEMU = Process(4211, "qemu")
CONTAINER = Process(812, "containerd")
HOST = (  # what a host has mounted that runs from another disk
    Mount("8:1", "/", "ext4", "/dev/sda1"),
    Mount("0:6", "/dev", "devtmpfs", "udev"),
    Mount("0:21", "/proc", "proc", "proc"),
)


def host(
    *facts: Block | Mount | Handle | Export | Backing, btrfs: tuple[str, ...] = ()
) -> Snapshot:
    """A host with one NVMe; of blocks with one name the last counts, a Backing is a swap area."""
    blocks = {b.name: b for b in (DISK, P1, P2, *(f for f in facts if isinstance(f, Block)))}
    mounts = tuple(fact for fact in facts if isinstance(fact, Mount))
    return Snapshot(
        controllers=(Controller(BDF, ("nvme0n1",), NODES),),
        blocks=tuple(blocks.values()),
        mounts=mounts if any(mount.point == "/" for mount in mounts) else HOST + mounts,
        swaps=tuple(fact for fact in facts if isinstance(fact, Backing)),
        exports=tuple(fact for fact in facts if isinstance(fact, Export)),
        btrfs=(btrfs,) if btrfs else (),
        handles=tuple(fact for fact in facts if isinstance(fact, Handle)),
    )


def said(snapshot: Snapshot, claimed: tuple[str, ...] | None = None) -> list[str]:
    return [str(use) for use in uses(snapshot, BDF, claimed)]


def lvm(name: str, number: str, dm_name: str) -> Block:
    return Block(name, number, dm_name=dm_name, dm_kind="LVM")


def held(block: Block, *holders: str) -> Block:
    return block._replace(holders=holders)


ZFS = P2._replace(fs_type="zfs_member", fs_label="tank")
LOOP = Block("loop0", "7:0", backing=Backing("/data/x.img"))
