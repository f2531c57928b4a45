# SPDX-License-Identifier: LGPL-2.1-or-later
"""One flock a controller: two hooks, or a hook and the command, never work on the same one.

libvirt runs the hooks of different guests side by side (libvirt src/util/virhook.c takes no lock),
and two of them may name the same controller. Source: flock(2).
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..bdf import Bdf
from ..errors import BadRecord, DeviceBusy
from .records import make_folder

POLL = 0.01
"""Seconds between two tries: flock has no time-out of its own."""


@contextmanager
def lock(root: str, what: Bdf | str, timeout: float) -> Iterator[None]:
    """Own a controller, by ``<root>/locks/<bdf>``, for as long as the context lasts.

    :raises DeviceBusy: somebody has kept it all of *timeout* seconds.
    """
    fd = _open(root, what)
    try:
        _take(fd, what, timeout)
        yield
    finally:
        # No LOCK_UN: that would also take it from a worker forked meanwhile, which has the same
        # open file and may be blocked in the kernel, still resetting this controller. No unlink:
        # a third hook could then lock a new file while a second waits for the old one.
        os.close(fd)


def _open(root: str, what: Bdf | str) -> int:
    try:
        path = f"{make_folder(root, 'locks')}/{what}"
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        raise BadRecord(f"{what}: lock: opening {root}/locks/{what}: {reason}") from error


def _take(fd: int, what: Bdf | str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            left = deadline - time.monotonic()
            if left <= 0:
                message = (
                    f"{what}: lock: another hook, or a keeper, has held it for {timeout:.1f} s"
                )
                raise DeviceBusy(message) from error
        time.sleep(min(POLL, left))
