# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a check says: a level, what was seen, and what to do about it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from .facts import Facts


class Level(StrEnum):
    """As virt-host-validate has them."""

    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Verdict:
    """What one check comes to."""

    level: Level
    seen: str
    advice: str = ""
    """What to do; never empty unless the level is PASS."""

    def __post_init__(self) -> None:
        if self.level is not Level.PASS and not self.advice:
            raise ValueError(f"{self.level} ({self.seen}): no advice")


@dataclass(frozen=True)
class Check:
    """One row of the table: *judge* returns None where it does not apply."""

    name: str
    title: str
    judge: Callable[[Facts], Verdict | None]


@dataclass(frozen=True)
class Finding:
    """A check and its verdict, as the JSON document has it."""

    check: str
    title: str
    level: Level
    seen: str
    advice: str


def passed(seen: str, advice: str = "") -> Verdict:
    """All is well; *advice* is an offer."""
    return Verdict(Level.PASS, seen, advice)


def warned(seen: str, advice: str) -> Verdict:
    """It works, but not all of it, or not for sure."""
    return Verdict(Level.WARN, seen, advice)


def failed(seen: str, advice: str) -> Verdict:
    """Guests are refused, or drives are not protected."""
    return Verdict(Level.FAIL, seen, advice)
