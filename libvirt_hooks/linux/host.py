# SPDX-License-Identifier: LGPL-2.1-or-later
"""LinuxHost: the Host protocol on a running Linux, put together from the modules beside it.

It decides nothing. Sources: Documentation/ABI/testing/sysfs-bus-pci; random(4) for boot_id.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from .. import host
from ..bdf import Bdf
from ..deadline import Deadline
from ..errors import HookError
from ..policy import PATH
from ..snapshot import Process, Snapshot
from . import locks, policy_file, processes, usage, worker
from .records import RUN, RunRecords
from .sysfs import BUS, BUSES, DEVICES, Sysfs

if TYPE_CHECKING:
    from .vfio import Device

BOOT_ID = "/proc/sys/kernel/random/boot_id"


class LinuxHost(Sysfs):
    """This machine; the arguments are for tests.

    :param devices: where its PCI functions are; see Sysfs for the next two.
    :param run: where records and locks are kept.
    :param policy: what the administrator has written.
    """

    def __init__(
        self,
        devices: str = DEVICES,
        run: str = RUN,
        policy: str = PATH,
        bus: str = BUS,
        buses: str = BUSES,
    ) -> None:
        super().__init__(devices, bus, buses)
        self._policy = policy
        self._policy_text: tuple[str | None] | None = None
        self._run = run
        self._records = RunRecords(run)
        self._boot_id = ""
        self._tell: host.Telling | None = None
        self._held: dict[Bdf, Device] = {}

    @property
    def records(self) -> host.Records:
        """See Host.records."""
        return self._records

    def monotonic(self) -> float:
        """See Host.monotonic."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See Host.sleep."""
        time.sleep(seconds)

    def doing(self, what: str) -> None:
        """See Host.doing. Outside a worker nobody watches."""
        worker.doing(what)

    @contextmanager
    def watched(self, tell: host.Telling) -> Iterator[None]:
        """See Host.watched."""
        self._tell = tell
        try:
            yield
        finally:
            self._tell = None

    def extend(self, seconds: float) -> None:
        """See Host.extend. Outside a worker nobody watches."""
        worker.extend(seconds)

    def policy(self) -> str | None:
        """See Host.policy. Read once: what is wrong with it need not be told twice."""
        if self._policy_text is None:
            self._policy_text = (policy_file.read(self._policy),)
        return self._policy_text[0]

    def boot_id(self) -> str:
        """See Host.boot_id."""
        if not self._boot_id:
            with open(BOOT_ID, "rb", buffering=0) as boot_id:
                self._boot_id = boot_id.read().decode().strip()
        return self._boot_id

    def publish(self, path: str, text: str) -> None:
        """See Host.publish."""
        from . import textfile  # only where metrics are asked for

        textfile.publish(path, text)

    def registers(self, bdf: Bdf) -> AbstractContextManager[host.Registers]:
        """See Host.registers. Use it in a worker: SIGBUS is what a revoked mapping answers."""
        if device := self._held.get(bdf):
            return nullcontext(device.registers)
        from . import mmio  # who only looks needs none

        return mmio.map_registers(self.path(bdf, "resource0"), bdf)

    def write_config(self, bdf: Bdf, offset: int, data: bytes) -> None:
        """See Host.write_config."""
        if device := self._held.get(bdf):
            device.write_config(offset, data)
        else:
            super().write_config(bdf, offset, data)

    def holds(self, bdf: Bdf) -> bool:
        """See Host.holds."""
        return bdf in self._held

    @contextmanager
    def lend(self, bdf: Bdf, device: "Device") -> Iterator[None]:
        """Reach a function through an open vfio device; nobody else has it open."""
        self._held[bdf] = device
        try:
            yield
        finally:
            del self._held[bdf]

    @contextmanager
    def exclusive(self, bdf: Bdf) -> Iterator[None]:
        """See Host.exclusive. In a worker: vfio's resets may keep it in the kernel."""
        from . import vfio  # only under lockdown

        with vfio.opened(bdf, self._devices) as device, self.lend(bdf, device):
            yield

    def lock(self, what: Bdf | str, timeout: float) -> AbstractContextManager[None]:
        """See Host.lock."""
        return locks.lock(self._run, what, timeout)

    def usage(self, bdfs: Sequence[Bdf]) -> Snapshot:
        """See Host.usage."""
        return usage.gather(bdfs)

    def claimed(self, bdf: Bdf) -> Sequence[str]:
        """See Host.claimed."""
        return usage.claimed(bdf)

    def vfio_users(self, bdfs: Sequence[Bdf]) -> Mapping[Bdf, Sequence[Process]]:
        """See Host.vfio_users."""
        return processes.vfio_users({bdf: processes.vfio_nodes(bdf, self._devices) for bdf in bdfs})

    def qemu_runs(self, uuid: str) -> bool:
        """See Host.qemu_runs."""
        return processes.qemu_runs(uuid)

    def runs(self, pid: int, started: int) -> bool:
        """See Host.runs."""
        return processes.runs(pid, started)

    def this_process(self) -> tuple[int, int]:
        """See Host.this_process."""
        return os.getpid(), processes.start_time(os.getpid()) or 0

    def kill(self, pid: int, started: int) -> None:
        """See Host.kill."""
        processes.kill(pid, started)

    def start_keeper(self, uuid: str) -> None:
        """See Host.start_keeper."""
        from . import detached  # once in a guest's life

        detached.start_keeper(uuid)

    def each(
        self, bdfs: Sequence[Bdf], job: host.Job, deadline: Deadline
    ) -> dict[Bdf, str | HookError]:
        """See Host.each."""
        from . import workers

        return workers.each(bdfs, job, deadline, self._tell)
