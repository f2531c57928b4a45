# SPDX-License-Identifier: LGPL-2.1-or-later
"""SimHost: the Host protocol on a simulated machine.

Functions and their resets: kernel.py. Locks and workers: workers.py. Keepers: keepers.py. Who uses
what: usage.py. Here: what is plugged in, time, records and processes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from errno import ENOENT
from os import strerror

from ..bdf import Bdf
from ..deadline import Deadline
from ..errors import HookError
from ..host import Job, Qemu, Telling
from ..snapshot import Process, Snapshot
from . import usage
from .clock import Event
from .crash import Crash
from .device import PciDev
from .faults import Fault
from .function import Function
from .keepers import Keepers, Program
from .kernel import SimKernel
from .models import ORDINARY, Model
from .records import SimRecords


class SimHost(SimKernel):
    """A machine that exists nowhere.

    :param lockdown: kernel lockdown: no registers, no writes to configuration space.
    :param policy: text of the administrator's policy.
    """

    def __init__(self, lockdown: bool = False, policy: str | None = None) -> None:
        super().__init__(lockdown)
        self.policy_text = policy
        self.published: dict[str, str] = {}
        """Files for everybody, by path."""
        self.unpublished = ""
        """Why none can be written; empty: they can."""
        self._boots = 1
        self.keeper: Callable[[SimHost, str, Qemu], Program] | None = None
        """The program of a keeper; None: none is installed."""
        self.may_take = True
        """Does the kernel allow pidfd_getfd?"""
        self.keepers = Keepers(self)
        self._records = SimRecords(self._workers.effect, self.monotonic)

    def add(
        self,
        bdf: Bdf | str,
        model: Model = ORDINARY,
        driver: str | None = "nvme",
        faults: Fault = Fault.NONE,
        *,
        beside: Sequence[Bdf | str] = (),
        pristine: bool = False,
        total_vfs: int = 0,
        mounted: str = "",
        slot: str = "",
    ) -> PciDev:
        """Plug in a drive.

        With ``nvme`` the controller is live. With another driver, or None, it is as nvme's
        unbind left it (CC=0x00464061 CSTS=0x00000009), or *pristine*.

        :param faults: on top of the model's own.
        :param beside: more functions, ordinary and on nvme; same bus or not.
        :param mounted: where the host uses its disk.
        :param slot: name of the slot that it is in, whose power can be switched.
        """
        dev = self.machine.plug(_bdf(bdf), model, faults, total_vfs)
        self.machine.prepare(dev, driver, pristine)
        dev.mounted = mounted
        if slot:
            self.machine.slots[slot] = dev.bdf
        for other in beside:
            self.add(other)
        return dev

    def device(self, bdf: Bdf | str) -> PciDev:
        """The kernel's side of a function, for tests."""
        return self.machine.devices[_bdf(bdf)]

    def function(self, bdf: Bdf | str) -> Function:
        """The hardware's side of a function, for tests."""
        return self.machine.plugged[_bdf(bdf)]

    @property
    def trace(self) -> list[Event]:
        """What happened, in order."""
        return self.machine.trace.events

    @property
    def violations(self) -> list[str]:
        """Rules that the code under test broke."""
        return self.machine.trace.violations

    def texts(self, bdf: Bdf | str | None = None, who: Sequence[str] = ()) -> list[str]:
        """The texts of the trace, of one function and of some actors only if so asked."""
        return self.machine.texts(bdf, who)

    @property
    def effects(self) -> list[str]:
        """Everything that the code under test has done to the machine, in words."""
        return self._workers.effects

    def effect(self, what: str) -> AbstractContextManager[None]:
        """Something is about to change on the machine: a process may be killed here."""
        return self._workers.effect(what)

    def unlock(self, bdf: Bdf) -> None:
        """Whoever had its lock is dead."""
        self._workers.locked_until.pop(bdf, None)

    def crash(self, crash: Crash | None) -> None:
        """Kill a process of the code under test when it gets that far."""
        self._workers.crash = crash

    def new_process(self) -> None:
        """Another hook begins; what the last one had open is closed."""
        self._workers.new_process()

    def reboot(self) -> None:
        """Power off and on; /run is empty afterwards."""
        self._records = SimRecords(self._workers.effect, self.monotonic)
        self._workers.locked_until.clear()
        self.keepers.clear()
        self._boots += 1
        self.machine.reboot()

    @property
    def records(self) -> SimRecords:
        """See Host."""
        return self._records

    def monotonic(self) -> float:
        """See Host."""
        return self.clock.now

    def sleep(self, seconds: float) -> None:
        """See Host."""
        self._workers.sleep(seconds)

    def doing(self, what: str) -> None:
        """See Host."""
        self._workers.doing(what)

    @contextmanager
    def watched(self, tell: Telling) -> Iterator[None]:
        """See Host."""
        self._workers.tell = tell
        try:
            yield
        finally:
            self._workers.tell = None

    def extend(self, seconds: float) -> None:
        """See Host."""
        self._workers.extend(seconds)

    def policy(self) -> str | None:
        """See Host."""
        return self.policy_text

    def publish(self, path: str, text: str) -> None:
        """See Host."""
        with self._workers.effect(f"publish {path}"):
            if self.unpublished:
                raise HookError(f"{path}: writing: {self.unpublished}")
            self.published[path] = text

    def boot_id(self) -> str:
        """See Host."""
        return f"00000000-0000-4000-8000-{self._boots:012x}"

    def lock(self, what: Bdf | str, timeout: float) -> AbstractContextManager[None]:
        """See Host. Taking it twice is waiting for oneself."""
        return self._workers.lock(what, timeout)

    def usage(self, bdfs: Sequence[Bdf]) -> Snapshot:
        """See Host."""
        self._workers.enter()
        return usage.snapshot(self.machine, bdfs)

    def claimed(self, bdf: Bdf) -> Sequence[str]:
        """See Host."""
        self._workers.enter()
        return usage.claimed(self.machine, bdf)

    def vfio_users(self, bdfs: Sequence[Bdf]) -> Mapping[Bdf, Sequence[Process]]:
        """See Host. One that is exiting has no descriptors any more."""
        self._workers.enter()
        return {bdf: usage.vfio_users(self.machine, bdf) for bdf in bdfs}

    def qemu_runs(self, uuid: str) -> bool:
        """See Host."""
        self._workers.enter()
        return uuid in self.machine.qemus

    def runs(self, pid: int, started: int) -> bool:
        """See Host."""
        self._workers.enter()
        return self._workers.runs(pid) or self.keepers.runs(pid) or self.machine.runs(pid)

    def this_process(self) -> tuple[int, int]:
        """See Host."""
        return self.keepers.pid, self.keepers.pid

    def kill(self, pid: int, started: int) -> None:
        """See Host. A QEMU is nothing that the code under test may kill."""
        with self._workers.effect(f"kill {pid}"):
            if self.machine.runs(pid):
                self.machine.trace.violations.append(f"QEMU {pid} killed")
            self.keepers.kill_pid(pid)

    def start_keeper(self, uuid: str) -> None:
        """See Host."""
        with self._workers.effect(f"start keeper {uuid}"):
            if self.keeper is None:
                raise HookError(f"guest {uuid}: starting its keeper: {strerror(ENOENT)}")
            self.keepers.start(uuid, self.keeper)

    def each(self, bdfs: Sequence[Bdf], job: Job, deadline: Deadline) -> dict[Bdf, str | HookError]:
        """See Host. One after the other, but all from the same moment on."""
        return self._workers.each(bdfs, job, deadline)

    def occupy(self, bdf: Bdf | str, seconds: float) -> None:
        """Another hook holds the lock for so long, for tests."""
        self._workers.occupy(_bdf(bdf), seconds)


def _bdf(bdf: Bdf | str) -> Bdf:
    return Bdf.parse(bdf) if isinstance(bdf, str) else bdf
