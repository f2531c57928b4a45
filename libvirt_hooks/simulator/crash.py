# SPDX-License-Identifier: LGPL-2.1-or-later
"""Crash: kill -9 of the code under test, at one of the things that it does to the machine.

A killed process runs no clean-up: whatever it still asks of the machine raises Killed again. Its
locks are the kernel's to release.
"""

from dataclasses import dataclass
from enum import Enum


class Killed(BaseException):
    """The process is dead: nothing it does from here on happens."""


class Victim(Enum):
    """Who is killed."""

    WORKER = "the worker"
    """Whoever does it; its parent lives and reports."""
    HOOK = "the hook"
    """The parent; a worker of it goes on until it next speaks to it."""
    BOTH = "both"
    """As when the service's control group is killed."""


@dataclass(frozen=True)
class Crash:
    """A kill at the effect with this index, just before it or just after it."""

    at: int
    after: bool
    victim: Victim

    def strikes(self, index: int, after: bool) -> bool:
        """Is it now?"""
        return index == self.at and after is self.after

    def __str__(self) -> str:
        return f"{self.victim.value} killed {'after' if self.after else 'before'} effect {self.at}"
