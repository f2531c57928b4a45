# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keepers as processes: they run beside everything else, hold descriptors, and may be killed.

What a keeper does is the code under test (SimHost.keeper); here is when it gets to do it, and what
the kernel does when it dies. Sources: facts/kernel.md section 2, "The holder trick"; pidfd_open(2),
pidfd_getfd(2); drivers/vfio/vfio_main.c (v6.1) for the last close.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..bdf import Bdf
from ..errors import HookError
from ..host import Qemu
from . import vfio
from .clock import KEEPER
from .crash import Killed
from .device import PciDev

if TYPE_CHECKING:
    from .host import SimHost

FIRST_PID = 6000
HOOK_PID = 3999


class Program(Protocol):
    """What a keeper is, to who runs it."""

    def begin(self) -> None:
        """Take what there is; HookError ends the process."""

    def look(self) -> None:
        """From time to time, while QEMU runs."""

    def finish(self) -> None:
        """QEMU has ended."""


class SimQemu(Qemu):
    """The QEMU of one guest, and the duplicates that one keeper has."""

    def __init__(self, host: "SimHost", uuid: str) -> None:
        self._host = host
        self._uuid = uuid
        self._pid = host.machine.qemus.get(uuid, 0)
        self._files: dict[Bdf, tuple[PciDev, int]] = {}
        self.closes: dict[Bdf, tuple[float, float]] = {}
        """When each close began and ended."""
        self.last = 0.0
        """When the keeper had done what it did last."""

    @property
    def process(self) -> tuple[int, int]:
        """See Qemu."""
        return self._pid, self._pid

    @property
    def ended(self) -> bool:
        """See Qemu."""
        return self._uuid not in self._host.machine.qemus

    @property
    def held(self) -> Sequence[Bdf]:
        """See Qemu."""
        return sorted(self._files)

    def adopt(self, wanted: Callable[[Bdf], bool]) -> Sequence[Bdf]:
        """See Qemu."""
        if not self._host.may_take:
            raise HookError(f"guest {self._uuid}: pidfd_getfd: Operation not permitted")
        new = []
        for bdf, dev in sorted(self._host.machine.devices.items()):
            if dev.vfio.user == self._uuid and bdf not in self._files and wanted(bdf):
                with self._host.effect(f"{bdf} pidfd_getfd"):
                    dev.note("descriptor duplicated", KEEPER)
                    vfio.dup(dev)
                    self._files[bdf] = (dev, dev.vfio.opens)
                new.append(bdf)
        return new

    def has(self, bdf: Bdf) -> bool:
        """See Qemu."""
        dev, file = self._files[bdf]
        return dev.vfio.user == self._uuid and dev.vfio.opens == file

    def has_another(self, bdf: Bdf) -> bool:
        """See Qemu."""
        dev, file = self._files[bdf]
        return dev.vfio.user == self._uuid and dev.vfio.opens != file

    @contextmanager
    def lent(self, bdf: Bdf) -> Iterator[None]:
        """See Qemu. Not while the guest has it: then its registers are the guest's."""
        dev, _ = self._files[bdf]
        if dev.vfio.user:
            dev.trace.violation(bdf, "registers taken from a guest that runs")
        with self._host.holding(bdf):
            yield

    def close(self, bdf: Bdf) -> None:
        """See Qemu."""
        with self._host.effect(f"{bdf} close"):
            self._close(bdf)

    def die(self) -> None:
        """The process is gone: the kernel closes what it had."""
        with self._host.machine.trace.acting("kernel"):
            for bdf in self.held:
                self._close(bdf)

    def _close(self, bdf: Bdf) -> None:
        dev, _ = self._files.pop(bdf)
        began = self._host.clock.now
        vfio.close(dev)
        # Of what runs beside this, the function is seen open until then.
        dev.vfio.closing_until = max(dev.vfio.closing_until, self._host.clock.now)
        self.closes[bdf] = (began, self._host.clock.now)


@dataclass
class Running:
    """One process."""

    pid: int
    uuid: str
    qemu: SimQemu
    program: Program
    begun: bool = False


class Keepers:
    """Every keeper of the machine."""

    def __init__(self, host: "SimHost") -> None:
        self._host = host
        self._running: list[Running] = []
        self._ended: dict[int, tuple[Running, float]] = {}
        self.pid = HOOK_PID
        """Of the process that acts."""

    def start(self, uuid: str, program: Callable[["SimHost", str, Qemu], Program]) -> None:
        """A process more; it gets to its work when whoever started it has ended."""
        qemu = SimQemu(self._host, uuid)
        pid = FIRST_PID + len(self._running) + len(self._ended)
        self._running.append(Running(pid, uuid, qemu, program(self._host, uuid, qemu)))

    def of(self, uuid: str) -> list[Running]:
        """Those of one guest."""
        return [each for each in self._running if each.uuid == uuid]

    def look(self, uuid: str) -> None:
        """Time passes while a guest runs."""
        for each in self.of(uuid):
            step = each.program.look if each.begun else each.program.begin
            each.begun = True
            if not self._step(each, step):
                self._end(each)

    def finish(self, uuid: str, at: float) -> None:
        """The guest's QEMU ends at the moment *at*."""
        now = self._host.clock.now
        for each in self.of(uuid):
            self._host.clock.reach(at)
            self._host.records.linger = True
            if each.begun:
                self._step(each, each.program.finish)
            self._host.records.settle(each.qemu.last)
            self._end(each)
            self._host.clock.rewind(now)

    def kill(self, uuid: str) -> None:
        """kill -9."""
        for each in self.of(uuid):
            self._end(each)

    def kill_pid(self, pid: int) -> None:
        """kill -9 of one that may be at its end: what it waits for it waits for no more."""
        for each in self._running:
            if each.pid == pid:
                self._end(each)
                return
        if pid in self._ended:
            self._cut_short(*self._ended[pid])

    def _cut_short(self, each: Running, until: float) -> None:
        now = self._host.clock.now
        if until <= now:
            return
        for bdf, (began, ended) in each.qemu.closes.items():
            if began > now:  # not in the kernel yet: its close comes now
                dev = self._host.machine.devices.get(bdf)
                if dev is not None:
                    dev.vfio.closing_until = now + ended - began
                self._host.unlock(bdf)
        self._ended[each.pid] = (each, now)

    def runs(self, pid: int) -> bool:
        """Does this process run?"""
        ended = self._ended.get(pid)
        if ended is not None:
            return self._host.clock.now < ended[1]
        return any(each.pid == pid for each in self._running)

    def clear(self) -> None:
        """The machine is switched off."""
        self._running.clear()

    def _step(self, each: Running, step: Callable[[], None]) -> bool:
        """Let one act, beside everything else. False: that has ended it."""
        self._host.new_process()
        self.pid = each.pid
        began = self._host.clock.now
        try:
            with self._host.machine.trace.acting(KEEPER):
                step()
            return True
        except (HookError, Killed):
            return False
        finally:
            each.qemu.last = self._host.clock.now
            self.pid = HOOK_PID
            self._host.new_process()
            self._host.clock.rewind(began)

    def _end(self, each: Running) -> None:
        now = self._host.clock.now
        self._running.remove(each)
        self._host.clock.reach(each.qemu.last)
        each.qemu.die()
        self._ended[each.pid] = (each, self._host.clock.now)
        self._host.clock.rewind(now)
