# SPDX-License-Identifier: LGPL-2.1-or-later
"""about(): the journal fields of one log line, in the shape that ``linux.journald`` takes."""

from .bdf import Bdf


def about(bdf: Bdf, **fields: str) -> dict[str, dict[str, str]]:
    """Return logging's *extra* for a line about one controller."""
    return {"fields": {"PCI_BDF": str(bdf), **fields}}
