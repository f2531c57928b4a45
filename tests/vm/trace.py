# SPDX-License-Identifier: LGPL-2.1-or-later
"""When vfio closed, reset and let go of a device, by the kernel's own clock.

Kernel: Documentation/trace/kprobetrace.rst; drivers/vfio/{vfio_main.c,pci/vfio_pci_core.c} (v6.1).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from .rig import Rig

FOLDER = "/sys/kernel/tracing"
ENDS = "sched_process_exit"
PROBED = {
    # The last close of a device: its reset is in there.
    "close": "vfio_pci_core_close_device",
    "reset": "__pci_reset_function_locked",
    # vfio-pci is unbound: waits until the device is closed.
    "unbind": "vfio_unregister_group_dev",
}
LINE = re.compile(r"^.*-(?P<pid>\d+) +\[\d+\] \S+ +(?P<seconds>[\d.]+): (?P<name>\w+): ", re.M)


@dataclass(frozen=True)
class Event:
    """Something began, was done (its name ends so), or a process ended."""

    name: str
    pid: int
    seconds: float


@contextmanager
def recorded(rig: Rig) -> Iterator[list[Event]]:
    """Fill the list that is given with what happens in the block."""
    events: list[Event] = []
    probes = [
        line
        for name, function in PROBED.items()
        for line in (f"p:rig/{name} {function}", f"r:rig/{name}_done {function}")
    ]
    rig.run(
        f"modprobe vfio-pci && cd {FOLDER} && echo mono > trace_clock && echo > trace"
        f" && cat > kprobe_events && echo 1 > events/rig/enable"
        f" && echo 1 > events/sched/{ENDS}/enable && echo 1 > tracing_on",
        stdin="\n".join(probes) + "\n",
    )
    try:
        yield events
    finally:
        said = rig.run(
            # With the probes goes what they have recorded.
            f"cd {FOLDER} && echo 0 > tracing_on && cat trace"
            f" && echo 0 > events/sched/{ENDS}/enable && echo 0 > events/rig/enable"
            " && echo > kprobe_events"
        ).stdout
    events += (Event(m["name"], int(m["pid"]), float(m["seconds"])) for m in LINE.finditer(said))


def held_after(events: Sequence[Event], tasks: Collection[int], keeper: int) -> float:
    """Seconds from QEMU's end to the end of the keeper's close, less the reset in that.

    :param tasks: QEMU's threads; the last closes its other devices when it has ended.
    """
    last = (ENDS, "close_done")
    ended = max(each.seconds for each in events if each.name in last and each.pid in tasks)
    ours = [each for each in events if each.pid == keeper]
    (closed,) = (each.seconds for each in ours if each.name == "close_done")
    return closed - ended - sum(durations(ours, "reset"))


def durations(events: Sequence[Event], name: str) -> list[float]:
    """How long each call took, in seconds."""
    began: dict[int, float] = {}
    lasted = []
    for each in events:
        if each.name == name:
            began[each.pid] = each.seconds
        elif each.name == f"{name}_done":
            lasted.append(each.seconds - began.pop(each.pid))
    return lasted
