# SPDX-License-Identifier: LGPL-2.1-or-later
"""May this controller go to a guest now? Facts in, the first reason against it out. Pure.

A rule is a row, in the order in which a person would want to hear of it. What the host itself
does with the disk becomes more facts and more rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

from .bdf import Bdf
from .errors import Refused
from .nvme import CLASS_NVME


@dataclass(frozen=True)
class Facts:
    """What was found out about one controller before a guest starts."""

    bdf: Bdf
    present: bool
    class_code: int
    driver: str | None
    open: bool
    owner: str | None
    """uuid of another guest that has it, by its record."""
    virtual_functions: int
    denied: bool


@dataclass(frozen=True)
class Rule:
    """A reason to refuse: when, what was seen against what was expected, and the next move."""

    applies: Callable[[Facts], bool]
    seen: Callable[[Facts], str]
    hint: str


RULES = (
    Rule(
        lambda facts: not facts.present,
        lambda facts: "there is no such PCI function",
        "look for its address with: lspci -D -d ::0108",
    ),
    Rule(
        lambda facts: facts.class_code != CLASS_NVME,
        lambda facts: f"class {facts.class_code:#08x}, expected {CLASS_NVME:#08x} (NVMe)",
        "look for its address with: lspci -D -d ::0108",
    ),
    Rule(
        lambda facts: facts.denied,
        lambda facts: "denied by /etc/virt-nvme-reset.toml",
        "take it off the deny list there",
    ),
    Rule(
        lambda facts: facts.open and facts.owner is not None,
        lambda facts: f"in use by the guest with uuid {facts.owner}",
        "stop that guest first",
    ),
    Rule(
        lambda facts: facts.open,
        lambda facts: "somebody has it open through vfio",
        "end the process that has it open",
    ),
    Rule(
        lambda facts: facts.virtual_functions > 0,
        lambda facts: f"{facts.virtual_functions} virtual functions are enabled, expected none",
        "write 0 to its sriov_numvfs",
    ),
)


def refusal(facts: Facts) -> Refused | None:
    """Return the first reason against it, None if there is none."""
    for rule in RULES:
        if rule.applies(facts):
            return Refused(
                f"{facts.bdf}: may not go to the guest: {rule.seen(facts)}", hint=rule.hint
            )
    return None
