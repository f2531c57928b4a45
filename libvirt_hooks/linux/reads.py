# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads of what may vanish meanwhile: what is gone, or refused, reads as empty. Nothing raises.

And of paths that somebody else chose: only device nodes below /dev are ever looked up, since a
stat(2) of any other path may never return (NFS, FUSE).
"""

import os
import stat

DEV = "/dev"


def text(path: str) -> str:
    """Return what is in a file, without the newline at its end."""
    try:
        with open(path, "rb", buffering=0) as file:
            raw = file.read()
    except OSError:
        return ""
    return raw.decode("utf-8", "backslashreplace").removesuffix("\n")


def names(path: str) -> list[str]:
    """Return what is in a directory, sorted."""
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def device(status: os.stat_result) -> str:
    """Return the number of a device node as sysfs prints it, empty for any other file."""
    if stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode):
        return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return ""


def node(path: str, dev: str = DEV) -> str:
    """Return the number of the device node at *path*, empty if that is no node below /dev.

    :param dev: where /dev is; for tests.
    """
    # Everybody may make a link to anywhere in /dev/shm.
    if not path.startswith("/dev/") or path.startswith("/dev/shm/") or "/../" in path:
        return ""
    try:
        return device(os.stat(dev + path.removeprefix("/dev")))
    except OSError:
        return ""
