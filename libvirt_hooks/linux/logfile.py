# SPDX-License-Identifier: LGPL-2.1-or-later
"""A log of our own, for hosts without journald: what `history` reads there. Syslog gets it too.

A line of JSON each, with the fields that the journal would have. It never raises and never grows:
at LARGEST it becomes the old one, which ends the one before. Sources: open(2) for O_APPEND, whose
writes by two hooks do not mix; flock(2).
"""

import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

PATH = "/var/log/virt-nvme-reset.log"
LARGEST = 1 << 20
"""Bytes: some thousand operations."""
LONGEST = 4096
"""Characters of a value; the journal's own JSON leaves longer ones out."""

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def append(fields: Mapping[str, str], path: str = PATH) -> None:
    """Add a line. What goes wrong is dropped: a log line decides over no guest."""
    now = {"__REALTIME_TIMESTAMP": str(time.time_ns() // 1000)}
    cut = {name: value[:LONGEST] for name, value in fields.items()}
    try:
        _write(path, json.dumps({**now, **cut}).encode() + b"\n")
    except OSError:
        pass


def old(path: str = PATH) -> str:
    """Return where what came before *path* is."""
    return f"{path}.1"


def lines(path: str = PATH) -> Iterator[str]:
    """Return every line, the oldest first; nothing where there is no such file.

    :raises OSError: it may not be read.
    """
    for each in (old(path), path):
        try:
            with open(each, encoding="utf-8", errors="backslashreplace") as file:
                yield from file
        except FileNotFoundError:
            pass


def _write(path: str, line: bytes) -> None:
    with _opened(path) as fd:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):  # a FIFO would keep a guest waiting
            return
        if seen.st_size + len(line) <= LARGEST or not _rotate(fd, path):
            os.write(fd, line)
            return
    with _opened(path) as fd:
        os.write(fd, line)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, _FLAGS, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _rotate(fd: int, path: str) -> bool:
    """Rename a file that is full; False: another process is at it, or has done it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    # This one may have been renamed a moment ago, and the new one not be there yet.
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(fd), os.lstat(path)):
            os.rename(path, old(path))
    return True
