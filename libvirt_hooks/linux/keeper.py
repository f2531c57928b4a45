# SPDX-License-Identifier: LGPL-2.1-or-later
"""A keeper on Linux: what its process is, how it waits. It is started by ``detached``.

No lxml and nothing heavy: it stays in memory as long as its guest. Sources: proc(5) for
oom_score_adj; pidfd_open(2).
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module

from .. import keeper
from ..bdf import Bdf
from ..errors import HookError
from . import detached, processes
from .host import LinuxHost
from .journald import JournalHandler
from .qemu import Qemu

log = logging.getLogger("libvirt_hooks")

LATER = (
    *("ctypes", "encodings.ascii", "json", "signal", "socket"),
    *("libvirt_hooks.linux.mmio", "libvirt_hooks.linux.textfile", "libvirt_hooks.linux.workers"),
)
"""What is imported only where it is needed, as the command would wait for it. A keeper loads it
before it is ready: the package, or Python's, may be upgraded or removed while its guest runs."""


class LinuxQemu(Qemu):
    """A QEMU whose devices this host can reach."""

    host: LinuxHost
    started: int

    @property
    def process(self) -> tuple[int, int]:
        """See host.Qemu."""
        return self.pid, self.started

    def lent(self, bdf: Bdf) -> AbstractContextManager[None]:
        """See host.Qemu."""
        return self.host.lend(bdf, self.device(bdf))


def main(uuid: str) -> int:
    """Be the keeper of a guest until its QEMU has ended; return the exit status."""
    handler = JournalHandler({"OPERATION": keeper.OPERATION, "DOMAIN_UUID": uuid})
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        keep(LinuxHost(), uuid, detached.tell_ready)
        return 0
    except HookError as error:
        what = "no keeper for this guest: reset_method alone guards its drives"
        log.warning("%s: %s", what, error.in_full)
    except Exception:
        log.error("internal error", exc_info=True)
    return 1


def keep(host: LinuxHost, uuid: str, ready: Callable[[], None]) -> None:
    """Hold what the guest has until its QEMU has ended, then let go of it.

    :param ready: called when what there is is held.
    :raises HookError: there is no QEMU, or nothing of it can be held.
    """
    for name in LATER:
        import_module(name)
    qemu = LinuxQemu.find(uuid)
    qemu.host, qemu.started = host, processes.start_time(qemu.pid) or 0
    _live_as_long_as(qemu.pid)
    work = keeper.Keeper(host, uuid, qemu)
    work.begin()
    ready()
    while not qemu.ended:
        qemu.wait(keeper.POLL)
        if not qemu.ended:
            work.look()
    work.finish()


def _live_as_long_as(pid: int) -> None:
    """When memory runs out, be no sooner a victim than QEMU, and no later."""
    try:
        with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as theirs:
            score = theirs.read()
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as ours:
            ours.write(score)
    except OSError as error:
        log.info("oom_score_adj: %s", error.strerror)
