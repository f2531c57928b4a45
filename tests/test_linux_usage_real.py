# SPDX-License-Identifier: LGPL-2.1-or-later
"""Facts about a disk that is real: a loop device under the name of an NVMe disk.

What /sys says of the controller is ours; /proc, /dev, the kernel's claims and mounts are real.
"""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.linux import blocks, usage
from libvirt_hooks.linux.mounts import swaps
from libvirt_hooks.usage import uses

from .trees import NVME, Tree

CLONE_NEWNS = 0x00020000
MS_PRIVATE = 1 << 18
MS_REC = 1 << 14
LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def process(first: Callable[[], object]) -> Iterator[int]:
    """Fork one that does *first* and then waits; it has done so when the context begins."""
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            first()
            os.write(done, b".")
            signal.pause()
        finally:
            os._exit(0)
    os.close(done)
    try:
        assert os.read(ready, 1) == b"."
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """A loop device with an ext4 in it."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    attach = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True)
    if attach.returncode:
        pytest.skip(f"no loop device to be had: {attach.stderr.strip()}")
    device = attach.stdout.strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def tree(tmp_path: Path, loop: str) -> Tree:
    """The loop device is what /sys calls nvme0n1, and that is its node in a /dev of ours."""
    tree = Tree(tmp_path)
    number = Path("/sys/class/block", os.path.basename(loop), "dev").read_text().strip()
    controller = tree.controller(NVME, "nvme0", "241:77")
    tree.write(f"sys/{controller}/nvme0n1/dev", f"{number}\n")
    tree.link("sys/class/block/nvme0n1", f"../../{controller}/nvme0n1")
    tree.link("dev/nvme0n1", loop)
    return tree


def said(tree: Tree) -> list[str]:
    claimed = usage.claimed(NVME, str(tree.sys), str(tree.dev))
    return [str(use) for use in uses(usage.gather((NVME,), sys=str(tree.sys)), NVME, claimed)]


def test_free(tree: Tree) -> None:
    assert said(tree) == []


def test_open(tree: Tree, loop: str) -> None:
    with process(lambda: os.open(loop, os.O_RDONLY)) as pid:
        comm = Path(f"/proc/{pid}/comm").read_text().strip()
        assert said(tree) == [f"open@{loop} by {pid} ({comm})"]


def test_open_by_ourselves(tree: Tree, loop: str) -> None:
    fd = os.open(loop, os.O_RDONLY)
    try:
        assert said(tree) == []
    finally:
        os.close(fd)


def test_claimed_by_ourselves(tree: Tree, loop: str) -> None:
    fd = os.open(loop, os.O_RDONLY | os.O_EXCL)
    try:
        assert said(tree) == ["claimed@nvme0n1"]
    finally:
        os.close(fd)


def test_mounted_where_nobody_else_sees_it(tree: Tree, loop: str) -> None:
    point = tree.root / "a point"
    point.mkdir()

    def hide() -> None:
        assert LIBC.unshare(CLONE_NEWNS) == 0
        assert LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
        subprocess.run(["mount", loop, point], check=True)

    with process(hide) as pid:
        comm = Path(f"/proc/{pid}/comm").read_text().strip()
        where = f"in the mount namespace of {pid} ({comm})"
        assert said(tree) == [f"mount@nvme0n1:{point} ({where})"]


def test_a_mount_that_nobody_sees_is_claimed(tree: Tree, loop: str) -> None:
    point = tree.root / "point"
    point.mkdir()
    subprocess.run(["mount", loop, point], check=True)
    try:
        assert said(tree) == [f"mount@nvme0n1:{point}"]
        busy = os.open(point, os.O_RDONLY)
        subprocess.run(["umount", "--lazy", point], check=True)
        try:
            assert said(tree) == ["claimed@nvme0n1"]
        finally:
            os.close(busy)
    finally:
        subprocess.run(["umount", "--quiet", point], check=False)
    assert said(tree) == []


def test_a_loop_is_known_by_its_file(tree: Tree, loop: str) -> None:
    name = os.path.basename(loop)
    assert name in blocks.loops()
    (found,) = blocks.tower([name])
    assert found.backing is not None
    assert found.backing.path == str(tree.root / "image")
    assert found.backing.number == ""


def test_this_machine_can_be_looked_at(tree: Tree) -> None:
    snapshot = usage.gather((NVME,), sys=str(tree.sys))
    assert any(mount.point == "/" and mount.namespace is None for mount in snapshot.mounts)
    everything = blocks.tower(os.listdir("/sys/class/block"))
    assert [block.name for block in everything if not block.number] == []
    assert isinstance(swaps(), tuple)
    absent = Bdf.parse("ffff:1f:00.0")
    assert uses(usage.gather((absent,)), absent) == ()
