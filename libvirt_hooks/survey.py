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
from .errors import HookError
from .host import Host
from .identity import Expected
from .observe import NVME, is_open, number
from .operation import Operation
from .usage import Use

log = logging.getLogger(__name__)


def survey(
    operation: Operation,
    uuid: str,
    bdfs: Sequence[Bdf],
    expected: Mapping[Bdf, Expected] | None = None,
) -> list[Facts]:
    """Gather the facts about each of *bdfs*, for the guest *uuid*.

    :param expected: the drives that the guest expects, by address.
    :raises SysfsError: the kernel refused a read.
    """
    host = operation.host
    used, unanswered = _uses(operation, [bdf for bdf in bdfs if host.driver(bdf) == NVME])
    facts = []
    for bdf in bdfs:
        code = host.read_attr(bdf, "class")
        vendor, device = (number(host.read_attr(bdf, name)) for name in ("vendor", "device"))
        driver = host.driver(bdf) if code is not None else None
        facts.append(
            Facts(
                bdf=bdf,
                present=code is not None,
                class_code=number(code),
                driver=driver,
                open=is_open(host, bdf, driver),
                owner=journal.other_owner(host, uuid, bdf),
                virtual_functions=number(host.read_attr(bdf, "sriov_numvfs")),
                denied=operation.policy.denied(bdf, vendor, device),
                users=tuple(operation.users.get(bdf, ())),
                uses=used.get(bdf, ()),
                dead=_dead(host, bdf),
                stuck=marks.stuck(host, bdf) or unanswered.get(bdf),
                mismatch=_mismatch(host, bdf, (expected or {}).get(bdf)),
            )
        )
    return facts


def _uses(
    operation: Operation, bdfs: Sequence[Bdf]
) -> tuple[dict[Bdf, tuple[Use, ...]], dict[Bdf, str]]:
    """What the host does with each disk; and of which disks nobody could find out, and why."""
    used: dict[Bdf, tuple[Use, ...]] = {}
    unanswered: dict[Bdf, str] = {}
    for attempt in range(usage.PATIENCE):
        left = [bdf for bdf in bdfs if not attempt or usage.may_pass(used.get(bdf, ()))]
        if not left:
            break
        if attempt:
            operation.host.sleep(usage.PAUSE)
        claims, failed = _claims(operation, left)
        unanswered |= failed
        snapshot = operation.host.usage(left)
        if snapshot.unseen:
            log.info("descriptors of %d processes could not be read", snapshot.unseen)
        used |= {bdf: usage.uses(snapshot, bdf, claims.get(bdf)) for bdf in left}
    return used, unanswered


def _claims(
    operation: Operation, bdfs: Sequence[Bdf]
) -> tuple[dict[Bdf, list[str]], dict[Bdf, str]]:
    """Which disks do not open exclusively. In workers: an open may wait for a disk for ever."""
    host = operation.host
    free = [bdf for bdf in bdfs if marks.stuck(host, bdf) is None]
    results = operation.ask(free, lambda bdf: " ".join(host.claimed(bdf)))
    said = {bdf: each.split() for bdf, each in results.items() if isinstance(each, str)}
    failed = {
        bdf: each.message.removeprefix(f"{bdf}: ")
        for bdf, each in results.items()
        if isinstance(each, HookError)
    }
    return said, failed


def _dead(host: Host, bdf: Bdf) -> str | None:
    """A drive that its driver can use again has come back, whoever brought it."""
    why = marks.dead(host, bdf)
    if why is not None and host.nvme_state(bdf) == "live":
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
