# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ways in which a host uses a disk; each with what a refusal has to say of it, word for word."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from .storage import Disk

POINT = "/mnt/x"
GROUP, VOLUME = "vg0", "lv0"
ARRAY = "/dev/md0"
MAPPING, KEY = "crypt0", "/run/rig/key"


@dataclass(frozen=True)
class Use:
    """One use, begun."""

    reasons: str
    remedy: str
    proof: str
    """A command that fails if the host can no longer use the disk in this way."""
    ending: str = ""
    """What carries the remedy out where that is no command."""

    @property
    def commands(self) -> list[str]:
        """What a person types to carry the remedy out."""
        return [self.ending] if self.ending else self.remedy.split(", then ")


Begin = Callable[[Disk], Use]


def mounted(disk: Disk) -> Use:
    disk.rig.run(f"mkfs.ext2 -q /dev/{disk.part(1)} && mount /dev/{disk.part(1)} {POINT}")
    return Use(f"mount@{disk.part(1)}:{POINT}", f"umount {POINT}", _write(POINT))


def mounted_elsewhere(disk: Disk) -> Use:
    """Only in a mount namespace of its own, as a container does."""
    disk.rig.run(f"mkfs.ext2 -q /dev/{disk.part(1)}")
    mount = f"mount /dev/{disk.part(1)} {POINT} && exec sleep 1000"
    pid = _keep(disk, f"unshare -m sh -c {shlex.quote(mount)}")
    _wait(disk, f"grep -q sleep /proc/{pid}/comm")
    return Use(
        f"mount@{disk.part(1)}:{POINT} (in the mount namespace of {pid} (sleep))",
        f"nsenter -t {pid} -m umount {POINT}",
        f"nsenter -t {pid} -m sh -c {shlex.quote(_write(POINT))}",
    )


def logical_volume(disk: Disk) -> Use:
    """Active, and nobody has it open."""
    _make_volume(disk)
    name = _dm(disk, f"{GROUP}-{VOLUME}")
    return Use(
        f"holder@{name} ({GROUP}-{VOLUME})",
        f"vgchange -an {GROUP}",
        _read(f"/dev/{GROUP}/{VOLUME}"),
    )


def mounted_volume(disk: Disk) -> Use:
    _make_volume(disk)
    name = _dm(disk, f"{GROUP}-{VOLUME}")
    disk.rig.run(f"mkfs.ext2 -q /dev/{GROUP}/{VOLUME} && mount /dev/{GROUP}/{VOLUME} {POINT}")
    return Use(
        f"mount@{name}:{POINT}, holder@{name} ({GROUP}-{VOLUME})",
        f"umount {POINT}, then vgchange -an {GROUP}",
        _write(POINT),
    )


def swap(disk: Disk) -> Use:
    path = f"/dev/{disk.part(2)}"
    disk.rig.run(f"mkswap -q {path} && swapon {path}")
    return Use(f"swap@{disk.part(2)}", f"swapoff {path}", f"grep -q ^{path} /proc/swaps")


def array(disk: Disk) -> Use:
    """A mirror of one."""
    disk.rig.run(
        f"mdadm --quiet --create {ARRAY} --run --level=1 --raid-devices=1 --force"
        f" --metadata=1.2 /dev/{disk.part(1)}"
    )
    return Use("holder@md0 (raid1)", f"mdadm --stop {ARRAY}", _read(ARRAY))


def encrypted(disk: Disk) -> Use:
    disk.rig.run(
        f"printf secret > {KEY} && cryptsetup luksFormat --batch-mode --type luks1"
        f" --pbkdf-force-iterations 1000 --key-file {KEY} /dev/{disk.part(1)}"
        f" && cryptsetup open --key-file {KEY} /dev/{disk.part(1)} {MAPPING}"
    )
    name = _dm(disk, MAPPING)
    return Use(
        f"holder@{name} ({MAPPING})",
        f"cryptsetup close {MAPPING}",
        _read(f"/dev/mapper/{MAPPING}"),
    )


def loop(disk: Disk) -> Use:
    name = disk.rig.run(f"losetup --find --show {disk.path}").stdout.strip()
    return Use(
        f"loop@{name.removeprefix('/dev/')} ({disk.path})", f"losetup -d {name}", _read(name)
    )


def opened_disk(disk: Disk) -> Use:
    return _opened(disk, disk.path)


def opened_controller(disk: Disk) -> Use:
    return _opened(disk, disk.controller)


def opened_generic(disk: Disk) -> Use:
    return _opened(disk, disk.generic)


def claimed(disk: Disk) -> Use:
    """Opened with O_EXCL."""
    code = f"import os, time; os.open('{disk.path}', os.O_RDONLY | os.O_EXCL); time.sleep(1000)"
    pid = _keep(disk, f"/usr/bin/python3 -I -c {shlex.quote(code)}")
    _wait(disk, f"ls -l /proc/{pid}/fd | grep -q {disk.path}")
    return Use(
        f"open@{disk.path} by {pid} (python3), claimed@{disk.name}",
        f"end process {pid} (python3), then end what holds {disk.path} exclusively",
        f"kill -0 {pid} && {_read(disk.path)}",
        _end(pid),
    )


def free(disk: Disk) -> None:
    """Partitions and a file system, swap space, a volume group: all there, and none in use."""
    disk.rig.run(
        f"mkfs.ext2 -q /dev/{disk.part(1)} && mkswap -q /dev/{disk.part(2)} && udevadm settle"
    )


def end_all(disk: Disk) -> None:
    """End whatever use a test has left, so that the disk can be wiped."""
    disk.rig.run(
        f"pkill -KILL -f '[s]leep 1000'; umount {POINT}; swapoff -a; vgchange -an -qq {GROUP};"
        f" mdadm --quiet --stop {ARRAY}; cryptsetup close {MAPPING}; losetup -D; udevadm settle",
        check=False,
    )


def _make_volume(disk: Disk) -> None:
    # Else udev has the host activate it whenever the disk comes back, and the next start is
    # refused again (lvmautoactivation(7)).
    group = f"vgcreate -qq -y --setautoactivation n {GROUP} /dev/{disk.part(1)}"
    disk.rig.run(f"{group} && lvcreate -qq -y -L 8M -n {VOLUME} {GROUP} && udevadm settle")


def _dm(disk: Disk, name: str) -> str:
    """Name the dm device, such as dm-0."""
    path = disk.rig.run(["readlink", "-f", f"/dev/mapper/{name}"]).stdout.strip()
    return path.removeprefix("/dev/")


def _opened(disk: Disk, path: str) -> Use:
    pid = _keep(disk, f"sleep 1000 < {path}")
    _wait(disk, f"grep -q sleep /proc/{pid}/comm")
    return Use(
        f"open@{path} by {pid} (sleep)",
        f"end process {pid} (sleep)",
        f"kill -0 {pid} && {_read(disk.path)}",
        _end(pid),
    )


def _keep(disk: Disk, command: str) -> str:
    """Run *command* in the background; return its pid, which stays that of what it execs."""
    return disk.rig.run(f"exec 3>&1 >/dev/null 2>&1; {command} & echo $! >&3").stdout.strip()


def _wait(disk: Disk, command: str) -> None:
    disk.rig.run(f"until {command}; do sleep 0.1; done")


def _end(pid: str) -> str:
    return f"kill -KILL {pid}; while [ -e /proc/{pid} ]; do sleep 0.1; done"


def _read(path: str) -> str:
    return f"dd if={path} of=/dev/null bs=4096 count=1 iflag=direct status=none"


def _write(point: str) -> str:
    return f"echo still mine > {point}/file && sync {point}/file && grep -q mine {point}/file"
