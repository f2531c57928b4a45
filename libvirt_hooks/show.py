# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``virt-nvme-reset show`` prints: all that is known of one controller, and its forecast."""

import textwrap
from collections.abc import Iterator
from enum import IntEnum

from .bdf import Bdf
from .host import Host
from .known import Known, find_out
from .pci import Capabilities
from .policy import Policy
from .quirks import Quirk
from .registers import Register
from .snapshot import printable

WIDTH = 80
LABEL = 14
"""Columns for what a line is about."""

Row = tuple[str, str]
"""What a line is about, and what is known of that."""


def show(host: Host, policy: Policy, bdf: Bdf) -> str:
    """Return the lines about one controller, each of WIDTH columns at most.

    :raises HookError: see ``find_out``.
    """
    return find_out(host, policy, bdf, lambda known: "\n".join(lines(known)))


def lines(known: Known) -> Iterator[str]:
    """Word it: a heading, and a row for each thing."""
    ids = f"  {known.vendor:04x}:{known.device:04x}" if known.vendor else ""
    yield f"{known.bdf}{ids}"
    for label, text in _rows(known):
        first, *more = textwrap.wrap(text, WIDTH - LABEL - 2, break_on_hyphens=False)
        yield f"  {label:{LABEL}}{first}"
        yield from (f"{'':{LABEL + 2}}{line}" for line in more)


def _rows(known: Known) -> Iterator[Row]:
    if known.identity is not None:
        drive = known.identity
        yield "drive", printable(f"{drive.model}, serial {drive.serial}")
    yield "driver", _driver(known)
    if known.seen is None:
        yield "hardware", f"not looked at: {known.unseen}"
    else:
        yield from _hardware(known)
    yield from _quirk(known.quirk)
    yield "owner", ", ".join(f"the guest with uuid {uuid}" for uuid in known.owners) or "no guest"
    marked = {"dead": known.dead, "stuck": known.stuck}
    yield "marks", "; ".join(f"{mark}: {why}" for mark, why in marked.items() if why) or "none"
    yield "policy", _policy(known)
    yield from _forecast(known)


def _driver(known: Known) -> str:
    state = known.seen.nvme_state if known.seen else None
    said = [known.driver or "none", *([state] if state else [])]
    if known.users:
        said.append(f"open, by {', '.join(map(str, known.users))}")
    elif known.seen and known.seen.open:
        said.append("open")
    return ", ".join(said)


def _hardware(known: Known) -> Iterator[Row]:
    seen = known.seen
    assert seen is not None, "asked before"
    yield "power", seen.power_state
    methods = " ".join(seen.reset_methods or ()) or "none"
    if seen.offered != (seen.reset_methods or ()):
        methods += f", guarded; it was {' '.join(seen.offered)}"
    yield "reset_method", methods
    yield "neighbours", ", ".join(map(str, seen.neighbours)) or "none on its bus"
    if seen.virtual_functions:
        yield "VFs", f"{seen.virtual_functions} enabled"
    root = "none: it is on a root bus" if seen.present else "not known"
    yield "port", str(seen.port or root)
    yield "slot", seen.slot or "none whose power can be switched"
    if seen.present:
        yield "IOMMU group", _group(known)
    if known.capabilities is not None:
        yield "capabilities", ", ".join(_capabilities(known.capabilities)) or "none that matter"
    if seen.gone:
        yield "state", f"gone: {seen.evidence}"
    elif seen.registers is None or seen.state is None:
        yield "registers", f"not read: {seen.unreadable}"
    else:
        yield "state", "disabled, pristine" if seen.pristine else seen.state.value
        for register in vars(seen.registers).values():
            yield type(register).__name__, _decoded(register)


def _group(known: Known) -> str:
    if known.group is None:
        return "none: no IOMMU, or it is off"
    name, others = known.group
    return f"{name}, with {', '.join(map(str, others))}" if others else f"{name}, alone"


def _capabilities(has: Capabilities) -> Iterator[str]:
    if has.flr:
        yield "FLR"
    if has.no_soft_reset is not None:
        yield f"PM NoSoftRst={has.no_soft_reset:d}"
    if has.msix_size is not None:
        yield f"MSI-X size={has.msix_size}"


def _decoded(register: Register) -> str:
    """``0x00000009 RDY=1 CFS=0 SHST=2(complete)``: no blank in a field, where a line may end."""
    words = [register.raw.partition("=")[2]]
    for name, field in register.fields().items():
        value = field.meaning(field.extract(register))
        meaning = f"({value.name.lower()})" if isinstance(value, IntEnum) else ""
        words.append(f"{name}={value:d}{meaning}")
    return " ".join(words)


def _quirk(quirk: Quirk) -> Iterator[Row]:
    if not quirk.name:
        yield "quirk", "none known"
        return
    yield "quirk", ": ".join(filter(None, (quirk.name, quirk.symptom)))
    yield "source", quirk.source
    yield "behaviour", ", ".join(_behaviour(quirk)) or "none"


def _behaviour(quirk: Quirk) -> Iterator[str]:
    for name, value in quirk._asdict().items():
        match value:
            case True:
                yield name
            case float() if value:
                yield f"{name} {value:g} s"


def _policy(known: Known) -> str:
    close = known.close or "left to vfio"
    said = f"{known.policy.mode}, guard {known.guard}, close {close}"
    return f"{said}, denied by {known.denied}" if known.denied else said


def _forecast(known: Known) -> Iterator[Row]:
    if not known.fates:
        yield "forecast", "none: nobody can tell"
    for fate in known.fates:
        yield fate.moment, fate.describe()
