# SPDX-License-Identifier: LGPL-2.1-or-later
"""A start and a stop with one real controller, in milliseconds by step, in the rig.

Under TCG everything is some twenty times slower than on hardware, but for the waits: compare the
steps with each other and with the interpreter, not with a clock.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable

from . import guests, hooks, image, outer, parts
from .drives import Drive
from .guests import Guest
from .rig import Rig, boot

STEPS = "/run/rig/checkout/tests/vm/steps.py"
COLUMNS = ("imports", "parse", "wake", "disable", "reset", "verify", "operation")
ROUNDS = 3


def interpreter(rig: Rig) -> float:
    """Median milliseconds of a bare interpreter."""
    command = ["/usr/bin/python3", "-I", "-S", "-c", "pass"]
    return statistics.median(rig.run(command).seconds * 1000 for _ in range(5))


def measure(rig: Rig, drive: Drive) -> dict[str, dict[str, float]]:
    """One start and one stop, the drive as the host's unbind and as a killed guest leaves it."""
    guest = Guest(rig, "bench", "shutdown", drive.bdf, managed=False)
    found: dict[str, dict[str, float]] = {}
    drive.detach()
    try:
        found.update(_timed(rig, guest, "start/begin"))
        drive.enable()
        found.update(_timed(rig, guest, "stopped/end"))
        _timed(rig, guest, "release/end")
    finally:
        drive.heal()
    return found


def _timed(rig: Rig, guest: Guest, *operations: str) -> dict[str, dict[str, float]]:
    command = ["/usr/bin/python3", "-I", STEPS, hooks.FOLDER, *operations]
    found: dict[str, dict[str, float]] = json.loads(rig.run(command, stdin=guest.xml).stdout)
    return found


def whole_process(rig: Rig, drive: Drive) -> dict[str, float]:
    """The same two calls as libvirtd makes them: the script, its fork, its exit."""
    guest = Guest(rig, "bench", "shutdown", drive.bdf, managed=False)
    drive.detach()
    try:
        start = hooks.call(rig, guest.name, "start", "begin", guest.xml).seconds
        drive.enable()
        stopped = hooks.call(rig, guest.name, "stopped", "end", guest.xml).seconds
        hooks.call(rig, guest.name, "release", "end", guest.xml)
    finally:
        drive.heal()
    return {"start": start * 1000, "stopped": stopped * 1000}


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def main() -> int:
    disk_image = image.ensure()
    with boot(disk_image, parts.ensure(disk_image)) as rig:
        guests.install_kernel(rig)
        hooks.install(rig)
        drive = Drive(rig, outer.ORDINARY, "ordinary")
        whole_process(rig, drive)  # writes the .pyc files
        bare = interpreter(rig)
        runs = [measure(rig, drive) for _ in range(ROUNDS)]
        wholes = [whole_process(rig, drive) for _ in range(ROUNDS)]
    print("in the rig, ms (median of 3; x: ratio to the interpreter's start there)")
    print(f"{'':9}{'interpreter':>12}" + "".join(f"{column:>10}" for column in COLUMNS), end="")
    print(f"{'process':>10}")
    for name in ("start", "stopped"):
        cells = [_median(run[name].get(column, 0.0) for run in runs) for column in COLUMNS]
        whole = statistics.median(each[name] for each in wholes)
        line = "".join(f"{cell:10.1f}" for cell in (*cells, whole))
        print(f"{name:9}{bare:12.1f}{line}  {whole / bare:.1f} x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
