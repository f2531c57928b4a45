# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the host does with a disk, one line a case."""

import pytest

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.snapshot import (
    Backing,
    Block,
    Controller,
    Export,
    Handle,
    Mount,
    Process,
    Snapshot,
)
from libvirt_hooks.usage import is_root, remedy, uses

from .hosts import BDF, CONTAINER, DISK, HOST, LOOP, NODES, P1, P2, QEMU, ZFS, held, host, lvm, said

OTHER = Bdf.parse("0000:04:00.0")

LUKS = (
    held(P2, "dm-0"),
    Block("dm-0", "253:0", holders=("dm-1",), dm_name="crypt", dm_kind="CRYPT"),
    lvm("dm-1", "253:1", "vg0-root"),
)
MD = (
    held(P1, "md0"),
    held(P2, "md0"),
    Block("md0", "9:0", partitions=("md0p1",), md_level="raid1"),
    Block("md0p1", "259:9", holders=("dm-3", "dm-4")),
    lvm("dm-3", "253:3", "vg0-srv"),
    lvm("dm-4", "253:4", "vg0-swap"),
)


@pytest.mark.parametrize(
    "snapshot",
    [
        pytest.param(host(), id="partitions and a file system that nobody uses"),
        pytest.param(host(P2._replace(fs_type="LVM2_member")), id="a group that is not active"),
        pytest.param(host(ZFS), id="a pool that is not imported"),
        pytest.param(host(Mount("0:50", "/s", "zfs", "tank2/s"), ZFS), id="another pool is"),
        pytest.param(host(Mount("259:7", "/x", "ext4", "/dev/nvme1n1")), id="another disk"),
        pytest.param(host(Handle("259:2", False, "/dev/x", QEMU)), id="a tty of that number"),
        pytest.param(host(Handle("241:0", True, "/dev/x", QEMU)), id="a disk of a node's number"),
        pytest.param(host(LOOP), id="a loop on another file system"),
        pytest.param(
            host(Export("x", "1", Backing("/dev/x", "241:0"))), id="an exported disk of that number"
        ),
        pytest.param(host(Backing("/swapfile")), id="a swap file on another file system"),
        pytest.param(host(btrfs=("259:2", "8:3")), id="a btrfs that no mount leads to"),
        pytest.param(host(Backing(""), held(DISK)), id="nothing has no number"),
        pytest.param(Snapshot((Controller(BDF),), mounts=HOST), id="a controller without a disk"),
    ],
)
def test_free(snapshot: Snapshot) -> None:
    assert uses(snapshot, BDF) == ()
    assert uses(snapshot, BDF, ()) == ()


@pytest.mark.parametrize(
    ("snapshot", "reasons", "how"),
    [
        pytest.param(
            host(Mount("259:2", "/home", "ext4", "/dev/nvme0n1p2")),
            ["mount@nvme0n1p2:/home"],
            "umount /home",
            id="mounted",
        ),
        pytest.param(
            host(Mount("259:0", "/a", "xfs", "/dev/nvme0n1"), Mount("259:0", "/a/b", "xfs")),
            ["mount@nvme0n1:/a", "mount@nvme0n1:/a/b"],
            "umount /a/b, then umount /a",
            id="the whole disk mounted, and bound into itself",
        ),
        pytest.param(
            host(
                Mount("0:40", "/pool", "btrfs", "/dev/sdb", source_number="8:16"),
                btrfs=("8:16", "259:2"),
            ),
            ["mount@nvme0n1p2:/pool"],
            "umount /pool",
            id="second member of a btrfs",
        ),
        pytest.param(
            host(Mount("0:40", "/pool", "btrfs", "/dev/root"), btrfs=("8:16", "259:2")),
            ["mount@nvme0n1p2:/pool"],
            "umount /pool",
            id="a btrfs whose source is no node",
        ),
        pytest.param(
            host(*MD, Mount("253:3", "/srv", "ext4"), Backing("/dev/dm-4", "253:4")),
            [
                "mount@dm-3:/srv",
                "swap@dm-4",
                "holder@dm-3 (vg0-srv)",
                "holder@dm-4 (vg0-swap)",
                "holder@md0 (raid1)",
            ],
            "umount /srv, then swapoff /dev/dm-4, then vgchange -an vg0, "
            "then mdadm --stop /dev/md0",
            id="LVM on a partition of an md",
        ),
        pytest.param(
            host(*LUKS),
            ["holder@dm-0 (crypt)", "holder@dm-1 (vg0-root)"],
            "vgchange -an vg0, then cryptsetup close crypt",
            id="LVM on LUKS, nothing mounted",
        ),
        pytest.param(
            host(held(DISK, "dm-7"), Block("dm-7", "253:7", dm_name="mpatha", dm_kind="mpath")),
            ["holder@dm-7 (mpatha)"],
            "multipath -f mpatha",
            id="dm multipath",
        ),
        pytest.param(
            host(held(P2, "dm-7"), Block("dm-7", "253:7", dm_name="odd one")),
            ["holder@dm-7 (odd one)"],
            "dmsetup remove 'odd one'",
            id="some other dm",
        ),
        pytest.param(
            host(held(P2, "md127", "drbd1"), Block("md127", "9:127"), Block("drbd1", "147:1")),
            ["holder@drbd1", "holder@md127"],
            "mdadm --stop /dev/md127, then stop drbd1",
            id="holders with nothing more to tell",
        ),
        pytest.param(
            host(held(P2, "dm-9")), ["holder@dm-9"], "stop dm-9", id="a holder that went meanwhile"
        ),
        pytest.param(
            host(
                Mount("0:50", "/tank/a", "zfs", "tank/a"), Mount("0:51", "/t", "zfs", "tank"), ZFS
            ),
            ["mount@nvme0n1p2:/t", "mount@nvme0n1p2:/tank/a"],
            "zpool export tank",
            id="zfs goes with its pool",
        ),
        pytest.param(
            host(Mount("259:2", "/data", "ext4", namespace=CONTAINER)),
            ["mount@nvme0n1p2:/data (in the mount namespace of 812 (containerd))"],
            "nsenter -t 812 -m umount /data",
            id="mounted in another namespace only",
        ),
        pytest.param(
            host(Mount("259:2", "/", "ext4", namespace=CONTAINER), *HOST),
            ["mount@nvme0n1p2:/ (in the mount namespace of 812 (containerd))"],
            "end process 812 (containerd)",
            id="the root of a container is not the host's",
        ),
        pytest.param(
            host(
                Mount("259:2", "/data", "ext4", namespace=CONTAINER),
                Mount("259:2", "/data", "ext4"),
                Mount("259:2", "/data", "ext4", namespace=QEMU),
            ),
            ["mount@nvme0n1p2:/data"],
            "umount /data",
            id="one mount in many namespaces is one reason, and the host's",
        ),
        pytest.param(
            host(Backing("/dev/nvme0n1p2", "259:2")),
            ["swap@nvme0n1p2"],
            "swapoff /dev/nvme0n1p2",
            id="swap",
        ),
        pytest.param(
            host(Mount("259:2", "/data", "ext4"), Backing("/data/swap")),
            ["mount@nvme0n1p2:/data", "swap@nvme0n1p2:/data/swap"],
            "swapoff /data/swap, then umount /data",
            id="a swap file",
        ),
        pytest.param(
            host(LOOP._replace(backing=Backing("/dev/nvme0n1p2", "259:2"))),
            ["loop@loop0 (/dev/nvme0n1p2)"],
            "losetup -d /dev/loop0",
            id="a loop on a partition",
        ),
        pytest.param(
            host(Mount("259:2", "/data", "ext4"), LOOP, Mount("7:0", "/mnt", "iso9660")),
            ["mount@loop0:/mnt", "mount@nvme0n1p2:/data", "loop@loop0 (/data/x.img)"],
            "umount /mnt, then losetup -d /dev/loop0, then umount /data",
            id="a loop on a file",
        ),
        pytest.param(
            host(Mount("259:2", "/data", "ext4"), LOOP, *HOST),
            ["mount@nvme0n1p2:/data", "loop@loop0 (/data/x.img)"],
            "losetup -d /dev/loop0, then umount /data",
            id="a file is on the longest mount point above it",
        ),
        pytest.param(
            host(Mount("259:2", "/dat", "ext4"), LOOP),
            ["mount@nvme0n1p2:/dat"],
            "umount /dat",
            id="which ends where a name does",
        ),
        pytest.param(
            host(Mount("259:2", "/data", "ext4", namespace=CONTAINER), LOOP),
            ["mount@nvme0n1p2:/data (in the mount namespace of 812 (containerd))"],
            "nsenter -t 812 -m umount /data",
            id="and is in the host's namespace",
        ),
        pytest.param(
            host(Mount("259:2", "/data", "ext4"), Mount("8:2", "/data", "ext4"), LOOP),
            ["mount@nvme0n1p2:/data"],
            "umount /data",
            id="a file on what was mounted over it",
        ),
        pytest.param(
            host(Export("nqn.x", "1", Backing("/dev/disk/by-id/x", "259:0"))),
            ["export@nvme0n1 (nqn.x 1)"],
            "echo 0 > /sys/kernel/config/nvmet/subsystems/nqn.x/namespaces/1/enable",
            id="nvmet namespace",
        ),
        pytest.param(
            host(Export("nqn.x", "", Backing("/dev/nvme0", "241:0"))),
            ["export@nvme0 (nqn.x)"],
            "echo 0 > /sys/kernel/config/nvmet/subsystems/nqn.x/passthru/enable",
            id="nvmet passthru",
        ),
        pytest.param(
            host(P2._replace(bcache="backing")),
            ["bcache@nvme0n1p2"],
            "echo 1 > /sys/class/block/nvme0n1p2/bcache/stop",
            id="bcache, backing device",
        ),
        pytest.param(
            host(P2._replace(bcache="cache")),
            ["bcache@nvme0n1p2"],
            "echo 1 > /sys/class/block/nvme0n1p2/bcache/set/unregister",
            id="bcache, cache",
        ),
        pytest.param(
            host(
                P2._replace(bcache="backing", holders=("bcache0",)),
                Block("bcache0", "252:0"),
                Mount("252:0", "/b", "ext4"),
            ),
            ["mount@bcache0:/b", "holder@bcache0", "bcache@nvme0n1p2"],
            "umount /b, then echo 1 > /sys/class/block/bcache0/bcache/stop",
            id="bcache in use",
        ),
        pytest.param(
            host(
                Handle("259:2", True, "/dev/nvme0n1p2", QEMU),
                Handle("242:0", False, "/dev/ng0n1", Process(7, "fio")),
                Handle("241:0", False, "/dev/nvme0", Process(99, "nvme")),
            ),
            [
                "open@/dev/ng0n1 by 7 (fio)",
                "open@/dev/nvme0 by 99 (nvme)",
                "open@/dev/nvme0n1p2 by 4211 (qemu)",
            ],
            "end process 4211 (qemu), then end process 99 (nvme), then end process 7 (fio)",
            id="open: block, generic and controller node",
        ),
        pytest.param(
            host(
                Mount("259:1", "/a", "ext4"),
                Mount("259:1", "/a10", "ext4"),
                Mount("259:1", "/a2", "ext4"),
            ),
            ["mount@nvme0n1p1:/a", "mount@nvme0n1p1:/a2", "mount@nvme0n1p1:/a10"],
            "umount /a2, then umount /a10, then umount /a",
            id="numbers are sorted as numbers",
        ),
    ],
)
def test_used(snapshot: Snapshot, reasons: list[str], how: str) -> None:
    assert said(snapshot) == reasons
    assert remedy(uses(snapshot, BDF)) == how
    assert not is_root(uses(snapshot, BDF))


@pytest.mark.parametrize(
    ("snapshot", "reason"),
    [
        pytest.param(host(Mount("259:2", "/", "ext4")), "root@nvme0n1p2:/", id="a partition"),
        pytest.param(
            host(*LUKS, Mount("253:1", "/", "ext4")),
            "root@dm-1:/ (vg0-root)",
            id="through LVM on LUKS",
        ),
        pytest.param(
            host(Mount("0:40", "/", "btrfs", "/dev/sdb", "8:16"), btrfs=("8:16", "259:2")),
            "root@nvme0n1p2:/",
            id="second member of a btrfs",
        ),
        pytest.param(
            host(Mount("0:40", "/", "btrfs", "/dev/root"), btrfs=("259:2",)),
            "root@nvme0n1p2:/",
            id="btrfs on /dev/root",
        ),
        pytest.param(
            host(Mount("0:50", "/", "zfs", "tank/ROOT/debian"), ZFS), "root@nvme0n1p2:/", id="zfs"
        ),
        pytest.param(
            host(
                Mount("0:60", "/", "overlay", "composefs", layers=("/run/x", "/sysroot/objects")),
                Mount("259:2", "/sysroot", "xfs"),
            ),
            "root@nvme0n1p2:/",
            id="an overlay",
        ),
        pytest.param(
            host(
                Mount("0:60", "/", "overlay", "overlay", layers=("/lower",)),
                Mount("7:0", "/lower", "squashfs"),
                Mount("259:2", "/data", "ext4"),
                LOOP,
            ),
            "root@loop0:/",
            id="an overlay on a loop on a file: a live system",
        ),
        pytest.param(
            host(Mount("0:2", "/", "rootfs"), Mount("259:2", "/", "ext4")),
            "root@nvme0n1p2:/",
            id="mounted over an initial root",
        ),
    ],
)
def test_the_root_disk_stays(snapshot: Snapshot, reason: str) -> None:
    found = uses(snapshot, BDF)
    assert str(found[0]) == reason
    assert is_root(found)
    assert remedy(found) == "it is the disk that this host runs from: give the guest another one"


def test_root_is_told_once_and_beside_the_rest() -> None:
    snapshot = host(*LUKS, Mount("253:1", "/", "ext4"), Mount("259:1", "/boot", "ext4"))
    assert said(snapshot) == [
        "root@dm-1:/ (vg0-root)",
        "mount@nvme0n1p1:/boot",
        "holder@dm-0 (crypt)",
        "holder@dm-1 (vg0-root)",
    ]


MULTIPATH = Snapshot(
    controllers=(Controller(BDF, ("nvme0n1",), NODES), Controller(OTHER, ("nvme0n1",))),
    blocks=(Block("nvme0n1", "259:0"),),
    mounts=(*HOST, Mount("259:0", "/data", "ext4")),
)


@pytest.mark.parametrize("bdf", [BDF, OTHER])
def test_the_disk_of_a_subsystem_is_in_use_by_every_path(bdf: Bdf) -> None:
    assert [str(use) for use in uses(MULTIPATH, bdf)] == ["mount@nvme0n1:/data"]


def test_a_controller_that_nobody_looked_at_is_not_free() -> None:
    with pytest.raises(KeyError):
        uses(host(), OTHER)


ALL = ("nvme0n1", "nvme0n1p1", "nvme0n1p2")


@pytest.mark.parametrize(
    ("snapshot", "claimed", "reasons"),
    [
        pytest.param(host(), ("nvme0n1",), ["claimed@nvme0n1"], id="by nobody knows whom"),
        pytest.param(host(), ALL, ["claimed@nvme0n1"], id="the disk, or every partition"),
        pytest.param(host(), ALL[:2], ["claimed@nvme0n1p1"], id="a partition"),
        pytest.param(host(), ("nvme0n1p1", "nvme7n1"), [], id="only disks of the controller count"),
        pytest.param(host(ZFS), ALL[:1], ["claimed@nvme0n1p2 (zfs_member tank)"], id="a pool"),
        pytest.param(
            host(ZFS), ALL[:2], ["claimed@nvme0n1p1"], id="a pool, but not that partition"
        ),
        pytest.param(
            host(DISK._replace(fs_type="ddf_raid_member")),
            ALL[:1],
            ["claimed@nvme0n1 (ddf_raid_member)"],
            id="a member without a label",
        ),
        pytest.param(
            host(Mount("259:1", "/a", "ext4")),
            ("nvme0n1",),
            ["mount@nvme0n1p1:/a"],
            id="explained by a mount",
        ),
        pytest.param(
            host(Mount("259:1", "/a", "ext4")),
            ("nvme0n1", "nvme0n1p2"),
            ["mount@nvme0n1p1:/a", "claimed@nvme0n1p2"],
            id="not explained by the mount of another partition",
        ),
        pytest.param(
            host(Backing("/dev/nvme0n1p2", "259:2")),
            ALL[:1],
            ["swap@nvme0n1p2"],
            id="explained by swap",
        ),
        pytest.param(host(held(P2, "dm-9")), ALL[:1], ["holder@dm-9"], id="explained by a holder"),
        pytest.param(
            host(held(DISK, "dm-9")), ALL, ["holder@dm-9"], id="explained by a holder of the disk"
        ),
        pytest.param(
            host(held(DISK, "dm-9")), ALL[:2], ["holder@dm-9"], id="also if one was not tried"
        ),
        pytest.param(
            host(P2._replace(bcache="cache")), ALL[:1], ["bcache@nvme0n1p2"], id="by bcache"
        ),
        pytest.param(
            host(Mount("259:2", "/", "ext4")), ALL[:1], ["root@nvme0n1p2:/"], id="by the root"
        ),
        pytest.param(
            host(Handle("259:0", True, "/dev/nvme0n1", QEMU)),
            ("nvme0n1",),
            ["open@/dev/nvme0n1 by 4211 (qemu)", "claimed@nvme0n1"],
            id="not explained by a handle: it claims nothing",
        ),
        pytest.param(
            host(P2._replace(number=""), Backing("/swapfile")),
            ALL[:1],
            ["claimed@nvme0n1"],
            id="not explained by a file's lack of a number",
        ),
    ],
)
def test_claimed(snapshot: Snapshot, claimed: tuple[str, ...], reasons: list[str]) -> None:
    assert said(snapshot, claimed) == reasons


@pytest.mark.parametrize(
    ("claimed", "in_use"),
    [
        pytest.param(None, True, id="nobody tried: the label counts"),
        pytest.param(("nvme0n1",), True, id="the disk is claimed"),
        pytest.param(("nvme0n1", "nvme0n1p2"), True, id="the partition is"),
        pytest.param(("nvme0n1", "nvme0n1p1"), False, id="only another partition is"),
        pytest.param((), False, id="nothing is: what is left of a disk that was replaced"),
    ],
)
def test_a_label_alone_makes_no_member(claimed: tuple[str, ...] | None, in_use: bool) -> None:
    snapshot = host(Mount("0:50", "/", "zfs", "tank/ROOT"), ZFS)
    assert is_root(uses(snapshot, BDF, claimed)) == in_use


def test_a_pool_on_luks_is_known_by_its_label() -> None:
    crypt = Block("dm-0", "253:0", dm_name="c", dm_kind="CRYPT")
    member = crypt._replace(fs_type="zfs_member", fs_label="tank")
    snapshot = host(held(P2, "dm-0"), member, Mount("0:50", "/", "zfs", "tank/ROOT"))
    assert said(snapshot, ("nvme0n1",)) == ["root@dm-0:/ (c)", "holder@dm-0 (c)"]


def test_the_remedy_of_a_claimed_pool_is_to_export_it() -> None:
    assert remedy(uses(host(ZFS), BDF, ALL[:1])) == "zpool export tank"
    assert remedy(uses(host(), BDF, ALL[:1])) == "end what holds /dev/nvme0n1 exclusively"


def test_a_ring_of_holders_ends() -> None:
    ring = (Block("dm-0", "253:0", holders=("dm-1",)), Block("dm-1", "253:1", holders=("dm-0",)))
    assert said(host(held(P2, "dm-0"), *ring)) == ["holder@dm-0", "holder@dm-1"]


def test_what_is_seen_twice_is_told_once() -> None:
    handle = Handle("259:2", True, "/dev/nvme0n1p2", QEMU)
    assert said(host(handle, handle)) == ["open@/dev/nvme0n1p2 by 4211 (qemu)"]


def test_a_diamond_of_holders_is_taken_down_from_its_top() -> None:
    snapshot = host(
        held(P1, "dm-0", "dm-1"),
        held(P2, "dm-1"),
        Block("dm-0", "253:0", holders=("dm-2",), dm_name="a"),
        Block("dm-1", "253:1", holders=("dm-2",), dm_name="b"),
        Block("dm-2", "253:2", dm_name="c"),
    )
    assert remedy(uses(snapshot, BDF)) == (
        "dmsetup remove c, then dmsetup remove a, then dmsetup remove b"
    )
