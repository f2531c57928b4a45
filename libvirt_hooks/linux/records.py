# SPDX-License-Identifier: LGPL-2.1-or-later
"""RunRecords: small files in folders below /run/virt-nvme-reset, written atomically.

Root reads them back and acts on them, so the base directory has to be ours: 0700, no symbolic
link, nobody else's. Sources: rename(2), fsync(2); Documentation/filesystems/tmpfs.rst.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..errors import BadRecord

RUN = "/run/virt-nvme-reset"


class RunRecords:
    """Records of the host protocol as files.

    :param root: the base directory; made when something is first stored.
    """

    def __init__(self, root: str = RUN) -> None:
        self._root = root

    def names(self, folder: str) -> list[str]:
        """See host.Records. What a killed hook left half written has a dot and is not listed."""
        path = f"{self._root}/{_plain(folder)}"
        with _told(path, "listing"):
            if not self._has(folder):
                return []
            return sorted(name for name in os.listdir(path) if not name.startswith("."))

    def load(self, folder: str, name: str) -> bytes | None:
        """See host.Records."""
        path = self._path(folder, name)
        with _told(path, "reading"):
            if not self._has(folder):
                return None
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            with open(fd, "rb", buffering=0) as record:
                return record.read()

    def store(self, folder: str, name: str, data: bytes) -> None:
        """See host.Records."""
        path = self._path(folder, name)
        with _told(path, "writing"):
            parent = make_folder(self._root, folder)
            temporary = f"{parent}/.{name}.{os.getpid()}"
            try:
                _write(temporary, data)
                os.rename(temporary, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
            _sync(parent)

    def drop(self, folder: str, name: str) -> None:
        """See host.Records."""
        path = self._path(folder, name)
        with _told(path, "removing"):
            if self._has(folder):
                with suppress(FileNotFoundError):
                    os.unlink(path)

    def _has(self, folder: str) -> bool:
        return is_ours(self._root) and is_ours(f"{self._root}/{folder}")

    def _path(self, folder: str, name: str) -> str:
        return f"{self._root}/{_plain(folder)}/{_plain(name)}"


def is_ours(root: str) -> bool:
    """Is the base directory, or a folder of it, there and nobody's but ours?

    :raises BadRecord: it is there and cannot be trusted.
    """
    try:
        seen = os.lstat(root)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(seen.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(seen.st_mode) else "no directory"
        raise BadRecord(f"{root}: {kind} (expected a directory of ours)", f"remove {root}")
    if seen.st_uid not in (0, os.geteuid()):
        raise BadRecord(f"{root}: owner is uid {seen.st_uid} (expected 0)")
    if seen.st_mode & 0o022:
        mode = stat.S_IMODE(seen.st_mode)
        raise BadRecord(f"{root}: others may write to it: mode {mode:#o} (expected 0o700)")
    return True


def make_folder(root: str, folder: str) -> str:
    """Make a folder of the base directory, and that, where they are missing; return its path.

    :raises BadRecord: the base directory cannot be trusted.
    """
    path = f"{root}/{_plain(folder)}"
    if not is_ours(root):
        _make(root)
        is_ours(root)  # who made it, if it was not us?
    _make(path)
    is_ours(path)
    return path


def _make(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    os.chmod(path, 0o700)  # a umask can take bits away


def _write(path: str, data: bytes) -> None:
    # No O_EXCL: the leftover of a killed hook whose pid came round again is overwritten.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as record:
        record.write(data)
        record.flush()
        os.fsync(record.fileno())


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _plain(name: str) -> str:
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r}: not a plain file name")
    return name


@contextmanager
def _told(path: str, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadRecord(f"{path}: {what}: {os.strerror(error.errno or errno.EIO)}") from error
