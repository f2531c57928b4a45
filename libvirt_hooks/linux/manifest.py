# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `install` has laid down: each file with its SHA-256, each directory that it made.

A JSON object beside the package; a file whose digest is another has been changed by somebody. Also
which daemons knew hooks by then: replacing the hook takes away what showed that.
"""

import hashlib
import json
import os
import stat
from dataclasses import dataclass, field

from ..errors import HookError
from .installed import LIBRARY

PATH = f"{LIBRARY}/manifest.json"

Process = tuple[int, int]


@dataclass(frozen=True)
class Manifest:
    """*files* has every digest that was ours: while one is being replaced, the old and the new."""

    files: dict[str, list[str]] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)
    readers: list[Process] = field(default_factory=list)


def load(root: str = "") -> Manifest | None:
    """Read it; None if there is none.

    :raises HookError: it is not one of ours.
    """
    try:
        with open(root + PATH, encoding="utf-8") as file:
            content = json.load(file)
        return Manifest(
            {
                str(path): [str(each) for each in digests]
                for path, digests in content["files"].items()
            },
            [str(path) for path in content["directories"]],
            [(int(pid), int(ticks)) for pid, ticks in content["readers"]],
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise HookError(
            f"{PATH}: not a manifest of virt-nvme-reset: {error!r}",
            "remove it, and all that it should name, by hand; then install again",
        ) from error


def save(manifest: Manifest, root: str = "") -> None:
    """Replace it."""
    temporary = f"{root}{PATH}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o644)  # anybody may ask --check
        json.dump(vars(manifest), file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, root + PATH)


def readers(root: str = "") -> frozenset[Process]:
    """Return the daemons that knew hooks; none if nobody knows."""
    try:
        found = load(root)
    except HookError:
        return frozenset()
    return frozenset(found.readers if found is not None else ())


def digest(path: str) -> str:
    """Return the SHA-256 of a file, where a link leads; empty if there is nothing.

    :raises OSError: it cannot be read.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if stat.S_ISLNK(mode):
        return f"link to {os.readlink(path)}"
    if not stat.S_ISREG(mode):
        return "no file"
    with open(path, "rb") as file:
        return of(file.read())


def of(data: bytes) -> str:
    """Return the SHA-256 of what a file has."""
    return hashlib.sha256(data).hexdigest()
