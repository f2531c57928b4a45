# SPDX-License-Identifier: LGPL-2.1-or-later
"""While a person waits: one line on stderr of what is waited for, and for how long at most."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from ..bdf import Bdf
from ..host import Host
from .terminal import size

T = TypeVar("T")

START, REST_OF_LINE = "\r", "\x1b[K"
"""ECMA-48: CR, EL."""


@contextmanager
def told(host: Host) -> Iterator[None]:
    """Tell what the host's jobs are at, as long as this lasts; only on a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    with host.watched(_tell):
        try:
            yield
        finally:
            _draw("")


def each_told(host: Host, results: Iterator[T]) -> Iterator[T]:
    """Yield *results*, and tell while the next is waited for; the line is gone when it comes."""
    while True:
        with told(host):
            found = next(results, None)
        if found is None:
            return
        yield found


def _tell(bdf: Bdf, doing: str, elapsed: float, left: float) -> None:
    since = f" for {elapsed:.0f} s" if elapsed >= 1 else ""
    _draw(f"{bdf}: {doing}{since}; given up in {max(left, 0):.0f} s")


def _draw(text: str) -> None:
    # One column is left free: a full line would wrap, and its start be out of reach.
    shown = text[: size(sys.stderr).columns - 1]
    with suppress(OSError, ValueError):  # the jobs go on, whoever reads this
        print(f"{START}{shown}{REST_OF_LINE}", end="", file=sys.stderr, flush=True)
