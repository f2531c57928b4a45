# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is nobody else's business in a text that goes to a public bug tracker. Pure.

Masked are values that are known, wherever they stand, and whatever has the form of one: what is
masked twice is no loss, and what is missed cannot be taken back. The same value gets the same
number, so that one guest can be told from another.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True)
class Rule:
    """What is masked, as what, and how it is recognised: the last group, or all of the match."""

    name: str
    pattern: re.Pattern[str]


def _rule(name: str, pattern: str) -> Rule:
    return Rule(name, re.compile(pattern, re.I))


_HEX = "[0-9a-f]"
_QUOTED = r"'[^'\n]*'|\"[^\"\n]*\""

NAMES = (
    _rule("uuid", rf"\b{_HEX}{{8}}-(?:{_HEX}{{4}}-){{3}}{_HEX}{{12}}\b"),
    _rule("mac", rf"\b(?:{_HEX}{{2}}:){{5}}{_HEX}{{2}}\b"),
    _rule("address", r"\b(?:\d{1,3}\.){3}\d{1,3}\b"),
    _rule("nqn", r"\bnqn\.[^\s\"']+"),
    # What libvirt calls QEMU's process where qemu.conf says set_process_name.
    _rule("guest", r"\(qemu:([^)\n]+)\)"),
    _rule("path", r"\b(?:mount|root|swap|file)@[^\s,:]+:(/[^\s,]+)"),
)
"""This host's names, its users' and its guests'."""

SERIALS = (
    # As admission words a drive that is another than the one expected.
    _rule("serial", rf"\bserial is ({_QUOTED})"),
    _rule("eui", rf"\bEUI is ({_QUOTED})"),
    _rule("eui", rf"\bEUI is [^\n]* and ({_QUOTED})"),
    _rule("expected", rf"\b(?:serial|EUI) is [^\n]*, expected ({_QUOTED})"),
    _rule("serial", r"\bserial(?: number)?[:=]?\s+(?!is\b)([^\s,;)<]+)"),
    _rule("eui", rf"\beui\.({_HEX}+)"),
    _rule("wwid", rf"\bnvme\.({_HEX}{{4}}-[^\s\"']+)"),
    _rule("eui", rf"\b{_HEX}{{16}}(?:{_HEX}{{16}})?\b"),
    _rule("eui", rf"\b(?:{_HEX}{{2}}-){{7}}{_HEX}{{2}}\b"),
)
"""What the drive calls itself."""


class Redaction:
    """Values that are known, and forms that are recognised; and what they became."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._masks: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def hide(self, name: str, values: Iterable[str]) -> None:
        """Mask these values, wherever they stand as a word; a line may end where they have a
        blank."""
        for value in sorted(set(filter(None, map(str.strip, values))), key=len, reverse=True):
            words = r"\s+".join(map(re.escape, value.split()))
            self._rules.append(_rule(name, rf"(?<![a-z0-9]){words}(?![a-z0-9])"))

    def recognise(self, rules: Iterable[Rule]) -> None:
        """Mask what has one of these forms."""
        self._rules += rules

    def apply(self, text: str) -> str:
        """Return the text without any of them; what a form has shown is masked everywhere."""
        for rule in self._rules:
            text = rule.pattern.sub(partial(self._masked, rule.name), text)
        for value in sorted(self._masks, key=len, reverse=True):
            if value.startswith("/"):  # a mount point, which hints name again
                again = re.compile(rf"{re.escape(value)}(?![\w/.-])", re.I)
                text = again.sub(self._masks[value], text)
        return text

    def _masked(self, name: str, found: re.Match[str]) -> str:
        group = found.lastindex or 0
        start, end = (at - found.start() for at in found.span(group))
        return found[0][:start] + self._mask(name, found[group]) + found[0][end:]

    def _mask(self, name: str, value: str) -> str:
        folded = " ".join(value.split()).lower()
        if folded not in self._masks:
            self._counts[name] = self._counts.get(name, 0) + 1
            self._masks[folded] = f"<{name}-{self._counts[name]}>"
        return self._masks[folded]
