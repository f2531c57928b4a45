# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset doctor`: is this machine one on which the hook protects drives?"""

import textwrap
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict

from .. import doctor, inventory, policy
from ..doctor.facts import Facts, HostUse, Leftover
from ..doctor.findings import Finding, Level
from ..errors import BadPolicy, HookError, SysfsError
from ..host import Host
from ..linux import checkup
from ..policy import Policy
from . import domains
from .output import BAD, GOOD, WARN, emit, paint
from .terminal import width

TITLES = 30
MARGIN = TITLES + len(": PASS ")
LEAST = 20
"""Columns for what was seen, on however narrow a terminal."""
COLOURS = {Level.PASS: GOOD, Level.WARN: WARN, Level.FAIL: BAD}


def run(arguments: Namespace, host: Host) -> int:
    """Print a line a check; 1 if one failed."""
    found = list(doctor.examine(gather(host)))
    document = {"checks": [asdict(each) for each in found]}
    columns = width()
    emit(arguments, document, (line for each in found for line in _lines(each, columns)))
    return int(any(each.level is Level.FAIL for each in found))


def gather(host: Host) -> Facts:
    """Look at all of it; what cannot be looked at, as by a user, is itself a finding."""
    machine = checkup.gather()
    # Whoever reads one that is not trusted is told so on stderr; a check of its own says it here.
    known = Policy() if machine.policy.untrusted else _policy(host)
    try:
        return Facts(
            machine,
            inventory.drives(host, known),
            tuple(inventory.leftovers(host)),
            host_uses=_host_uses(host),
        )
    except HookError as error:
        return Facts(machine, (), (Leftover(error.message, error.hint or "run this as root"),))


def _host_uses(host: Host) -> tuple[HostUse, ...] | None:
    """None where libvirt cannot be asked for its guests."""
    guests = domains.definitions()
    if guests is None:
        return None
    return tuple(inventory.host_uses(host, guests, domains.running()))


def _policy(host: Host) -> Policy:
    """Without a complaint: a check of its own says what is wrong with it."""
    try:
        return policy.load(host)
    except (BadPolicy, SysfsError):
        return Policy()


def _lines(finding: Finding, columns: int | None) -> Iterator[str]:
    seen = [f"({finding.seen})"]
    if columns is not None:
        room = max(columns - MARGIN, LEAST)
        wrapper = textwrap.TextWrapper(room, break_long_words=False, break_on_hyphens=False)
        seen = wrapper.wrap(seen[0])
    level = paint(finding.level, COLOURS[finding.level])
    yield f"{finding.title:{TITLES}}: {level} {seen[0]}"
    yield from (f"{'':{MARGIN}}{line}" for line in seen[1:])
    if finding.advice:
        yield f"  hint: {finding.advice}"  # whole: it may be a command to be pasted
