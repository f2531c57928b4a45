# SPDX-License-Identifier: LGPL-2.1-or-later
"""A hook killed in mid-life: whom, when, and what came of it. The killing is done by ``killer``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from .rig import Rig

KILLER = "/run/rig/checkout/tests/vm/killer.py"
READY = "/run/rig/killer-ready"
# It waits 120 s for a hook.
KILLER_TIMEOUT = 200.0


@dataclass(frozen=True)
class Kill:
    """To be killed: the next hook of an operation."""

    operation: str
    whom: str
    moment: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.whom} at {self.operation} {' '.join(self.moment)}"


def after(operation: str, whom: str, seconds: float) -> Kill:
    """Kill it so long after it appeared."""
    return Kill(operation, whom, ("after", f"{seconds:.3f}"))


def working(operation: str, whom: str, seconds: float) -> Kill:
    """Kill it so long after it has a worker, if it ever has."""
    return Kill(operation, whom, ("working", f"{seconds:.3f}"))


def when(operation: str, whom: str, path: str, text: str) -> Kill:
    """Kill it once the file holds the text; with ``=`` before it, that and no more."""
    return Kill(operation, whom, ("when", path, text))


@dataclass(frozen=True)
class Killed:
    """Whom it has hit, so many seconds after the hook appeared; or why nobody."""

    killed: list[int]
    elapsed: float
    escaped: str

    def __str__(self) -> str:
        return self.escaped or f"{len(self.killed)} killed after {self.elapsed * 1000:.0f} ms"


@contextmanager
def killing(rig: Rig, kill: Kill) -> Iterator[Future[Killed]]:
    """Have *kill* lie in wait for as long as the block lasts."""
    command = ["/usr/bin/python3", "-I", KILLER, kill.operation, kill.whom, *kill.moment]
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(_killed, rig, command)
        rig.run(f"until [ -e {READY} ]; do sleep 0.05; done")
        yield answer


def _killed(rig: Rig, command: list[str]) -> Killed:
    return Killed(**json.loads(rig.run(command, timeout=KILLER_TIMEOUT).stdout))
