# SPDX-License-Identifier: LGPL-2.1-or-later
"""Qemu: one QEMU process seen from outside, and duplicates of its vfio device descriptors.

vfio resets a device when its last descriptor is closed: who has a duplicate decides when that is.
Sources: pidfd_open(2), pidfd_getfd(2), kcmp(2), proc(5); kernel/pid.c (pidfd_getfd asks for
PTRACE_MODE_ATTACH, v5.6), kernel/exit.c (a pidfd is readable when no thread is left, v6.1).
"""

import errno
import os
import select
import sys
from collections.abc import Callable, Collection
from contextlib import ExitStack
from math import ceil
from types import TracebackType
from typing import NamedTuple, Self

from ..bdf import Bdf
from ..errors import HookError, SysfsError
from . import whose
from .processes import PROC, opened, qemu_pids
from .reads import names, text
from .sysfs import DEVICES
from .vfio import Device

SYS_PIDFD_GETFD = 438
"""The same everywhere but on alpha."""
SYS_KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "ppc64le": 354, "s390x": 343}
"""arch/*/kernel/syscalls/syscall.tbl, for 64-bit processes."""
KCMP_FILE = 0


def pidfd_getfd(pidfd: int, number: int) -> int:
    """Return a duplicate of a descriptor of another process, close-on-exec.

    :raises OSError: EPERM, EBADF, ESRCH, ENOSYS.
    """
    return _syscall(SYS_PIDFD_GETFD, pidfd, number, 0)


def same_file(pid: int, number: int, fd: int) -> bool:
    """Is *number* of the process *pid* the same open file as our *fd* (kcmp, KCMP_FILE)?

    :raises OSError: EPERM, EBADF, ESRCH, ENOSYS: not in this kernel, or number unknown here.
    """
    nr = SYS_KCMP.get(os.uname().machine) if sys.maxsize > 2**32 else None
    if nr is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return _syscall(nr, pid, os.getpid(), KCMP_FILE, number, fd) == 0


def _syscall(*arguments: int) -> int:
    import ctypes  # only here: the command has no use for it

    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    result: int = call(*map(ctypes.c_long, arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class _Held(NamedTuple):
    number: int
    target: str
    device: Device


class _Seen(NamedTuple):
    """A descriptor that was looked at and not kept.

    While *target* and the NVMe controllers open through vfio are the same, so is what it may be:
    also a number that comes round again cannot be a controller that was not open before.
    """

    target: str
    nearby: tuple[Bdf, ...]
    may_be: tuple[Bdf, ...]


class Qemu:
    """A QEMU process, and the vfio devices of it that we hold. A context: closes all at its end.

    :param pid: the process that *pidfd* is of; the pidfd is this object's from now on.
    """

    def __init__(self, pid: int, pidfd: int, proc: str = PROC, devices: str = DEVICES) -> None:
        self._pid = pid
        self._pidfd = pidfd
        self._proc = proc
        self._devices = devices
        self._held: dict[Bdf, _Held] = {}
        self._seen: dict[int, _Seen] = {}
        self._told: set[str] = set()

    @classmethod
    def find(cls, uuid: str, proc: str = PROC, devices: str = DEVICES) -> Self:
        """Find the QEMU of the guest with this uuid. See ``qemu_pids`` for what it may wait for.

        :raises HookError: there is none, or more than one.
        """
        pids = list(qemu_pids(uuid, proc))
        if len(pids) > 1:
            raise HookError(f"{uuid}: more than one QEMU: {', '.join(map(str, pids))}")
        for pid in pids:
            try:
                pidfd = os.pidfd_open(pid)
            except OSError as error:
                if error.errno == errno.ESRCH:
                    break
                raise _refused(pid, "opening a pidfd", error) from error
            # The number may have become another process before it was opened.
            if pid in qemu_pids(uuid, proc):
                return cls(pid, pidfd, proc, devices)
            os.close(pidfd)
        raise HookError(f"{uuid}: no QEMU runs with this uuid")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close_all()

    @property
    def pid(self) -> int:
        """Its number, which may be another's once it has ended."""
        return self._pid

    @property
    def ended(self) -> bool:
        """Has every thread of it ended? Then it has nothing open any more."""
        return self._poll(0)

    def wait(self, seconds: float) -> None:
        """Wait until it ends, and no longer than *seconds*; below 0 is 0."""
        self._poll(max(0, ceil(seconds * 1000)))  # poll(2) takes a negative time for ever

    def _poll(self, milliseconds: int) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(milliseconds))

    @property
    def held(self) -> list[Bdf]:
        """What we hold a duplicate of, in order."""
        return sorted(self._held)

    def device(self, bdf: Bdf) -> Device:
        """Return our duplicate."""
        return self._held[bdf].device

    def close(self, bdf: Bdf) -> None:
        """Close our duplicate. If it was the last descriptor, this is the reset: 65 s and more."""
        self._held.pop(bdf).device.close()

    def close_all(self) -> None:
        """Close every duplicate, in order, and the pidfd."""
        for bdf in self.held:
            self.close(bdf)
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)

    def adopt(self, wanted: Callable[[Bdf], bool]) -> list[Bdf]:
        """Take a duplicate of every NVMe controller of it that is *wanted*; return the new ones.

        Cheap when there is nothing new. One that cannot be told from another is left alone, and
        so is another descriptor of what is held.

        :raises SysfsError: the kernel forbids it (EPERM, ENOSYS); what was taken before is held.
        """
        before = set(self._held)
        self._look(lambda bdf: bdf not in self._held and wanted(bdf))
        return sorted(self._held.keys() - before)

    def has(self, bdf: Bdf) -> bool:
        """Has it the descriptor, still, that we hold a duplicate of?

        Until it has ended, yes when in doubt: a guest may be using the device.
        """
        return not self.ended and self._keeps(self._held[bdf])

    def has_another(self, bdf: Bdf) -> bool:
        """Has it this function open by a descriptor that we do not hold? Yes when in doubt.

        So it is when the device was unplugged and plugged again.
        """
        if self.ended:
            return False
        try:
            found = self._look(lambda _: False, afresh=True)
        except HookError:
            return True
        return self._is_blind() or any(one is None or bdf in one for one in found)

    def _keeps(self, held: _Held) -> bool:
        try:
            target = os.readlink(f"{self._proc}/{self._pid}/fd/{held.number}")
            return _plain(target) == _plain(held.target) and same_file(
                self._pid, held.number, held.device.fd
            )
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESRCH, errno.EBADF):
                return self._is_blind()
            return True  # no kcmp here, or we may not look: the link has to do

    def _is_blind(self) -> bool:
        # When it is killed, its first thread may be the first to end. /proc then shows nothing
        # open, and the others still have it all.
        return not names(f"{self._proc}/{self._pid}/fd") and not self.ended

    def _look(
        self, takes: Callable[[Bdf], bool], afresh: bool = False
    ) -> list[tuple[Bdf, ...] | None]:
        """Return what each vfio device that we hold none of may be, None if there is no telling.

        What surely is one that *takes* says yes to is held from then on.
        """
        targets = self._targets()
        self._seen = {number: seen for number, seen in self._seen.items() if number in targets}
        held = {each.number for each in self._held.values() if self._keeps(each)}
        devices = {n: t for n, t in targets.items() if whose.is_vfio_device(t) and n not in held}
        # Before any duplicate is taken: what is opened after this is news the next time.
        nearby = whose.open_controllers(self._devices) if devices else ()
        found: list[tuple[Bdf, ...] | None] = []
        for number, target in devices.items():
            seen = self._seen.get(number)
            if seen and seen[:2] == (target, nearby) and not afresh and not _is(seen.may_be, takes):
                found.append(seen.may_be)
            elif device := self._duplicate(number):
                found.append(self._examine(number, device, nearby, targets.values(), takes))
        return found

    def _examine(
        self,
        number: int,
        device: Device,
        nearby: tuple[Bdf, ...],
        opened: Collection[str],
        takes: Callable[[Bdf], bool],
    ) -> tuple[Bdf, ...] | None:
        # Should QEMU die just now, then this close is the last one, and resets a device that no
        # guest has any more: as QEMU's own would have.
        with ExitStack() as momentary:
            momentary.callback(device.close)
            try:
                target = os.readlink(f"{PROC}/self/fd/{device.fd}")
                if not whose.is_vfio_device(target):  # the number has come round meanwhile
                    return ()
                fdinfo = text(f"{PROC}/self/fdinfo/{device.fd}")
                may_be = whose.may_be(device, target, fdinfo, opened, self._devices)
            except HookError as error:
                self._tell(str(error))
                return None
            if _is(may_be, takes):
                self._held[may_be[0]] = _Held(number, target, device)
                device.who = may_be[0]
                momentary.pop_all()
            else:
                self._seen[number] = _Seen(target, nearby, may_be)
            if len(may_be) > 1:
                self._tell(f"{self._name(number)}: {' or '.join(map(str, may_be))}")
            return may_be

    def _targets(self) -> dict[int, str]:
        try:
            return {int(number): target for number, target in opened(self._pid, self._proc)}
        except PermissionError as error:
            raise _refused(self._pid, "listing its descriptors", error) from error

    def _duplicate(self, number: int) -> Device | None:
        try:
            return Device(pidfd_getfd(self._pidfd, number), self._name(number))
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ESRCH):  # closed meanwhile, or it has ended
                return None
            raise _refused(self._pid, f"duplicating descriptor {number}", error) from error

    def _name(self, number: int) -> str:
        return f"QEMU {self._pid}: descriptor {number}"

    def _tell(self, message: str) -> None:
        if message not in self._told:
            import logging  # only here: it costs more than all the rest

            self._told.add(message)
            logging.getLogger(__name__).warning("%s: left alone", message)


def _is(may_be: tuple[Bdf, ...], takes: Callable[[Bdf], bool]) -> bool:
    return len(may_be) == 1 and takes(may_be[0])


def _plain(target: str) -> str:
    return target.removesuffix(whose.DELETED)


def _refused(pid: int, what: str, error: OSError) -> SysfsError:
    return SysfsError(f"QEMU {pid}", what, error.errno or errno.EIO)
