# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``virt-nvme-reset show`` prints: all that is known of one controller, and its forecast.

Reads, and wakes nothing. Registers of one that is idle and awake are read under its lock: some
drives hang when they are looked at too soon after a hook has disabled them (``quirks``).
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

from . import admission, journal, marks
from .admission import Facts
from .bdf import Bdf
from .deadline import Deadline
from .engine import glimpse
from .errors import HookError
from .forecast import forecast
from .host import Host, Identity
from .observe import Observation, ids, number
from .policy import Mode, Policy
from .quirks import Quirk
from .registers import Register
from .snapshot import Process, printable
from .work import locked

WIDTH = 80
LABEL = 14
"""Columns for what a line is about."""
PATIENCE = 20.0
"""Seconds that the kernel may take to answer; only a person waits."""

Row = tuple[str, str]
"""What a line is about, and what is known of that."""


@dataclass(frozen=True)
class Known:
    """One controller, and what everybody knows of it."""

    bdf: Bdf
    vendor: int
    device: int
    driver: str | None
    identity: Identity | None
    users: tuple[Process, ...]
    seen: Observation | None
    unseen: str
    """Why it was not looked at; empty if it was."""
    quirk: Quirk
    owners: tuple[str, ...]
    dead: str | None
    stuck: str | None
    policy: Policy


def show(host: Host, policy: Policy, bdf: Bdf) -> str:
    """Return the lines about one controller, each of WIDTH columns at most.

    :raises Refused: there is none at *bdf*, and nothing is remembered of one.
    :raises HookError: the kernel did not let us look.
    """
    code = host.read_attr(bdf, "class")
    if code is not None or not _is_remembered(host, bdf):
        facts = Facts(bdf, code is not None, number(code), driver=None, open=False)
        refused = admission.refusal(facts, "be shown")
        if refused is not None:
            raise refused
    # By a worker, as everything that may block in the kernel, or kill who looks.
    job = partial(_told, host, policy)
    result = host.each([bdf], job, Deadline(host.monotonic, PATIENCE))[bdf]
    if isinstance(result, HookError):
        raise result
    return result


def _is_remembered(host: Host, bdf: Bdf) -> bool:
    given_up = marks.dead(host, bdf) is not None
    return given_up or bdf in journal.journaled(host) or bool(journal.owners_of(host, bdf))


def _told(host: Host, policy: Policy, bdf: Bdf) -> str:
    return "\n".join(lines(_find_out(host, policy, bdf)))


def _find_out(host: Host, policy: Policy, bdf: Bdf) -> Known:
    seen, unseen = None, ""
    try:
        with locked(host, bdf, policy, Deadline(host.monotonic, PATIENCE), ()) as work:
            seen = glimpse(work)
    except HookError as error:
        # All else is worth telling. Of one that another hook has, configuration space is not read
        # either: the kernel would have us wait for a reset's end.
        unseen = error.in_full.removeprefix(f"{bdf}: ")
    vendor, device = ids(host, bdf)
    return Known(
        bdf=bdf,
        vendor=vendor,
        device=device,
        driver=host.driver(bdf),
        identity=host.identity(bdf),
        users=tuple(host.vfio_users([bdf])[bdf]),
        seen=seen,
        unseen=unseen,
        quirk=policy.quirk(bdf, vendor, device),
        owners=tuple(each.uuid for each in journal.owners_of(host, bdf)),
        dead=marks.dead(host, bdf),
        stuck=marks.stuck(host, bdf),
        policy=policy,
    )


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
        yield from _hardware(known.seen)
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


def _hardware(seen: Observation) -> Iterator[Row]:
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
    if seen.gone:
        yield "state", f"gone: {seen.evidence}"
    elif seen.registers is None or seen.state is None:
        yield "registers", f"not read: {seen.unreadable}"
    else:
        yield "state", "disabled, pristine" if seen.pristine else seen.state.value
        for register in vars(seen.registers).values():
            yield type(register).__name__, _decoded(register)


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
    named = (known.bdf, known.vendor, known.device)
    close = known.policy.close(*named) or "left to vfio"
    denied = known.policy.denied(*named)
    said = f"{known.policy.mode}, guard {known.policy.guard(*named)}, close {close}"
    return f"{said}, denied by {denied}" if denied else said


def _forecast(known: Known) -> Iterator[Row]:
    if known.seen is None or known.seen.gone:
        yield "forecast", "none: nobody can tell"
        return
    named = (known.bdf, known.vendor, known.device)
    choice, close = known.policy.guard(*named), known.policy.close(*named)
    hook = known.policy.mode is Mode.ENFORCE
    for fate in forecast(known.seen, choice, close, hook):
        yield fate.moment, fate.describe()
