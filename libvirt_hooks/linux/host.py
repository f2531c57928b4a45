# SPDX-License-Identifier: LGPL-2.1-or-later
"""LinuxHost: the Host protocol on a running Linux, put together from the modules beside it.

It decides nothing. Sources: Documentation/ABI/testing/sysfs-bus-pci; random(4) for boot_id.
"""

import errno
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from .. import host
from ..bdf import Bdf
from ..errors import BadPolicy, HookError, SysfsError
from . import locks, mmio
from .records import RUN, RunRecords
from .sysfs import DEVICES, Sysfs

BOOT_ID = "/proc/sys/kernel/random/boot_id"
POLICY = "/etc/virt-nvme-reset.toml"


class LinuxHost(Sysfs):
    """This machine; the arguments are for tests.

    :param devices: where its PCI functions are.
    :param run: where records and locks are kept.
    :param policy: what the administrator has written.
    """

    def __init__(self, devices: str = DEVICES, run: str = RUN, policy: str = POLICY) -> None:
        super().__init__(devices)
        self._policy = policy
        self._run = run
        self._records = RunRecords(run)

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

    def doing(self, what: str, seconds: float) -> None:
        """See Host.doing. Outside a worker nobody watches."""
        from . import worker  # json: as for each()

        worker.doing(what, seconds)

    def policy(self) -> str | None:
        """See Host.policy."""
        try:
            with open(self._policy, "rb", buffering=0) as policy:
                return policy.read().decode()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise BadPolicy(f"{self._policy}: not UTF-8: byte {error.start}") from error
        except OSError as error:
            raise SysfsError(self._policy, "reading", error.errno or errno.EIO) from error

    def boot_id(self) -> str:
        """See Host.boot_id."""
        with open(BOOT_ID, encoding="ascii") as boot_id:
            return boot_id.read().strip()

    def registers(self, bdf: Bdf) -> AbstractContextManager[host.Registers]:
        """See Host.registers. Use it in a worker: SIGBUS is what a revoked mapping answers."""
        return mmio.map_registers(self.path(bdf, "resource0"), bdf)

    def lock(self, bdf: Bdf, timeout: float) -> AbstractContextManager[None]:
        """See Host.lock."""
        return locks.lock(self._run, bdf, timeout)

    def each(
        self, bdfs: Sequence[Bdf], job: host.Job, timeout: float
    ) -> dict[Bdf, str | HookError]:
        """See Host.each."""
        from . import workers  # json, signal: a guest without NVMe never gets here

        return workers.each(bdfs, job, timeout)
