# SPDX-License-Identifier: LGPL-2.1-or-later
"""Life: one guest's life on a SimHost, in libvirt's order, with or without the hook.

Sources: libvirt 9.0 src/qemu/qemu_process.c (qemuProcessInit, qemuProcessPrepareHost,
qemuProcessLaunch, qemuProcessFinishStartup, qemuProcessStop, qemuProcessKill);
facts/libvirt.md sections 1 and 2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..bdf import Bdf
from ..errors import HookError
from . import libvirt, qemu
from .clock import HOOK
from .crash import Killed
from .device import PciDev
from .domain_xml import Assigned, domain_xml
from .host import SimHost

Hook = Callable[[list[str], bytes, SimHost], int]
"""argv, standard input, the machine → exit status. Raising HookError is a refusal, too."""

SCRIPT = "/etc/libvirt/hooks/qemu.d/50-nvme-reset"
UUID = "6f2c1a54-7f0e-4c55-9d0e-0c1b7a5f3e11"
KILL_SECONDS, KILL_SECONDS_PER_HOSTDEV = 40.0, 2.0
KEEPER_SECONDS = 0.25
"""Until a keeper has noticed what QEMU has closed."""
KILLED = 137
"""What a shell calls a death by SIGKILL; to libvirt it is a failure like any other."""


@dataclass(frozen=True)
class Verdict:
    """What became of a controller."""

    bdf: Bdf
    alive: bool
    text: str


class Life:
    """A guest with NVMe controllers.

    :param devices: Assigned, or (bdf, managed).
    :param hook: what libvirt runs; None: no hook is installed.
    :param refuse: the operation at which some other hook script exits 1.
    """

    def __init__(
        self,
        host: SimHost,
        devices: Sequence[Assigned | tuple[Bdf | str, bool]],
        hook: Hook | None = None,
        *,
        name: str = "guest",
        uuid: str = UUID,
        refuse: str = "",
    ) -> None:
        self.host = host
        self.devices = [_assigned(each) for each in devices]
        self.hook = hook
        self.name = name
        self.uuid = uuid
        self.refuse = refuse
        self.running = False
        self.problems: list[str] = []
        self.statuses: list[tuple[str, int]] = []
        self.guest_saw: dict[Bdf, list[bool]] = {each.bdf: [] for each in self.devices}

    def start(self) -> bool:
        """`virsh start`. False: refused; `stopped` and `release` have run, as in libvirt."""
        self._say("virsh start")
        failure = self._launch()
        if failure:
            self.problems.append(failure)
            self._say(f"start failed: {failure}")
            self._stop()
        return not failure

    def _launch(self) -> str:
        if self._run_hook("prepare", "begin"):
            return "hook refused at prepare"
        try:
            with self.host.machine.trace.acting("libvirt"):
                libvirt.detach(self.host.machine, self.name, self.devices)
        except libvirt.StartFailed as error:
            return str(error)
        if self._run_hook("start", "begin"):
            return "hook refused at start"
        self.host.machine.start_qemu(self.uuid)
        if failure := qemu.start(self._present(), self.host.clock, self.uuid):
            return failure
        self.running = True
        self._boot()
        refused = self._run_hook("started", "begin")
        self.host.keepers.look(self.uuid)
        return "hook refused at started" if refused else ""

    def _boot(self) -> None:
        for dev, works in qemu.boot(self._present(), self.host.clock).items():
            self.guest_saw[dev.bdf].append(works)

    def guest_reboot(self, clean: bool = True) -> None:
        """The guest reboots, or (not *clean*) is reset; no hook runs."""
        self._say("reboot" if clean else "virsh reset", "guest" if clean else "libvirt")
        if clean:
            qemu.shut_down(self._present())
        qemu.reset(self._present())
        self._boot()

    def guest_shutdown(self) -> None:
        """The guest powers off; QEMU ends."""
        self._say("power off", "guest")
        qemu.shut_down(self._present())
        self._stop()

    def destroy(self) -> None:
        """`virsh destroy`: the guest has no say; QEMU gets a SIGTERM."""
        self._say("virsh destroy")
        self._stop()

    def kill(self) -> None:
        """kill -9 of QEMU."""
        self._say("killed by signal 9", "QEMU")
        self._stop()

    def daemon_restart(self) -> None:
        """libvirtd starts again under a running guest; a failing hook kills the guest."""
        self._say("libvirtd restarted")
        refused = self._run_hook("reconnect", "begin")
        self.host.keepers.look(self.uuid)
        if refused:
            self._stop()

    def attach(self, device: Assigned | tuple[Bdf | str, bool]) -> bool:
        """`virsh attach-device` of a running guest; no hook runs. False: it was refused."""
        assigned = _assigned(device)
        self._say(f"virsh attach-device {assigned.bdf}")
        try:
            with self.host.machine.trace.acting("libvirt"):
                libvirt.detach(self.host.machine, self.name, [assigned])
        except libvirt.StartFailed as error:
            self.problems.append(str(error))
            return False
        dev = self.host.machine.devices[assigned.bdf]
        if failure := qemu.start([dev], self.host.clock, self.uuid):
            self.problems.append(failure)
            self._reattach([assigned.bdf])
            return False
        self.devices.append(assigned)
        self.guest_saw[assigned.bdf] = list(qemu.boot([dev], self.host.clock).values())
        self.host.keepers.look(self.uuid)
        return True

    def unplug(self, bdf: Bdf) -> None:
        """`virsh detach-device`: QEMU closes it, libvirt gives it back; no hook runs."""
        self._say(f"virsh detach-device {bdf}")
        dev = self.host.machine.devices.get(bdf)
        self.devices = [each for each in self.devices if each.bdf != bdf]
        if dev is not None and dev.vfio.user == self.uuid:
            patience = KILL_SECONDS + KILL_SECONDS_PER_HOSTDEV
            qemu.leave([dev], self.host.clock, patience)
            self._wait_for_keeper(dev)
        self._reattach([bdf])

    def _wait_for_keeper(self, dev: PciDev) -> None:
        """libvirt's unbind has the device's lock, and waits for the last close."""
        if dev.vfio.references:
            dev.lock_held = True
            self.host.clock.advance(KEEPER_SECONDS)
            self.host.keepers.look(self.uuid)
            dev.lock_held = False

    def idle(self, seconds: float) -> None:
        """Nothing happens for *seconds*."""
        self.host.clock.advance(seconds)

    def _stop(self) -> None:
        """qemuProcessStop, for every end and for every failed start."""
        patience = KILL_SECONDS + KILL_SECONDS_PER_HOSTDEV * len(self.devices)
        opened = self._open()
        if not qemu.leave(opened, self.host.clock, patience):
            self._say("QEMU does not end; going on without it")
        self.running = False
        ends = max((dev.vfio.closing_until for dev in opened), default=0.0)
        self.host.machine.end_qemu(self.uuid, ends)
        self.host.keepers.finish(self.uuid, ends)
        self._run_hook("stopped", "end")
        self._reattach([each.bdf for each in self.devices])
        self._run_hook("release", "end")

    def _reattach(self, bdfs: Sequence[Bdf]) -> None:
        with self.host.machine.trace.acting("libvirt"):
            libvirt.reattach(self.host.machine, self.name, bdfs)

    def _run_hook(self, operation: str, suboperation: str) -> bool:
        """Run every script of qemu.d; True if one failed."""
        status = 0
        if self.hook is not None:
            self._say(f"hook {operation} {suboperation}")
            argv = [SCRIPT, self.name, operation, suboperation, "-"]
            xml = domain_xml(self.name, self.uuid, self.devices, operation)
            status = self._call(self.hook, argv, xml)
        self.statuses.append((operation, status))
        if operation == self.refuse:
            self._say(f"another hook script refuses {operation}")
            return True
        return status != 0

    def _call(self, hook: Hook, argv: list[str], xml: bytes) -> int:
        self.host.new_process()
        try:
            with self.host.machine.trace.acting(HOOK):
                status = hook(argv, xml, self.host)
        except HookError as error:
            self.problems.append(error.message)
            status = error.exit_status
        except Killed:
            status = KILLED
        self.host.new_process()
        if status:
            self._say(f"exit {status}", HOOK)
        return status

    def verdicts(self) -> list[Verdict]:
        """Wait until the host's drivers have settled, and say what each controller is now."""
        for dev in self._present():
            self.host.clock.reach(dev.settled_at)
        return [self._verdict(each) for each in self.devices]

    def _verdict(self, assigned: Assigned) -> Verdict:
        bdf = assigned.bdf
        if self.host.function(bdf).frozen:
            return Verdict(bdf, False, "dead: configuration space reads all ones")
        dev = self.host.machine.devices.get(bdf)
        if dev is None:
            return Verdict(bdf, False, "removed")
        if not assigned.managed or dev.driver == "vfio-pci":
            return Verdict(bdf, True, f"alive on {dev.driver or 'no driver'}")
        alive = dev.nvme_state == "live"
        return Verdict(bdf, alive, f"nvme {dev.nvme_state or 'gave up'}")

    def _present(self) -> list[PciDev]:
        devices = self.host.machine.devices
        return [devices[each.bdf] for each in self.devices if each.bdf in devices]

    def _open(self) -> list[PciDev]:
        """What this guest's QEMU has open, which another guest's has not."""
        return [dev for dev in self._present() if dev.vfio.user == self.uuid]

    def _say(self, text: str, who: str = "libvirt") -> None:
        self.host.machine.trace.note(None, f"{self.name}: {text}", who)


def _assigned(device: Assigned | tuple[Bdf | str, bool]) -> Assigned:
    if isinstance(device, Assigned):
        return device
    bdf, managed = device
    return Assigned(Bdf.parse(bdf) if isinstance(bdf, str) else bdf, managed)
