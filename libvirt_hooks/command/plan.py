# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset plan`: what the hook would do in a guest's life, and what would refuse it."""

import textwrap
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict

from ..errors import BadName
from ..host import Host
from ..planning import LIBVIRT, Objection, Outlook, Plan, plan
from ..policy import Mode
from ..snapshot import printable
from ..worst import SLOWEST
from .domains import chosen
from .output import emit

WIDTH = 80
LABEL = 14
"""Columns for the moment that a line is about."""
MARGIN = LABEL + 2
UNIT = "\N{NO-BREAK SPACE}s"
"""Seconds, on the line of their number."""


def run(arguments: Namespace, host: Host) -> int:
    """Print it; return 1 if something would refuse the start.

    :raises BadName: no guest was named.
    :raises HookError: the guest, or a controller of it, could not be looked at.
    """
    domain = chosen(arguments)
    if domain is None:
        raise BadName("no guest: expected DOMAIN or --xml FILE", "virsh list --all")
    found = plan(host, domain)
    emit(arguments, document(found), lines(found))
    return 0 if found.starts else 1


def document(found: Plan) -> dict[str, object]:
    """Return it for programs."""
    return {**asdict(found), "starts": found.starts}


def lines(found: Plan) -> Iterator[str]:
    """Word it: what is about the guest, then a block for each controller, then the verdict."""
    yield from _wrapped(_heading(found))
    here = {each.bdf for each in found.controllers}
    for each in found.objections:
        if each.bdf not in here:
            yield from _objection(each, each.message)
    for controller in found.controllers:
        yield from _controller(controller, [o for o in found.objections if o.bdf == controller.bdf])
    if not found.controllers:
        yield "it has no NVMe controller of the host: the hook leaves it alone"
    else:
        yield from _seconds(found)
    if not found.running:
        yield "nothing speaks against the start" if found.starts else "the start would be refused"


def _heading(found: Plan) -> str:
    who = printable(f"plan for guest {found.name} ({found.uuid})")
    running = ", which runs: the rest of its life" if found.running else ""
    return f"{who}, mode {found.mode}{running}" if found.controllers else f"{who}{running}"


def _controller(controller: Outlook, objections: list[Objection]) -> Iterator[str]:
    ids = f"  {controller.vendor}:{controller.device}" if controller.vendor else ""
    quirk = ": ".join(filter(None, (controller.quirk, controller.symptom)))
    yield from _wrapped(f"{controller.bdf}{ids}{f'  {quirk}' if quirk else ''}", indent=14)
    if controller.unseen:
        yield from _row("hardware", f"not looked at: {controller.unseen}")

    def said(each: Objection) -> str:
        return each.message.removeprefix(f"{controller.bdf}: ")

    moments = [part.moment for part in controller.parts]
    for each in objections:
        if each.operation not in moments:
            yield from _objection(each, said(each))
    for part in controller.parts:
        if part.does:
            yield from _row(part.moment, "; ".join(part.does))
        for each in objections:
            if each.operation == part.moment:
                yield from _objection(each, said(each))


def _objection(each: Objection, message: str) -> Iterator[str]:
    by = "" if each.by == LIBVIRT else ("refused: " if each.refuses else "only say: ")
    yield from _row(each.operation, f"{by}{message}")
    if each.hint:
        yield from _row("", f"hint: {each.hint}")


def _seconds(found: Plan) -> Iterator[str]:
    if not found.seconds:
        return
    each = [f"{name} {seconds:g}{UNIT}" for name, seconds in found.seconds.items() if seconds]
    yield from _row("at worst", f"{', '.join(each[:-1])}; {each[-1]}", indent=0)
    if found.unread and (found.running or found.mode == Mode.ENFORCE):
        who = ", ".join(found.unread)
        yield from _row("", f"with {SLOWEST:g}{UNIT} for CAP.TO, which cannot be read now: {who}")


def _row(label: str, text: str, indent: int = 2) -> Iterator[str]:
    wrapped = textwrap.wrap(text, WIDTH - MARGIN, break_on_hyphens=False)
    first, *more = (line.replace(UNIT, " s") for line in wrapped)
    yield f"{'':{indent}}{label:{MARGIN - indent}}{first}"
    yield from (f"{'':{MARGIN}}{line}" for line in more)


def _wrapped(text: str, indent: int = 2) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)
