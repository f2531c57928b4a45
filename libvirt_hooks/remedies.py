# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands that end one use of a block device, as words for a person; nothing here runs them.

Sources: lvm(8) (hyphens of a dm name), cryptsetup(8), multipath(8), mdadm(8), nsenter(1), kernel
Documentation/admin-guide/bcache.rst and drivers/nvme/target/configfs.c, v6.1.
"""

import re

from .snapshot import Block, Export, Mount, Process, printable

_PLAIN_WORD = re.compile(r"[\w/.:+@%=,-]+", re.A)
_VOLUME_GROUP = re.compile(r"((?:[^-]|--)+)-")


def unmount(mount: Mount) -> str:
    """End a mount. A ZFS goes with its pool, which would keep the disk."""
    if mount.fstype == "zfs":
        return export_pool(pool(mount))
    if mount.namespace is None:
        return f"umount {word(mount.point)}"
    if mount.point == "/":
        return end(mount.namespace)
    return f"nsenter -t {mount.namespace.pid} -m umount {word(mount.point)}"


def swap_off(path: str) -> str:
    """End a swap area."""
    return f"swapoff {word(path)}"


def end(process: Process) -> str:
    """End a process: that is not always a matter of kill(1), so it is no command."""
    return f"end process {process}"


def export_pool(name: str) -> str:
    """End the use of a ZFS pool."""
    return f"zpool export {word(name)}"


def pool(mount: Mount) -> str:
    """Name the pool that a ZFS is in: the first part of ``tank/home@yesterday``."""
    return mount.source.partition("/")[0].partition("@")[0]


def disable(export: Export) -> str:
    """End an export; it can be enabled again."""
    part = f"namespaces/{export.namespace}" if export.namespace else "passthru"
    path = f"/sys/kernel/config/nvmet/subsystems/{export.subsystem}/{part}/enable"
    return f"echo 0 > {word(path)}"


def detach(loop: Block) -> str:
    """End a loop device."""
    return f"losetup -d {word(f'/dev/{loop.name}')}"


def stop_bcache(block: Block) -> str:
    """Take a device from bcache. A cache that is unregistered is written back first."""
    stop = "set/unregister" if block.bcache == "cache" else "stop"
    path = f"/sys/class/block/{block.name}/bcache/{stop}"
    return f"echo 1 > {word(path)}"


def teardown(holder: Block) -> str:
    """Take down a device that is made of others."""
    if holder.dm_name:
        match holder.dm_kind:
            case "LVM":
                return f"vgchange -an {word(volume_group(holder.dm_name))}"
            case "CRYPT":
                return f"cryptsetup close {word(holder.dm_name)}"
            case "mpath":
                return f"multipath -f {word(holder.dm_name)}"
        return f"dmsetup remove {word(holder.dm_name)}"
    if holder.name.startswith("md"):
        return f"mdadm --stop {word(f'/dev/{holder.name}')}"
    if holder.name.startswith("bcache"):
        return stop_bcache(holder)
    return f"stop {word(holder.name)}"


def let_go(name: str) -> str:
    """End a claim by nobody knows whom."""
    return f"end what holds {word(f'/dev/{name}')} exclusively"


def volume_group(dm_name: str) -> str:
    """Read the group in an LVM volume's dm name: ``my--vg-root`` is in ``my-vg``."""
    found = _VOLUME_GROUP.match(dm_name)
    return (found[1] if found else dm_name).replace("--", "-")


def word(text: str) -> str:
    """Quote a name as one word of a shell; what is not printable in bash's ``$'…'``."""
    if _PLAIN_WORD.fullmatch(text):
        return text
    if text.isprintable():
        return "'" + text.replace("'", r"'\''") + "'"
    return "$'" + printable(text.replace("\\", r"\\").replace("'", r"\'")) + "'"
