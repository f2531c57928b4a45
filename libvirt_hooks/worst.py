# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long each operation of libvirt's may take at worst. Pure.

The deadline is one for all of a guest's controllers, and each may put it off by what it is allowed
to take (``deadline``): its CAP.TO where it is disabled, and the host's driver's time at `release`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .keepers import START_TIMEOUT
from .ladder import LIVE_TIMEOUT
from .nvme import CAP
from .policy import Mode, Policy

OPERATIONS = ("prepare", "start", "started", "stopped", "release")
AT_END = OPERATIONS[3:]
IN_ALL = "in all"

SLOWEST = CAP(0xFF << 24).ready_timeout
"""What a drive may take whose CAP.TO nobody can read now: the most that it can say."""


@dataclass(frozen=True)
class Drive:
    """What counts of one controller."""

    ready_timeout: float | None
    """By its CAP.TO; None: not readable."""
    idle: bool
    """`prepare` cleans it."""
    to_host: bool
    """`release` waits for the host's driver."""
    keeper: bool


def seconds(policy: Policy, drives: Sequence[Drive], running: bool = False) -> dict[str, float]:
    """Return the most seconds that each operation takes, in a life's order; `reconnect` is none.

    :param running: the guest has been started.
    """
    most = _most(policy, drives)
    left = {name: most[name] for name in (AT_END if running else OPERATIONS)}
    return {**left, IN_ALL: sum(left.values())}


def _most(policy: Policy, drives: Sequence[Drive]) -> dict[str, float]:
    if policy.mode is not Mode.ENFORCE:  # nobody waits for a drive: it is only looked at
        looks = OPERATIONS if policy.mode is Mode.OBSERVE else OPERATIONS[:1]
        return {each: _bound(policy, ()) if each in looks else 0.0 for each in OPERATIONS}
    return {
        "prepare": _bound(policy, (_slow(each) for each in drives if each.idle)),
        "start": _bound(policy, map(_slow, drives)),
        "started": START_TIMEOUT if any(each.keeper for each in drives) else 0.0,
        "stopped": _bound(policy, map(_slow, drives)),
        "release": _bound(policy, map(_recovered, drives)),
    }


def _bound(policy: Policy, allowed: Iterable[float]) -> float:
    return min(policy.deadline + max(allowed, default=0.0), policy.deadline_cap)


def _slow(drive: Drive) -> float:
    return SLOWEST if drive.ready_timeout is None else drive.ready_timeout


def _recovered(drive: Drive) -> float:
    return _slow(drive) + (LIVE_TIMEOUT if drive.to_host else 0.0)
