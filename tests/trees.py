# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine's /sys, /proc, /dev and udev database, as far as it matters who uses a disk.

Laid out as kernel 6.1 does: what is below /sys/class are links into the tree of devices.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.linux import usage
from libvirt_hooks.snapshot import Snapshot

NVME = Bdf.parse("0000:03:00.0")
OTHER = Bdf.parse("0000:04:00.0")
ROOT_MOUNT = "25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"


@dataclass(frozen=True)
class Tree:
    """A machine below one directory; what its methods do not write is not there."""

    root: Path

    @property
    def sys(self) -> Path:
        return self.root / "sys"

    @property
    def proc(self) -> Path:
        return self.root / "proc"

    @property
    def dev(self) -> Path:
        return self.root / "dev"

    def gather(self, *bdfs: Bdf) -> Snapshot:
        return usage.gather(
            bdfs or (NVME,), *map(str, (self.sys, self.proc, self.dev, self.root / "udev"))
        )

    def claimed(self) -> tuple[str, ...]:
        return usage.claimed(NVME, str(self.sys), str(self.dev))

    def write(self, path: str, text: str = "") -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def link(self, path: str, target: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(target)

    def node(self, name: str, number: str, kind: int = stat.S_IFBLK) -> None:
        file = self.dev / name
        file.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(file, kind | 0o600, os.makedev(*map(int, number.split(":"))))

    def character(self, path: str, number: str) -> None:
        self.write(f"sys/{path}/dev", f"{number}\n")
        self.node(path.rpartition("/")[2], number, stat.S_IFCHR)

    def block(self, name: str, number: str, parent: str = "devices/virtual/block") -> None:
        """A block device; *parent* is where it is below /sys."""
        self.write(f"sys/{parent}/{name}/dev", f"{number}\n")
        (self.sys / parent / name / "holders").mkdir()
        self.link(f"sys/class/block/{name}", f"../../{parent}/{name}")
        self.node(name, number)

    def partition(self, disk: str, number: int, device: str) -> None:
        parent = os.path.relpath((self.sys / "class/block" / disk).resolve(), self.sys)
        name = f"{disk}p{number}"
        self.block(name, device, parent)
        self.write(f"sys/class/block/{name}/partition", f"{number}\n")

    def hold(self, block: str, holder: str) -> None:
        self.link(f"sys/class/block/{block}/holders/{holder}", f"../../{holder}")

    def udev(self, number: str, **fields: str) -> None:
        text = "".join(f"E:{name}={value}\n" for name, value in fields.items())
        self.write(f"udev/b{number}", f"S:disk/by-id/x\n{text}")

    def controller(self, bdf: Bdf, name: str, number: str) -> str:
        """The driver's controller of a function; returns where it is below /sys."""
        function = f"devices/pci0000:00/{bdf}"
        self.link(f"sys/bus/pci/devices/{bdf}", f"../../../{function}")
        self.character(f"{function}/nvme/{name}", number)
        return f"{function}/nvme/{name}"

    def process(
        self,
        pid: int,
        comm: str,
        *targets: str,
        namespace: str = "mnt:[1]",
        mountinfo: str = ROOT_MOUNT,
        root: str = "/",
    ) -> None:
        """A process that has *targets* open as 0, 1, … ; below /dev is below our dev."""
        folder = f"proc/{pid}"
        self.write(f"{folder}/comm", f"{comm}\n")
        self.write(f"{folder}/mountinfo", f"{mountinfo}\n")
        self.link(f"{folder}/ns/mnt", namespace)
        self.link(f"{folder}/root", root)
        (self.root / folder / "fd").mkdir()
        for number, target in enumerate(targets):
            if target.startswith("/dev/"):
                target = f"{self.root}{target}"
            self.link(f"{folder}/fd/{number}", target)


def machine(root: Path) -> Tree:
    """One NVMe of two partitions that nobody uses, and pid 1."""
    tree = Tree(root)
    controller = tree.controller(NVME, "nvme0", "241:0")
    tree.character(f"{controller}/ng0n1", "242:0")
    tree.block("nvme0n1", "259:0", controller)
    tree.write(f"sys/{controller}/nvme0n1/hidden", "0\n")
    tree.partition("nvme0n1", 1, "259:1")
    tree.partition("nvme0n1", 2, "259:2")
    tree.process(1, "systemd")
    return tree


def fleet(root: Path, count: int) -> Tree:
    """So many controllers: every other one the host's and mounted, the others idle on vfio-pci."""
    tree = Tree(root)
    mounts = [ROOT_MOUNT]
    for at in range(count):
        bdf, name, driver = Bdf(0, at + 1, 0, 0), f"nvme{at}", "vfio-pci" if at % 2 else "nvme"
        function = f"devices/pci0000:00/{bdf}"
        if driver == "nvme":
            controller = tree.controller(bdf, name, f"241:{at}")
            for attribute, text in (("state", "live"), ("model", "Disk"), ("serial", f"S{at:09}")):
                tree.write(f"sys/{controller}/{attribute}", f"{text}\n")
            tree.block(f"{name}n1", f"259:{2 * at}", controller)
            tree.partition(f"{name}n1", 1, f"259:{2 * at + 1}")
            mounts.append(f"{30 + at} 25 259:{2 * at + 1} / /srv/{at} rw - ext4 /dev/{name}n1p1 rw")
        else:
            tree.link(f"sys/bus/pci/devices/{bdf}", f"../../../{function}")
        tree.write(f"sys/bus/pci/drivers/{driver}/module/refcnt")
        tree.write(f"sys/{function}/class", "0x010802\n")
        tree.write(f"sys/{function}/vendor", "0x144d\n")
        tree.write(f"sys/{function}/device", "0xa802\n")
        tree.write(f"sys/{function}/enable", "0\n")
        tree.write(f"sys/{function}/reset_method", "flr bus\n")
        tree.link(f"sys/{function}/driver", f"../../../bus/pci/drivers/{driver}")
    tree.process(1, "systemd", mountinfo="\n".join(mounts))
    return tree


def multipath(root: Path) -> Tree:
    """Two controllers of one subsystem that share a namespace: nvme3n1 is the disk of both.

    Subsystems and controllers are numbered apart: seen on 6.1 with QEMU's nvme-subsys, where a
    boot made nvme1n1 the disk of nvme0, and the next one did not.
    """
    tree = Tree(root)
    subsystem = "devices/virtual/nvme-subsystem/nvme-subsys3"
    tree.link("sys/class/nvme-subsystem/nvme-subsys3", f"../../{subsystem}")
    for at, (bdf, name) in enumerate(((NVME, "nvme0"), (OTHER, "nvme1"))):
        controller = tree.controller(bdf, name, f"241:{at}")
        tree.write(f"sys/{controller}/nvme3c{at}n1/hidden", "1\n")
        tree.link(f"sys/{subsystem}/{name}", f"../../../../{controller}")
    tree.block("nvme3n1", "259:0", subsystem)
    tree.character(f"{subsystem}/ng3n1", "242:0")
    tree.block("nvme3n2", "259:9", subsystem)  # a namespace that neither has a path to
    tree.process(1, "systemd")
    return tree
