# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mounts of every mount namespace, and swap areas.

Sources: proc(5); kernel fs/proc_namespace.c (show_mountinfo: of a process below a chroot it shows
only what can be reached from there), mm/swapfile.c (swap_show), v6.1; overlayfs.rst for layers.
"""

import os
import re
from collections.abc import Collection, Iterator

from ..snapshot import Backing, Mount, Process
from .processes import PROC, process
from .reads import DEV, node, text

_OCTAL = re.compile(r"\\([0-7]{3})")
_COLON = re.compile(r"(?<!\\):")
_LAYERS = ("lowerdir", "upperdir", "lowerdir+", "datadir+")
_MANY_DEVICES = ("btrfs", "bcachefs", "zfs")


class Namespaces:
    """Collects mounts, process by process; the first one's namespace is that of the host.

    :param numbers: the block devices whose mounts are asked for.
    """

    def __init__(self, numbers: Collection[str], proc: str = PROC, dev: str = DEV) -> None:
        self.mounts: list[Mount] = []
        self._numbers = numbers
        self._proc = proc
        self._dev = dev
        self._host: str | None = None
        self._views: set[tuple[str, str]] = set()
        self._ids: set[str] = set()

    def look(self, pid: int) -> None:
        """Add the mounts that a process sees, except those that are known."""
        namespace = self._link(pid, "ns/mnt")
        # Where AppArmor forbids the first it would forbid the second, and log that too.
        view = namespace, self._link(pid, "root") if namespace else ""
        if namespace and view in self._views:
            return
        self._views.add(view)
        if self._host is None:
            self._host, who = namespace, None
        else:
            who = None if namespace and namespace == self._host else process(pid, self._proc)
        # Not splitlines(): a mount point may hold any of the other characters that end a line.
        for line in text(f"{self._proc}/{pid}/mountinfo").split("\n"):
            # Mounts are numbered for the whole host. So what was seen from another root, or in a
            # namespace whose name may not be read, is not taken twice.
            identity, _, rest = line.partition(" ")
            if rest and identity not in self._ids:
                self._ids.add(identity)
                self._take(rest, who)

    def _link(self, pid: int, name: str) -> str:
        try:
            return os.readlink(f"{self._proc}/{pid}/{name}")
        except OSError:
            return ""

    def _take(self, line: str, who: Process | None) -> None:
        head, _, tail = line.partition(" - ")
        _, number, _, point, *_ = head.split(" ")
        fstype, source, options = tail.split(" ", 2)
        many = fstype in _MANY_DEVICES
        if who is None or many or number in self._numbers:
            source = _decode(source)
            source_number = node(source, self._dev) if many else ""
            layers = tuple(_layers(options)) if fstype == "overlay" else ()
            self.mounts.append(
                Mount(number, _decode(point), fstype, source, source_number, layers, who)
            )


def swaps(proc: str = PROC, dev: str = DEV) -> tuple[Backing, ...]:
    """Return the swap areas, devices and files."""
    paths = [line.partition(" ")[0] for line in text(f"{proc}/swaps").split("\n")[1:] if line]
    return tuple(Backing(path, node(path, dev)) for path in map(_decode, paths))


def _decode(field: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), field) if "\\" in field else field


def _layers(options: str) -> Iterator[str]:
    for option in options.split(","):
        name, _, value = option.partition("=")
        if name in _LAYERS:
            # A colon of a path itself has a backslash before it.
            for path in _COLON.split(_decode(value)):
                if path:
                    yield path.replace("\\:", ":")
