# SPDX-License-Identifier: LGPL-2.1-or-later
"""The policy file as it lies on disk: may it be trusted, and what does it say?

The hook does as root what is in it, so only root may be able to write it. What the text means is
``policy_file``'s beside the package's root.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ..errors import BadPolicy, SysfsError
from ..policy import PATH

LARGEST = 1 << 20
"""Bytes: a list of every controller of a fleet fits in many times; a wrong file may not."""

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Found(NamedTuple):
    """What lies there: a text, or why it is not trusted, or neither: no file."""

    text: str | None = None
    untrusted: str = ""


def read(path: str = PATH, owner: int = 0) -> str | None:
    """Return the text; None, and say so, if it is not trusted; None if there is no file.

    :param owner: uid of the only one who may write it.
    :raises BadPolicy: it is trusted and not UTF-8.
    :raises SysfsError: there is one and it cannot be read.
    """
    found = examine(path, owner)
    if found.untrusted:
        import logging  # only here: `list` would wait for it

        log = logging.getLogger(__name__)
        log.error("%s: %s: ignored, defaults are used", path, found.untrusted)
    return found.text


def examine(path: str = PATH, owner: int = 0) -> Found:
    """Return the text, or why it is not trusted.

    :raises BadPolicy: see ``read``.
    :raises SysfsError: see ``read``.
    """
    try:
        # The directory first, and the file from there: both are judged as they were opened.
        with _opened(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY) as folder:
            # A packager may have put a symlink here. Only root can have, as the directory says,
            # so it is followed: what it leads to is judged like any other file. A FIFO must not
            # keep a guest waiting, hence O_NONBLOCK.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
            with _opened(os.path.basename(path), flags, folder) as file:
                why = _distrust(os.fstat(folder), os.fstat(file), owner)
                data = b"" if why else _read(file)
    except FileNotFoundError as error:
        if not os.path.islink(path):
            return Found()
        # A link that leads nowhere was to lead somewhere: what is denied there must stay denied.
        raise SysfsError(path, "reading", errno.ENOENT) from error
    except OSError as error:
        raise SysfsError(path, "reading", error.errno or errno.EIO) from error
    if len(data) > LARGEST:
        why = f"size is more than {LARGEST} bytes"
    return Found(untrusted=why) if why else Found(_decode(path, data))


@contextmanager
def _opened(path: str, flags: int, folder: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, flags, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _distrust(folder: os.stat_result, file: os.stat_result, owner: int) -> str:
    """Why somebody else than *owner* may have written what is there; empty: nobody can have."""
    if not (stat.S_ISREG(file.st_mode) or stat.S_ISDIR(file.st_mode)):
        return "not a regular file"
    for which, seen in (("", file), ("its directory: ", folder)):
        if seen.st_uid != owner:
            return f"{which}owner is uid {seen.st_uid} (expected {owner})"
        if seen.st_mode & _OTHERS_WRITE:
            mode = stat.S_IMODE(seen.st_mode)
            return f"{which}mode is {mode:04o} (expected no write bit for group and others)"
    return ""


def _read(file: int) -> bytes:
    """Read all of a file, or just more than is taken; EISDIR if it is a directory."""
    data = b""
    while len(data) <= LARGEST and (more := os.read(file, LARGEST + 1 - len(data))):
        data += more
    return data


def _decode(path: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        place = f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"
        raise BadPolicy(
            f"{path}: {place}: not UTF-8: byte {error.start}", hint=f"correct or remove {path}"
        ) from None
