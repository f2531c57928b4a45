# SPDX-License-Identifier: LGPL-2.1-or-later
"""Block devices as sysfs shows them: a controller's disks, and what stands on them.

Sources, v6.1: drivers/nvme/host/multipath.c (nvme_mpath_set_disk_name, nvme_add_ns_head_cdev:
the disk that can be opened hangs under the subsystem, what is left under the controller is
hidden), block/holder.c, drivers/block/loop.c, drivers/md/{dm-sysfs,md}.c, fs/btrfs/sysfs.c,
drivers/nvme/target/configfs.c; Documentation/admin-guide/bcache.rst; udev's database.
"""

import re
from collections.abc import Iterable, Iterator

from ..bdf import Bdf
from ..snapshot import Backing, Block, Controller, Export, Node
from .reads import DEV, names, node, text

SYS = "/sys"
UDEV = "/run/udev/data"

_DISK = re.compile(r"nvme[0-9]+(c[0-9]+)?n[0-9]+")
_GENERIC = re.compile(r"ng[0-9]+n[0-9]+")
_CONTAINER = re.compile(r"external:[/-]([^/]+)/")


def controller(bdf: Bdf, sys: str = SYS) -> Controller:
    """Return a controller's disks and character nodes; none without the host's driver."""
    disks, nodes = [], []
    folder = f"{sys}/bus/pci/devices/{bdf}/nvme"
    for name in names(folder):
        nodes.append(_node(f"{folder}/{name}"))
        for entry in names(f"{folder}/{name}"):
            path = f"{folder}/{name}/{entry}"
            if _GENERIC.fullmatch(entry):
                nodes.append(_node(path))
            elif _DISK.fullmatch(entry) and text(f"{path}/hidden") != "1":
                disks.append(entry)
            elif _DISK.fullmatch(entry):
                for subsystem in _subsystems(name, sys):
                    heads, generics = _head(subsystem, entry)
                    disks += heads
                    nodes += generics
    return Controller(bdf, tuple(disks), tuple(nodes))


def _node(path: str) -> Node:
    return Node(path.rpartition("/")[2], text(f"{path}/dev"))


def _subsystems(controller: str, sys: str) -> Iterator[str]:
    folder = f"{sys}/class/nvme-subsystem"
    for name in names(folder):
        if controller in names(f"{folder}/{name}"):
            yield f"{folder}/{name}"


def _head(subsystem: str, path: str) -> tuple[list[str], list[Node]]:
    # nvme0c1n2 is the path by controller 1 to namespace 2 of subsystem 0: to nvme0n2, ng0n2.
    disk = re.sub(r"c[0-9]+", "", path)
    generic = disk.replace("nvme", "ng")
    entries = names(subsystem)
    return (
        [disk] if disk in entries else [],
        [_node(f"{subsystem}/{generic}")] if generic in entries else [],
    )


def loops(sys: str = SYS) -> list[str]:
    """Name every loop device that is in use."""
    folder = f"{sys}/class/block"
    found = (name for name in names(folder) if name.startswith("loop"))
    return [name for name in found if text(f"{folder}/{name}/loop/backing_file")]


def tower(
    first: Iterable[str], sys: str = SYS, dev: str = DEV, udev: str = UDEV
) -> tuple[Block, ...]:
    """Describe devices, and all that stands on them as a partition or a holder."""
    found: dict[str, Block] = {}
    left = list(first)
    while left:
        name = left.pop()
        if name not in found:
            found[name] = _block(name, sys, dev, udev)
            left += (*found[name].partitions, *found[name].holders)
    _stack_containers(found, sys)
    return tuple(found[name] for name in sorted(found))


def partitions(disk: str, sys: str = SYS) -> tuple[str, ...]:
    """Name the partitions of a disk."""
    path = f"{sys}/class/block/{disk}"
    entries = (entry for entry in names(path) if entry.startswith(disk))
    return tuple(entry for entry in entries if text(f"{path}/{entry}/partition"))


def _block(name: str, sys: str, dev: str, udev: str) -> Block:
    path = f"{sys}/class/block/{name}"
    entries = names(path)
    number = text(f"{path}/dev")
    known = _udev(f"{udev}/b{number}")
    backing = text(f"{path}/loop/backing_file") if "loop" in entries else ""
    return Block(
        name,
        number,
        partitions=partitions(name, sys),
        holders=tuple(names(f"{path}/holders")),
        dm_name=text(f"{path}/dm/name") if "dm" in entries else "",
        dm_kind=text(f"{path}/dm/uuid").partition("-")[0] if "dm" in entries else "",
        md_level=text(f"{path}/md/level") if "md" in entries else "",
        bcache=_bcache(path) if "bcache" in entries else "",
        fs_type=known.get("ID_FS_TYPE", ""),
        fs_label=known.get("ID_FS_LABEL", ""),
        backing=Backing(backing.removesuffix(" (deleted)"), node(backing, dev))
        if backing
        else None,
    )


def _bcache(path: str) -> str:
    # The device that bcache makes has a link of that name, to its backing device's.
    if path.rpartition("/")[2].startswith("bcache"):
        return ""
    return "cache" if "set" in names(f"{path}/bcache") else "backing"


def _udev(path: str) -> dict[str, str]:
    lines = (line for line in text(path).split("\n") if line.startswith("E:ID_FS_"))
    return {name: value for name, _, value in (line[2:].partition("=") for line in lines)}


def _stack_containers(found: dict[str, Block], sys: str) -> None:
    # Of an array with external metadata the members are held twice: by the volume, and by the
    # container that it is in, which stops only after it (mdadm(8)).
    for name in [name for name in found if name.startswith("md")]:
        version = text(f"{sys}/class/block/{name}/md/metadata_version")
        inside = _CONTAINER.match(version)
        if inside and inside[1] in found:
            container = found[inside[1]]
            found[inside[1]] = container._replace(holders=(*container.holders, name))


def btrfs(sys: str = SYS) -> tuple[tuple[str, ...], ...]:
    """Return the members of each btrfs that is mounted, by device number."""
    folder = f"{sys}/fs/btrfs"
    found = (
        tuple(text(f"{folder}/{fsid}/devices/{name}/dev") for name in members)
        for fsid in names(folder)
        if (members := names(f"{folder}/{fsid}/devices"))
    )
    return tuple(found)


def exports(sys: str = SYS, dev: str = DEV) -> tuple[Export, ...]:
    """Return what the kernel's NVMe target has been told to export, and does."""
    return tuple(_exports(f"{sys}/kernel/config/nvmet/subsystems", dev))


def _exports(folder: str, dev: str) -> Iterator[Export]:
    for subsystem in names(folder):
        namespaces = f"{folder}/{subsystem}/namespaces"
        places = [(name, f"{namespaces}/{name}") for name in names(namespaces)]
        for namespace, path in (*places, ("", f"{folder}/{subsystem}/passthru")):
            if text(f"{path}/enable") == "1":
                device_path = text(f"{path}/device_path")
                yield Export(subsystem, namespace, Backing(device_path, node(device_path, dev)))
