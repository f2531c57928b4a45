# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `virt-nvme-reset doctor` finds in the rig, and its advice followed word for word."""

from __future__ import annotations

import json
from dataclasses import dataclass

from . import hooks
from .rig import Rig

VERSION = 1


@dataclass(frozen=True)
class Finding:
    """One check, as the JSON document has it."""

    check: str
    title: str
    level: str
    seen: str
    advice: str

    def __str__(self) -> str:
        return f"{self.level} {self.check}: {self.seen} (hint: {self.advice})"


def examine(rig: Rig, command: str = hooks.COMMAND) -> dict[str, Finding]:
    """Ask the doctor; what it says for programs and its exit status agree."""
    asked = rig.run([command, "doctor", "-o", "json"], check=False)
    document = json.loads(asked.stdout)
    assert document["version"] == VERSION, document
    found = {each["check"]: Finding(**each) for each in document["checks"]}
    assert len(found) == len(document["checks"]), document
    failed = any(each.level == "FAIL" for each in found.values())
    assert (asked.returncode, asked.stderr) == (int(failed), ""), asked
    return found


def amiss(found: dict[str, Finding]) -> dict[str, str]:
    """The level of each check that did not pass."""
    return {each.check: each.level for each in found.values() if each.level != "PASS"}


def follow(rig: Rig, finding: Finding) -> None:
    """Do what it advises, up to the first comma: a person chooses."""
    rig.run(finding.advice.partition(", ")[0])
