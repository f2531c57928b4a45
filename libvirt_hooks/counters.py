# SPDX-License-Identifier: LGPL-2.1-or-later
"""What has been done since the boot, counted: ``metrics/<name>``, where metrics are asked for.

Each record has one writer at a time, whoever has the lock of its name: a controller's is written
by who works on it, so no worker waits for another to count. ``total`` adds them up.
"""

import logging
import math
from collections import Counter
from collections.abc import Mapping

from . import store
from .bdf import Bdf
from .errors import BadRecord
from .host import Host
from .ladder import Method
from .policy import Policy
from .work import Work

log = logging.getLogger(__name__)

METRICS = "metrics"
RESETS = "virt_nvme_reset_resets_total"
DONE, FAILED = "done", "failed"

Key = tuple[str, ...]
"""The name of a family, and the values of its labels."""

Counts = Mapping[Key, float]


def tried(work: Work, method: Method, completed: bool) -> None:
    """Count one way to reset the controller under work, and whether it ran to its end."""
    key = (RESETS, str(method), DONE if completed else FAILED)
    count(work.host, work.policy, work.bdf, {key: 1})


def count(host: Host, policy: Policy, name: Bdf | str, counts: Counts) -> None:
    """Add *counts* to a record, if anybody has asked for metrics. For the lock's holder only.

    That it fails is told, and no reason to fail.
    """
    if policy.metrics.textfile is None:
        return
    try:
        known = Counter(_load(host, str(name)))
        known.update(counts)
        content = [[*key, number] for key, number in known.items()]
        store.save(host, METRICS, str(name), {"counts": content})
    except BadRecord as error:
        log.warning("not counted: %s", error.message)


def total(host: Host) -> dict[Key, float]:
    """Return what all records say together.

    :raises BadRecord: they cannot be listed.
    """
    found: Counter[Key] = Counter()
    for name in host.records.names(METRICS):
        found.update(_load(host, name))
    return dict(found)


def _load(host: Host, name: str) -> dict[Key, float]:
    """What a record says; one that cannot be believed says nothing, and is written anew."""
    try:
        content = store.load(host, METRICS, name) or {}
        return dict(_pair(row) for row in content.get("counts", ()))
    except (BadRecord, TypeError, ValueError) as error:
        log.warning("%s/%s: %s: begun anew", METRICS, name, error)
        return {}


def _pair(row: object) -> tuple[Key, float]:
    match row:
        case [*key, int(number) | float(number)] if key and 0 <= number < math.inf:
            return tuple(map(str, key)), number
    raise ValueError("no record of counts")
