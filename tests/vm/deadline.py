# SPDX-License-Identifier: LGPL-2.1-or-later
"""A point in time, so that a wait of several steps has one limit and not one a step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """When a wait ends, on the monotonic clock."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        return max(0.0, self.at - time.monotonic())

    def wait_until(self, what: str, true: Callable[[], object], pause: float = 0.25) -> None:
        """Return when *true* says so.

        :raises TimeoutError: it did not in time.
        """
        while not true():
            if not self.left:
                raise TimeoutError(f"waited in vain: {what}")
            time.sleep(min(pause, self.left))
