# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find out what admission wants to know about controllers. Reads; opens disks, writes nothing.

What a disk is used for is asked twice if the answer may be gone in a moment: udev and smartd open
a disk for a blink, and a guest must not be refused for that.
"""

import logging
from collections.abc import Mapping, Sequence

from . import journal, marks, usage
from .admission import Facts
from .bdf import Bdf
from .errors import HookError, Stuck
from .host import Host
from .identity import Expected
from .observe import NVME, ids, is_open, number
from .operation import Operation
from .usage import Use

log = logging.getLogger(__name__)


def survey(
    operation: Operation,
    uuid: str,
    bdfs: Sequence[Bdf],
    expected: Mapping[Bdf, Expected] | None = None,
    reviving: bool = True,
) -> list[Facts]:
    """Gather the facts about each of *bdfs*, for the guest *uuid*.

    :param expected: the drives that the guest expects, by address.
    :param reviving: take the mark off a drive that was given up and has come back.
    :raises SysfsError: the kernel refused a read.
    """
    host = operation.host
    used, failed = _uses(operation, [bdf for bdf in bdfs if host.driver(bdf) == NVME])
    facts = []
    for bdf in bdfs:
        code = host.read_attr(bdf, "class")
        driver = host.driver(bdf) if code is not None else None
        facts.append(
            Facts(
                bdf=bdf,
                present=code is not None,
                class_code=number(code),
                driver=driver,
                open=is_open(host, bdf, driver),
                owner=journal.other_owner(host, uuid, bdf),
                virtual_functions=host.virtual_functions(bdf),
                denied=operation.policy.denied(bdf, *ids(host, bdf)),
                users=tuple(operation.users.get(bdf, ())),
                uses=used.get(bdf, ()),
                dead=_dead(host, bdf, reviving),
                stuck=marks.stuck(host, bdf) or _said(bdf, failed.get(bdf), stuck=True),
                unknown=_said(bdf, failed.get(bdf), stuck=False),
                mismatch=_mismatch(host, bdf, (expected or {}).get(bdf)),
            )
        )
    return facts


def _uses(
    operation: Operation, bdfs: Sequence[Bdf]
) -> tuple[dict[Bdf, tuple[Use, ...]], dict[Bdf, HookError]]:
    """What the host does with each disk; and of which disks nobody could find out, and why."""
    used: dict[Bdf, tuple[Use, ...]] = {}
    unanswered: dict[Bdf, HookError] = {}
    for attempt in range(usage.PATIENCE):
        left = [
            bdf
            for bdf in bdfs
            if not attempt or usage.may_pass(used.get(bdf, ())) or _may_answer(unanswered.get(bdf))
        ]
        if not left:
            break
        if attempt:
            operation.host.sleep(usage.PAUSE)
        claims, failed = _claims(operation, left)
        unanswered = {bdf: why for bdf, why in unanswered.items() if bdf not in left} | failed
        snapshot = operation.host.usage(left)
        if snapshot.unseen:
            log.info("descriptors of %d processes could not be read", snapshot.unseen)
        used |= {bdf: usage.uses(snapshot, bdf, claims.get(bdf)) for bdf in left}
    return used, unanswered


def _claims(
    operation: Operation, bdfs: Sequence[Bdf]
) -> tuple[dict[Bdf, list[str]], dict[Bdf, HookError]]:
    """Which disks do not open exclusively. In workers: an open may wait for a disk for ever."""
    host = operation.host
    free = [bdf for bdf in bdfs if marks.stuck(host, bdf) is None]
    results = operation.ask(free, lambda bdf: " ".join(host.claimed(bdf)))
    said = {bdf: each.split() for bdf, each in results.items() if isinstance(each, str)}
    return said, {bdf: each for bdf, each in results.items() if isinstance(each, HookError)}


def _may_answer(error: HookError | None) -> bool:
    """Is another try worth it? Not where the kernel did not come back from the last."""
    return error is not None and not isinstance(error, Stuck)


def _said(bdf: Bdf, error: HookError | None, stuck: bool) -> str | None:
    if error is None or isinstance(error, Stuck) is not stuck:
        return None
    return error.message.removeprefix(f"{bdf}: ")


def _dead(host: Host, bdf: Bdf, reviving: bool) -> str | None:
    """A drive that its driver can use again has come back, whoever brought it."""
    why = marks.dead(host, bdf)
    if why is not None and host.nvme_state(bdf) == "live":
        if reviving:
            marks.revive(host, bdf)
        return None
    return why


def _mismatch(host: Host, bdf: Bdf, expected: Expected | None) -> str | None:
    if expected is None:
        return None
    identity = host.identity(bdf)
    if identity is None:
        return expected.mismatch(None, None)
    return expected.mismatch(identity.serial, identity.euis)
