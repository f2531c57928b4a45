# SPDX-License-Identifier: LGPL-2.1-or-later
"""Metrics: what is counted, when, and the file that node_exporter's textfile collector reads.

The counters are records (``counters``); the file is only what they say, written anew after each
operation, and may be lost. Where the policy names no directory, nothing is counted or written.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from . import counters, keepers, marks, store
from .counters import METRICS, Key
from .errors import BadPolicy, HookError, SysfsError
from .exposition import Family, Kind, Labels, render
from .host import Host
from .policy import Policy, load

log = logging.getLogger(__name__)

FILE = "virt_nvme_reset.prom"
OPERATIONS_RECORD = "operations"
LOCK_TIMEOUT = 0.5
"""Seconds: a guest waits. What is not counted then is lost."""

RESETS = Family(
    counters.RESETS,
    Kind.COUNTER,
    "Ways to reset a controller that were tried since the boot, and whether they ran to their end.",
    ("method", "result"),
)
OPERATIONS = Family(
    "virt_nvme_reset_operations_total",
    Kind.COUNTER,
    "Operations since the boot: of libvirt, of the command, and of keepers.",
    ("operation",),
)
SECONDS = Family(
    "virt_nvme_reset_seconds_total",
    Kind.COUNTER,
    "Seconds that these operations took.",
    ("operation",),
)
REFUSALS = Family(
    "virt_nvme_reset_refusals_total",
    Kind.COUNTER,
    "Starts of guests that were refused since the boot, by reason.",
    ("reason",),
)
COUNTED = {family.name: family for family in (RESETS, OPERATIONS, SECONDS, REFUSALS)}

DEAD = Family("virt_nvme_reset_dead", Kind.GAUGE, "Controllers that are given up in this boot.")
HELD = Family("virt_nvme_reset_held", Kind.GAUGE, "Controllers that a keeper holds.")


@contextmanager
def measured(
    host: Host, operation: str, policy: Policy | None = None, may_refuse: bool = False
) -> Iterator[None]:
    """Count an operation, and publish what is known when it has ended.

    :param policy: None: to be found out, if there is one that can be believed.
    :param may_refuse: an error refuses a guest's start.
    """
    began = host.monotonic()
    reason = ""
    try:
        yield
    except Exception as error:
        reason = error.reason if isinstance(error, HookError) else "internal-error"
        raise
    finally:
        counts: dict[Key, float] = {
            (OPERATIONS.name, operation): 1,
            (SECONDS.name, operation): host.monotonic() - began,
        }
        if reason and may_refuse:
            counts[REFUSALS.name, reason] = 1
        publish(host, policy or _believed(host), counts)


def publish(host: Host, policy: Policy, counts: Mapping[Key, float] | None = None) -> None:
    """Add *counts*, and write the file. That it fails is one warning, and no reason to fail."""
    if policy.metrics.textfile is None:
        return
    try:
        # The file under the lock, too: a hook that was overtaken must not bring old counts back.
        with host.lock(METRICS, LOCK_TIMEOUT):
            if counts:
                counters.count(host, policy, OPERATIONS_RECORD, counts)
            host.publish(f"{policy.metrics.textfile}/{FILE}", text(host))
    except HookError as error:
        log.warning("no metrics: %s", error.message)
    except Exception:  # a number decides over no guest
        log.error("no metrics: internal error", exc_info=True)


def text(host: Host) -> str:
    """Return the file's text.

    :raises BadRecord: the records cannot be listed.
    """
    found: dict[str, dict[Labels, float]] = {name: {} for name in COUNTED}
    for (name, *labels), number in counters.total(host).items():
        # Another version of ours may have counted other things.
        if name in COUNTED and len(labels) == len(COUNTED[name].labels):
            found[name][tuple(labels)] = number
    gauges: dict[Family, dict[Labels, float]] = {
        DEAD: {(): sum(marks.dead(host, bdf) is not None for bdf in store.bdfs(host, marks.DEAD))},
        HELD: {(): len({bdf for keeper in keepers.find_all(host) for bdf in keeper.bdfs})},
    }
    counted = {family: found[name] for name, family in COUNTED.items()}
    return render({**counted, **gauges})


def _believed(host: Host) -> Policy:
    """The policy; what is wrong with it has been told by who acted under it."""
    try:
        return load(host)
    except (BadPolicy, SysfsError):
        return Policy()
