# SPDX-License-Identifier: LGPL-2.1-or-later
"""A file for others to read, replaced whole. By a worker: its disk may be frozen, or hang.

The directory may belong to somebody else (node_exporter's user), so nothing that lies there is
opened or followed. Nor is it synced: what is lost with the power is written anew. Sources:
rename(2), open(2).
"""

import errno
import os
import time
from contextlib import suppress

from ..bdf import Bdf
from ..deadline import Deadline
from ..errors import HookError, SysfsError
from . import workers

PATIENCE = 1.0
"""Seconds; then the worker is left behind."""
MODE = 0o644

_NOBODY = Bdf(0, 0, 0, 0)
"""Workers are known by a controller; this one works on none."""


def publish(path: str, text: str) -> None:
    """See host.Host.publish."""

    def job(_: Bdf) -> str:
        write(path, text)
        return ""

    result = workers.each([_NOBODY], job, Deadline(time.monotonic, PATIENCE))[_NOBODY]
    if isinstance(result, HookError):
        why = result.message.removeprefix(f"{_NOBODY}: ").removeprefix(f"{path}: ")
        raise HookError(f"{path}: {why}", result.hint)


def write(path: str, text: str) -> None:
    """Replace the file at *path*. For one writer at a time.

    :raises SysfsError: the kernel refused.
    """
    # Not a name that a collector would read, and always the same: a killed writer leaves one.
    temporary = f"{os.path.splitext(path)[0]}.tmp"
    try:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(temporary, flags, MODE), "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), MODE)  # a umask can take bits away
                file.write(text)
            os.rename(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise SysfsError(path, "writing", error.errno or errno.EIO) from error
