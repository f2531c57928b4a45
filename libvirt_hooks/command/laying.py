# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lay files down, and take them away: never one that somebody else has changed.

What is ours is in the manifest; it is written before a file is replaced, so that an installation
that was killed anywhere is finished by the next one.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from ..linux import manifest
from ..linux.installed import HOOK
from .files import File

NEW = ".new"


class State(StrEnum):
    """What is at a file's destination."""

    SAME = "as it should be"
    MISSING = "missing"
    OUTDATED = "outdated"
    MODE = "of another mode"
    CHANGED = "changed by somebody"
    OBSOLETE = "no longer needed"


@dataclass(frozen=True)
class Item:
    """A file, what is to be there, and what is there."""

    file: File
    digest: str
    state: State

    @property
    def path(self) -> str:
        """Where it goes."""
        return self.file.destination


def compare(
    tree: str, files: Iterable[File], root: str, ours: Mapping[str, list[str]]
) -> Iterator[Item]:
    """Look at every destination; then at what an earlier installation laid down beside.

    :param ours: the digests of what was laid down, by path.
    :raises OSError: one of them cannot be read.
    """
    wanted = set()
    for file in files:
        want = f"link to {file.source}" if file.link else manifest.digest(f"{tree}/{file.source}")
        state = _state(file, want, root, ours)
        wanted.add(file.destination)
        if state is State.CHANGED:
            wanted.add(file.destination + NEW)
        yield Item(file, want, state)
    for path in sorted(set(ours) - wanted):
        found = manifest.digest(root + path)
        if found in ours[path]:
            yield Item(File("", path), found, State.OBSOLETE)


def _state(file: File, want: str, root: str, ours: Mapping[str, list[str]]) -> State:
    path = root + file.destination
    found = manifest.digest(path)
    if not found:
        return State.MISSING
    if found != want:
        return State.OUTDATED if found in ours.get(file.destination, ()) else State.CHANGED
    if not file.link and stat.S_IMODE(os.lstat(path).st_mode) != file.mode:
        return State.MODE
    return State.SAME


def lay(tree: str, item: Item, root: str) -> None:
    """Make one be there.

    :raises OSError: it cannot be written.
    """
    path = root + item.path
    make_directories(os.path.dirname(item.path), root)
    if item.state is State.MODE:
        os.chmod(path, item.file.mode)
    elif item.file.link:
        temporary = _temporary(path)
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        os.symlink(item.file.source, temporary)
        os.rename(temporary, path)
    else:
        _write(f"{tree}/{item.file.source}", path, item.file.mode)


def lay_beside(tree: str, item: Item, root: str) -> str:
    """Leave a changed file alone, and put the new one beside it; return its path.

    Whatever it is, it cannot be executed: libvirt would run it as another hook.
    """
    _write(f"{tree}/{item.file.source}", f"{root}{item.path}{NEW}", 0o644)
    return item.path + NEW


def _write(source: str, path: str, mode: int) -> None:
    with open(source, "rb") as file:
        data = file.read()
    temporary = _temporary(path)
    with open(temporary, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)


def _temporary(path: str) -> str:
    """Where one is written before it is renamed: what is there is of an installation that died."""
    folder, name = os.path.split(path)
    if path.endswith(HOOK):
        # In qemu.d libvirt would run it, whatever its name; the directory above has no such rule.
        folder = os.path.dirname(folder)
    return f"{folder}/.{name}{NEW}"


def missing_directories(paths: Iterable[str], root: str) -> list[str]:
    """Return the directories that these files lack, the highest first."""
    missing: dict[str, None] = {}
    for path in paths:
        missing |= dict.fromkeys(_missing(os.path.dirname(path), root))
    return list(missing)


def make_directories(folder: str, root: str) -> None:
    """Make a directory and those above it, whatever the umask."""
    for each in _missing(folder, root):
        os.makedirs(root + each)
        os.chmod(root + each, 0o755)


def _missing(folder: str, root: str) -> list[str]:
    missing: list[str] = []
    while folder != "/" and not os.path.isdir(root + folder):
        missing.insert(0, folder)
        folder = os.path.dirname(folder)
    return missing


def take(path: str, digests: Iterable[str], root: str) -> str:
    """Remove what is ours; return a word on what was kept instead, mostly none.

    :raises OSError: it cannot be removed.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(_temporary(root + path))
    found = manifest.digest(root + path)
    if not found:
        return ""
    if found in digests:
        os.unlink(root + path)
        return ""
    if path == HOOK and not found.startswith("link"):
        # Without its package it would refuse guests.
        os.chmod(root + path, 0o644)
        return f"{path}: changed by somebody: kept, no longer executable"
    return f"{path}: changed by somebody: kept"
