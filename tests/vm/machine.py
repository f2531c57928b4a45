# SPDX-License-Identifier: LGPL-2.1-or-later
"""A rig made ready: the guests' kernel and the hook are installed, the double is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import guests, hooks, outer
from .drives import Double
from .image import Image
from .rig import Rig, boot


@contextmanager
def ready(image: Image, parts: Path) -> Iterator[Rig]:
    """Boot one and make it ready; it is gone when the block ends."""
    with boot(image, parts) as rig:
        guests.install_kernel(rig)
        hooks.install(rig)
        Double(rig, outer.DOUBLE, "double").load()
        yield rig
