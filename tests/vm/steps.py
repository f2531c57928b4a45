# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs inside the rig: times a start and a stop on one controller, step by step, as JSON.

The hook's own functions are called in its own order, with a clock around each kind of step, and in
one process: a forked worker could not tell. What the fork costs is in the whole process's time,
which ``bench`` takes beside this.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

BEGAN = time.perf_counter()
sys.path.insert(0, sys.argv[1])

# All that a hook imports before it touches a device.
from libvirt_hooks import call, custody, domain, engine, hook, lifecycle  # noqa: E402, F401
from libvirt_hooks.bdf import Bdf  # noqa: E402
from libvirt_hooks.deadline import Deadline  # noqa: E402
from libvirt_hooks.errors import HookError  # noqa: E402
from libvirt_hooks.host import Job  # noqa: E402
from libvirt_hooks.ladder import AwaitConfig, KernelReset, Settle  # noqa: E402
from libvirt_hooks.linux import journald, workers  # noqa: E402, F401
from libvirt_hooks.linux.host import LinuxHost  # noqa: E402

IMPORTED = time.perf_counter()


class InProcess(LinuxHost):
    """Jobs one after the other, here."""

    def each(self, bdfs: Sequence[Bdf], job: Job, deadline: Deadline) -> dict[Bdf, str | HookError]:
        return {bdf: job(bdf) for bdf in bdfs}


class Clock:
    """Milliseconds by kind of step."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def around(self, name: object, function: Callable[..., Any]) -> Callable[..., Any]:
        """Time *function*; *name* is a kind of step, or says it from the arguments."""

        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                kind = name(*arguments) if callable(name) else name
                self.add(str(kind), time.perf_counter() - began)

        return timed

    def add(self, kind: str, seconds: float) -> None:
        self.spent[kind] = self.spent.get(kind, 0.0) + seconds * 1000

    def take(self) -> dict[str, float]:
        spent, self.spent = self.spent, {}
        return spent


def kind_of(*arguments: Any) -> str:
    return "reset" if isinstance(arguments[-1], KernelReset | AwaitConfig | Settle) else "disable"


def main(operations: Sequence[str]) -> None:
    """Do *operations*, such as ``start``, on the domain on stdin."""
    xml = sys.stdin.buffer.read()
    clock = Clock()
    clock.add("imports", IMPORTED - BEGAN)
    parse = clock.around("parse", domain.parse)
    for module, name, kind in (
        (engine, "make_readable", "wake"),
        (engine, "apply", kind_of),
        (engine, "observe", "verify"),
    ):
        setattr(module, name, clock.around(kind, getattr(module, name)))
    host = InProcess()
    results = {}
    for operation in operations:
        name, suboperation = operation.split("/")
        handler = lifecycle.HANDLERS[name, suboperation]
        parsed = parse(xml)
        began = time.perf_counter()
        handler(host, parsed)
        whole = (time.perf_counter() - began) * 1000
        results[name] = {**clock.take(), "operation": whole}
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[2:])
