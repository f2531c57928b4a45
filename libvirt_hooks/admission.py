# SPDX-License-Identifier: LGPL-2.1-or-later
"""May this controller go to a guest now? Facts in, the first reason against it out. Pure.

A rule is a row, in the order in which a person would want to hear of it. What the host itself
does with the disk is ``usage``'s to judge; here it is one row.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .bdf import Bdf
from .errors import Refused
from .nvme import CLASS_NVME
from .observe import NVME, VFIO_PCI
from .snapshot import Process
from .usage import Use, is_root, listed, remedy


@dataclass(frozen=True)
class Facts:
    """What was found out about one controller before a guest starts."""

    bdf: Bdf
    present: bool
    class_code: int
    driver: str | None
    open: bool
    """vfio-pci has enabled it: somebody has it open."""
    owner: str | None = None
    """uuid of another guest that has it, by its record."""
    virtual_functions: int = 0
    denied: str | None = None
    """The policy's entry that denies it."""
    users: tuple[Process, ...] = ()
    """Who has its vfio group or cdev open."""
    uses: tuple[Use, ...] = ()
    """What the host does with its disk."""
    dead: str | None = None
    stuck: str | None = None
    unknown: str | None = None
    """Why nobody could find out what the host does with its disk."""
    mismatch: str | None = None
    """In what it differs from the drive that the guest expects."""

    @property
    def is_foreign(self) -> bool:
        """Has a driver it that is neither the host's nor one of vfio's (SPDK's uio, say)?"""
        return self.driver is not None and self.driver != NVME and "vfio" not in self.driver

    @property
    def is_idle(self) -> bool:
        """Is it left to us, for no driver will clean it and no guest has it?"""
        return self.driver in (None, VFIO_PCI) and self.owner is None

    @property
    def is_root(self) -> bool:
        """Does this host run from it? Then no policy gives it away."""
        return is_root(self.uses)


@dataclass(frozen=True)
class Rule:
    """A reason to refuse: in a word, when, what was seen against what was expected, next move."""

    kind: str
    applies: Callable[[Facts], bool]
    seen: Callable[[Facts], str]
    hint: Callable[[Facts], str]


RULES = (
    Rule(
        "host-root",
        lambda facts: facts.is_root,
        lambda facts: f"in use by the host: {listed(facts.uses)}",
        lambda facts: remedy(facts.uses),
    ),
    Rule(
        "dead",
        lambda facts: facts.dead is not None,
        lambda facts: f"given up in this boot: {facts.dead}",
        lambda facts: f"power the host off and on; or try virt-nvme-reset recover {facts.bdf}",
    ),
    Rule(
        "absent",
        lambda facts: not facts.present,
        lambda facts: "there is no such PCI function",
        lambda facts: "look for its address with: lspci -D -d ::0108",
    ),
    Rule(
        "not-nvme",
        lambda facts: facts.present and facts.class_code != CLASS_NVME,
        lambda facts: f"class {facts.class_code:#08x}, expected {CLASS_NVME:#08x} (NVMe)",
        lambda facts: "look for its address with: lspci -D -d ::0108",
    ),
    Rule(
        "foreign-driver",
        lambda facts: facts.is_foreign,
        lambda facts: f"driver is {facts.driver}, expected {NVME}, {VFIO_PCI} or none",
        lambda facts: "end whatever uses it through that driver, and unbind it",
    ),
    Rule(
        "denied",
        lambda facts: facts.denied is not None,
        lambda facts: f"denied by /etc/virt-nvme-reset.toml: {facts.denied}",
        lambda facts: "take it off the deny list there",
    ),
    Rule(
        "mismatch",
        lambda facts: facts.mismatch is not None,
        lambda facts: f"not the drive that this guest expects: {facts.mismatch}",
        lambda facts: (
            "addresses move when hardware is added: see which one it is in"
            " /dev/disk/by-id, then correct the domain"
        ),
    ),
    Rule(
        "stuck",
        lambda facts: facts.stuck is not None,
        lambda facts: f"an earlier hook is still in the kernel with it: {facts.stuck}",
        lambda facts: "wait for it; if it never ends, power the host off and on",
    ),
    Rule(
        "unknown",
        lambda facts: facts.unknown is not None,
        lambda facts: f"nobody can say whether the host uses it: {facts.unknown}",
        lambda facts: "see what dmesg says about it",
    ),
    Rule(
        "guest",
        lambda facts: facts.open and facts.owner is not None,
        lambda facts: f"in use by the guest with uuid {facts.owner}",
        lambda facts: "stop that guest first",
    ),
    Rule(
        "open",
        lambda facts: facts.open or bool(facts.users),
        lambda facts: "open through vfio" + "".join(f", by {each}" for each in facts.users[:4]),
        lambda facts: "end the process that has it open",
    ),
    Rule(
        "host",
        lambda facts: bool(facts.uses),
        lambda facts: f"in use by the host: {listed(facts.uses)}",
        lambda facts: remedy(facts.uses),
    ),
    Rule(
        "virtual-functions",
        lambda facts: facts.virtual_functions > 0,
        lambda facts: f"{facts.virtual_functions} virtual functions are enabled, expected none",
        lambda facts: "write 0 to its sriov_numvfs",
    ),
)


def refusal(facts: Facts, what: str = "go to the guest") -> Refused | None:
    """Return the first reason against it, None if there is none.

    :param what: what may not be done with it, for the message.
    """
    return next(refusals(facts, what), None)


def refusals(facts: Facts, what: str = "go to the guest") -> Iterator[Refused]:
    """Yield every reason against it, in the order of RULES; what two rules say is said once."""
    said = set()
    for rule in RULES:
        if rule.applies(facts) and (seen := rule.seen(facts)) not in said:
            said.add(seen)
            yield Refused(f"{facts.bdf}: may not {what}: {seen}", rule.hint(facts), rule.kind)
