# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is compiled for the rig: the guest (``guest``) and the SM951 double (``double``).

Built beside the image, under a hash of their sources, so that only a change compiles; older ones
go with the image, since another rig may be using them. The rig mounts the folder read-only.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .image import Image

HERE = Path(__file__).parent
SOURCES = (HERE / "guest", HERE / "double")
GUEST = "guest.elf"
DOUBLE = "sm951_double.ko"


def ensure(image: Image) -> Path:
    """Return the folder with the parts for this image; compile them if they are not there."""
    wanted = image.directory / f"parts-{sources_hash()}"
    with _only_one(image):
        if not wanted.is_dir():
            _build(image, wanted)
    return wanted


def sources_hash() -> str:
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted(folder.iterdir()):
            digest.update(f"{folder.name}/{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@contextmanager
def _only_one(image: Image) -> Iterator[None]:
    descriptor = os.open(image.directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _build(image: Image, wanted: Path) -> None:
    """Build beside the final place and rename: an interrupted build leaves no half part."""
    with tempfile.TemporaryDirectory(prefix="building-", dir=wanted.parent) as scratch:
        result = Path(scratch, "result")
        _make("guest", Path(scratch), result / GUEST)
        _make("double", Path(scratch), result / DOUBLE, f"HEADERS={image.headers}")
        result.rename(wanted)


def _make(part: str, scratch: Path, product: Path, *variables: str) -> None:
    """Run one part's makefile; what it says is of interest only when it fails."""
    objects = scratch / part
    objects.mkdir()
    command = ["make", "--silent", "-C", str(HERE / part), f"O={objects}", *variables]
    made = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if made.returncode != 0:
        raise RuntimeError(f"make of tests/vm/{part} failed:\n{made.stdout}")
    product.parent.mkdir(exist_ok=True)
    shutil.copy(objects / product.name, product)
