# SPDX-License-Identifier: LGPL-2.1-or-later
"""Facts about disks, gathered from a tree of our own."""

import errno
import os
import stat
from pathlib import Path

import pytest

from libvirt_hooks.errors import SysfsError
from libvirt_hooks.snapshot import Backing, Controller, Export, Handle, Node, Process
from libvirt_hooks.usage import uses

from .trees import NVME, OTHER, ROOT_MOUNT, Tree, machine, multipath


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return machine(tmp_path)


def said(tree: Tree, claimed: tuple[str, ...] | None = None) -> list[str]:
    return [str(use) for use in uses(tree.gather(), NVME, claimed)]


def mount(number: str, point: str, tail: str, identity: int = 40) -> str:
    return f"{identity} 25 {number} / {point} rw,relatime shared:7 master:2 - {tail}"


def test_a_disk_that_nobody_uses(tree: Tree) -> None:
    snapshot = tree.gather()
    nodes = (Node("nvme0", "241:0"), Node("ng0n1", "242:0"))
    assert snapshot.controllers == (Controller(NVME, ("nvme0n1",), nodes),)
    assert [(block.name, block.number, block.partitions) for block in snapshot.blocks] == [
        ("nvme0n1", "259:0", ("nvme0n1p1", "nvme0n1p2")),
        ("nvme0n1p1", "259:1", ()),
        ("nvme0n1p2", "259:2", ()),
    ]
    assert said(tree) == []


def test_without_the_host_driver_there_is_nothing_to_look_for(tree: Tree) -> None:
    tree.write(f"sys/devices/pci0000:00/{OTHER}/class", "0x010802\n")
    snapshot = tree.gather(OTHER)
    assert snapshot.controllers == (Controller(OTHER),)
    assert snapshot.mounts == ()
    assert uses(snapshot, OTHER) == ()


def test_the_disk_of_a_path_hangs_under_the_subsystem(tmp_path: Path) -> None:
    tree = multipath(tmp_path)
    tree.write("sys/class/nvme-subsystem/nvme-subsys1/nvme3n1/dev", "259:0\n")
    tree.process(7, "fio", "/dev/nvme3n1", "/dev/ng3n1", "/dev/nvme1", "/dev/nvme3n2")
    snapshot = tree.gather(NVME, OTHER)
    assert snapshot.controllers == (
        Controller(NVME, ("nvme3n1",), (Node("nvme0", "241:0"), Node("ng3n1", "242:0"))),
        Controller(OTHER, ("nvme3n1",), (Node("nvme1", "241:1"), Node("ng3n1", "242:0"))),
    )
    dev = tree.dev
    assert [str(use) for use in uses(snapshot, NVME)] == [
        f"open@{dev}/ng3n1 by 7 (fio)", f"open@{dev}/nvme3n1 by 7 (fio)",
    ]  # fmt: skip
    assert f"open@{dev}/nvme1 by 7 (fio)" in map(str, uses(snapshot, OTHER))


def test_a_path_whose_disk_is_not_there_yet(tmp_path: Path) -> None:
    tree = machine(tmp_path)
    tree.write(f"sys/devices/pci0000:00/{NVME}/nvme/nvme0/nvme3c0n7/hidden", "1\n")
    tree.link("sys/class/nvme-subsystem/nvme-subsys3/nvme0", "elsewhere")
    assert tree.gather().controllers[0].disks == ("nvme0n1",)


def test_a_stack_is_followed(tree: Tree) -> None:
    tree.block("md0", "9:0")
    tree.write("sys/class/block/md0/md/level", "raid1\n")
    tree.partition("md0", 1, "259:9")
    tree.block("dm-3", "253:3")
    tree.write("sys/class/block/dm-3/dm/name", "vg0-srv\n")
    tree.write("sys/class/block/dm-3/dm/uuid", "LVM-AbCd\n")
    tree.hold("nvme0n1p2", "md0")
    tree.hold("md0p1", "dm-3")
    tree.write("proc/1/mountinfo", mount("253:3", "/srv", "ext4 /dev/dm-3 rw"))
    tree.process(9, "qemu", "/dev/dm-3")
    assert said(tree) == [
        "mount@dm-3:/srv",
        "holder@dm-3 (vg0-srv)",
        "holder@md0 (raid1)",
        f"open@{tree.dev}/dm-3 by 9 (qemu)",
    ]
    assert {(block.name, block.dm_kind) for block in tree.gather().blocks} >= {("dm-3", "LVM")}


def test_a_ring_of_holders_ends(tree: Tree) -> None:
    tree.block("dm-0", "253:0")
    for lower, upper in (("nvme0n1", "dm-0"), ("dm-0", "dm-0")):
        tree.hold(lower, upper)
    assert said(tree) == ["holder@dm-0"]


def test_a_volume_stops_before_the_container_that_it_is_in(tree: Tree) -> None:
    for name, number, version in (
        ("md125", "9:125", "external:imsm"),
        ("md126", "9:126", "external:/md125/0"),
        ("md127", "9:127", "1.2"),
    ):
        tree.block(name, number)
        tree.write(f"sys/class/block/{name}/md/metadata_version", f"{version}\n")
        tree.hold("nvme0n1", name)
    steps = sorted(uses(tree.gather(), NVME), key=lambda use: use.step)
    assert [use.object for use in steps] == ["md126", "md125", "md127"]


@pytest.mark.parametrize(
    ("entries", "kind"),
    [(("set", "discard"), "cache"), (("stop", "state"), "backing"), ((), "")],
)
def test_bcache(tree: Tree, entries: tuple[str, ...], kind: str) -> None:
    for entry in entries:
        tree.write(f"sys/class/block/nvme0n1p2/bcache/{entry}")
    tree.block("bcache0", "252:0")
    tree.write("sys/class/block/bcache0/bcache/stop")
    tree.hold("nvme0n1p2", "bcache0")
    found = {block.name: block.bcache for block in tree.gather().blocks}
    assert (found["nvme0n1p2"], found["bcache0"]) == (kind, "")


def test_members_by_what_udev_knows(tree: Tree) -> None:
    tree.udev("259:2", ID_FS_TYPE="zfs_member", ID_FS_LABEL="tank=1", ID_PART="x")
    tree.write("proc/1/mountinfo", mount("0:50", "/tank", "zfs tank=1/a rw"))
    assert said(tree) == ["mount@nvme0n1p2:/tank"]
    assert said(tree, ("nvme0n1", "nvme0n1p2")) == ["mount@nvme0n1p2:/tank"]
    assert said(tree, ()) == []


def test_the_second_member_of_a_btrfs(tree: Tree) -> None:
    tree.block("sdb", "8:16")
    for name in ("sdb", "nvme0n1p2"):
        tree.link(f"sys/fs/btrfs/8a1c/devices/{name}", f"../../../../class/block/{name}")
    tree.write("sys/fs/btrfs/features/raid56", "0\n")
    tree.write("proc/1/mountinfo", mount("0:40", "/", "btrfs /dev/sdb rw,subvol=/@"))
    assert tree.gather().btrfs == (("259:2", "8:16"),)
    assert said(tree) == ["root@nvme0n1p2:/"]


@pytest.mark.parametrize(
    ("backing", "expected"),
    [
        pytest.param("/dev/nvme0n1p2", Backing("/dev/nvme0n1p2", "259:2"), id="a partition"),
        pytest.param("/data/x.img (deleted)", Backing("/data/x.img"), id="a file that is gone"),
        pytest.param("/dev/shm/nvme0n1", Backing("/dev/shm/nvme0n1"), id="anybody's link"),
        pytest.param("/dev/../dev/nvme0n1", Backing("/dev/../dev/nvme0n1"), id="out of /dev"),
    ],
)
def test_loops(tree: Tree, backing: str, expected: Backing) -> None:
    tree.node("shm/nvme0n1", "259:0")
    tree.block("loop0", "7:0")
    tree.block("loop1", "7:1")  # not in use
    tree.write("sys/class/block/loop0/loop/backing_file", f"{backing}\n")
    loops = [block for block in tree.gather().blocks if block.name.startswith("loop")]
    assert [(loop.name, loop.backing) for loop in loops] == [("loop0", expected)]


def test_swaps(tree: Tree) -> None:
    tree.write(
        "proc/swaps",
        "Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n"
        "/dev/nvme0n1p2                          partition\t9\t0\t-2\n"
        "/data/a\\040b\x0bc\\134 file\t\t9\t0\t-3\n",
    )
    tree.write("proc/1/mountinfo", mount("259:1", "/data", "ext4 /dev/nvme0n1p1 rw"))
    assert tree.gather().swaps == (Backing("/dev/nvme0n1p2", "259:2"), Backing("/data/a b\x0bc\\"))
    assert said(tree)[1:] == [
        "swap@nvme0n1p1:/data/a b\\x0bc\\", "swap@nvme0n1p2",
    ]  # fmt: skip


def test_only_enabled_exports_count(tree: Tree) -> None:
    nvmet = "sys/kernel/config/nvmet/subsystems/nqn.x"
    for place, enable, path in (
        ("namespaces/1", "1", "/dev/nvme0n1"),
        ("namespaces/2", "0", "/dev/nvme0n1p2"),
        ("passthru", "1", "/dev/nvme0"),
    ):
        tree.write(f"{nvmet}/{place}/enable", f"{enable}\n")
        tree.write(f"{nvmet}/{place}/device_path", f"{path}\n")
    assert tree.gather().exports == (
        Export("nqn.x", "1", Backing("/dev/nvme0n1", "259:0")),
        Export("nqn.x", "", Backing("/dev/nvme0", "241:0")),
    )


def test_handles(tree: Tree) -> None:
    tree.node("null", "1:3", stat.S_IFCHR)
    tree.node("tty", "259:0", stat.S_IFCHR)
    tree.node("shm/disk", "259:0")
    tree.write("dev/file")
    everything = ("nvme0n1", "nvme0n1", "nvme0", "ng0n1", "null", "tty", "shm/disk", "file", "gone")
    tree.process(42, "a b", "socket:[1]", "pipe:[2]", *(f"/dev/{name}" for name in everything))
    who = Process(42, "a b")
    handles = tree.gather().handles
    assert sorted(handles, key=lambda handle: handle.path) == [
        Handle("242:0", False, f"{tree.dev}/ng0n1", who),
        Handle("241:0", False, f"{tree.dev}/nvme0", who),
        Handle("259:0", True, f"{tree.dev}/nvme0n1", who),
    ]


def test_our_own_handles_are_left_out(tree: Tree) -> None:
    tree.process(os.getpid(), "hook", "/dev/nvme0n1")
    tree.process(os.getppid(), "libvirtd", "/dev/nvme0n1")
    assert [handle.process.comm for handle in tree.gather().handles] == ["libvirtd"]


@pytest.mark.parametrize(
    ("fstype", "counts"),
    [
        pytest.param("devtmpfs", True, id="the /dev of a chroot"),
        pytest.param("nfs4", False, id="what may never answer is not asked"),
        pytest.param("fuse.sshfs", False, id="nor is this"),
    ],
)
def test_another_dev(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, fstype: str, counts: bool
) -> None:
    target = tree.root / "chroot/dev/nvme0n1"
    target.parent.mkdir(parents=True)
    os.mknod(target, stat.S_IFBLK | 0o600, os.makedev(259, 0))
    lines = f"{ROOT_MOUNT}\n{mount('0:77', '/chroot/dev', f'{fstype} none rw', 77)}"
    tree.process(42, "qemu", str(target), mountinfo=lines)
    tree.write("proc/42/fdinfo/0", "pos:\t0\nflags:\t02\nmnt_id:\t77\nino:\t5\n")
    asked = spy(monkeypatch)
    assert [handle.path for handle in tree.gather().handles] == [str(target)] * counts
    assert asked == [f"{tree.proc}/42/fd/0"] * counts


def spy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note what stat(2) is called for."""
    real, asked = os.stat, []

    def noted(path: str, **options: bool) -> os.stat_result:
        asked.append(path)
        return real(path, **options)

    monkeypatch.setattr(os, "stat", noted)
    return asked


def test_nothing_outside_dev_is_looked_up(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        ROOT_MOUNT,
        mount("0:50", "/nfs", "nfs4 server:/x rw", 50),
        mount("0:51", "/home/u", "fuse.sshfs /dev/shm/x rw", 51),
        mount("259:2", "/data", "ext4 /dev/nvme0n1p2 rw", 52),
        mount("0:53", "/b", "btrfs /mnt/disk.img rw", 53),
    )
    tree.process(2, "cc", "/nfs/a", "/home/u/a", "/data/dev", mountinfo="\n".join(lines))
    tree.write("proc/2/fdinfo/2", "mnt_id:\t52\n")
    tree.write("proc/swaps", "Filename\n/nfs/swap file\n")
    asked = spy(monkeypatch)
    tree.gather()
    assert asked == []


def test_a_forbidden_process_is_counted(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.process(42, "qemu", "/dev/nvme0n1")
    tree.process(43, "dd", "/dev/nvme0n1")
    real = os.readlink

    def guarded(path: str, *, dir_fd: int | None = None) -> str:
        if dir_fd is not None and "/42/" in real(f"/proc/self/fd/{dir_fd}"):
            raise PermissionError
        return real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "readlink", guarded)
    snapshot = tree.gather()
    assert snapshot.unseen == 1
    assert [handle.process.pid for handle in snapshot.handles] == [43]


def test_what_vanishes_meanwhile_is_not_there(tree: Tree) -> None:
    tree.link("proc/77/fd", "nowhere")
    tree.process(78, "closing", "/dev/nvme0n1")
    (tree.proc / "78/fd/0").unlink()
    tree.write("proc/78/fd/0", "whose readlink fails")
    tree.link("sys/class/block/nvme0n1/holders/dm-9", "nowhere")
    tree.link("sys/class/block/loop5", "nowhere")
    tree.write("proc/self/comm", "not a number\n")
    assert said(tree) == ["holder@dm-9"]


DATA = mount("259:2", "/data", "ext4 /dev/nvme0n1p2 rw", 90)


@pytest.mark.parametrize(
    ("processes", "reasons"),
    [
        pytest.param(
            [(9, "mnt:[1]", "/", DATA)], ["mount@nvme0n1p2:/data"], id="the host's namespace"
        ),
        pytest.param(
            [(9, "mnt:[2]", "/", DATA)],
            ["mount@nvme0n1p2:/data (in the mount namespace of 9 (p9))"],
            id="another",
        ),
        pytest.param(
            [(9, "mnt:[2]", "/", ROOT_MOUNT), (10, "mnt:[2]", "/", DATA)],
            [],
            id="a namespace is read once",
        ),
        pytest.param(
            [(9, "mnt:[2]", "/chroot", ROOT_MOUNT), (10, "mnt:[2]", "/", DATA)],
            ["mount@nvme0n1p2:/data (in the mount namespace of 10 (p10))"],
            id="but again from another root",
        ),
        pytest.param(
            [(9, "mnt:[2]", "/", DATA), (10, "mnt:[2]", "/data", DATA.replace("/data", "/"))],
            ["mount@nvme0n1p2:/data (in the mount namespace of 9 (p9))"],
            id="where the same mount is not another one",
        ),
    ],
)
def test_namespaces(
    tree: Tree, processes: list[tuple[int, str, str, str]], reasons: list[str]
) -> None:
    (tree.proc / "1/root").unlink()
    tree.link("proc/1/root", "/initial")  # so that the host's is read again here
    for pid, namespace, root, mountinfo in processes:
        tree.process(pid, f"p{pid}", namespace=namespace, root=root, mountinfo=mountinfo)
    assert said(tree) == reasons


def test_a_namespace_whose_name_may_not_be_read(tree: Tree) -> None:
    for pid in (9, 10):
        tree.process(pid, f"p{pid}", mountinfo=DATA)
        (tree.proc / f"{pid}/ns/mnt").unlink()
    tree.write("proc/10/mountinfo", f"{DATA}\n{mount('259:1', '/a', 'ext4 /dev/nvme0n1p1 rw', 91)}")
    assert said(tree) == [
        "mount@nvme0n1p1:/a (in the mount namespace of 10 (p10))",
        "mount@nvme0n1p2:/data (in the mount namespace of 9 (p9))",
    ]


@pytest.mark.parametrize(
    ("line", "point", "layers"),
    [
        pytest.param(DATA, "/data", (), id="plain"),
        pytest.param(
            mount("259:2", r"/a\040b\011c\012d\134e", "ext4 /dev/x rw"),
            "/a b\tc\nd\\e",
            (),
            id="octal",
        ),
        pytest.param(
            mount("259:2", "/a\x0b\x85\u2028b", "ext4 /dev/x rw"),
            "/a\x0b\x85\u2028b",
            (),
            id="other ends of lines",
        ),
        pytest.param("40 25 259:2 / /x rw - ext4  rw", "/x", (), id="no tags, no source"),
        pytest.param(
            mount(
                "0:60", "/o", r"overlay o rw,lowerdir=/a\134:b:/c\054d::/e,upperdir=/u,workdir=/w"
            ),
            "/o",
            ("/a:b", "/c,d", "/e", "/u"),
            id="layers of an overlay",
        ),
        pytest.param(
            mount(
                "0:60", "/", "overlay composefs ro,lowerdir+=/l,datadir+=/sysroot/o,redirect_dir=on"
            ),
            "/",
            ("/l", "/sysroot/o"),
            id="layers one by one",
        ),
    ],
)
def test_mountinfo(tree: Tree, line: str, point: str, layers: tuple[str, ...]) -> None:
    tree.write("proc/1/mountinfo", f"{line}\n")
    (found,) = tree.gather().mounts
    assert (found.point, found.layers) == (point, layers)


def test_claimed_asks_for_the_disk_then_for_its_partitions(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = ("nvme0n1", "nvme0n1p2")
    flags = opens(monkeypatch, tree, dict.fromkeys(busy, errno.EBUSY))
    assert tree.claimed() == ("nvme0n1", "nvme0n1p2")
    assert set(flags.values()) == {os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK}
    flags = opens(monkeypatch, tree, {})
    assert tree.claimed() == ()
    assert list(flags) == ["nvme0n1"]


def opens(monkeypatch: pytest.MonkeyPatch, tree: Tree, errors: dict[str, int]) -> dict[str, int]:
    """Play the kernel where a node of the tree is opened."""
    seen: dict[str, int] = {}

    def kernel(path: str, flags: int) -> int:
        name = path.removeprefix(f"{tree.dev}/")
        seen[name] = flags
        if name in errors:
            raise OSError(errors[name], os.strerror(errors[name]))
        return os.dup(2)

    monkeypatch.setattr(os, "open", kernel)
    return seen


def test_a_disk_that_cannot_be_tried_is_an_error(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens(monkeypatch, tree, {"nvme0n1": errno.EPERM})
    with pytest.raises(SysfsError, match="nvme0n1: opening /.*/nvme0n1 with O_EXCL: Operation not"):
        tree.claimed()


def test_a_node_that_is_another_disk_is_not_opened(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree.dev / "nvme0n1").unlink()
    tree.node("nvme0n1", "8:0")
    seen = opens(monkeypatch, tree, {})
    with pytest.raises(SysfsError, match="No such device"):
        tree.claimed()
    assert seen == {}


def test_a_disk_that_went_meanwhile_is_not_claimed(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree.sys / "class/block/nvme0n1/dev").unlink()
    assert tree.claimed() == ()


def test_partitions_that_cannot_be_tried_leave_the_disk_claimed(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens(monkeypatch, tree, {"nvme0n1": errno.EBUSY, "nvme0n1p1": errno.EPERM})
    assert tree.claimed() == ("nvme0n1",)
