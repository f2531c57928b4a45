# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests inside the rig: their domain XML, the steps of their lives, what they say on COM1.

The guest is a kernel of a few kB (``guest``); without one device too many, since each costs time
under TCG inside TCG.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field

from .parts import GUEST
from .rig import Result, Rig

KERNEL = f"/var/lib/libvirt/images/{GUEST}"
SERIAL_FOLDER = "/var/log/libvirt/qemu"
STATUS_FOLDER = "/run/libvirt/qemu"
# A start on a drive that dies under it takes 65 s, twice.
START_TIMEOUT = 200.0
STOP_TIMEOUT = 120.0
SAY_TIMEOUT = 120

DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
{metadata}  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{kernel}</kernel>
    <cmdline>{action}</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <video><model type='none'/></video>
    <serial type='file'><source path='{serial}'/></serial>
{hostdev}  </devices>
</domain>
"""

METADATA = """\
  <metadata><vnr:policy xmlns:vnr='urn:virt-nvme-reset:policy:1' {}</metadata>
"""

HOSTDEV = """\
    <hostdev mode='subsystem' type='pci' managed='{managed}'>
      <source><address domain='0x{0}' bus='0x{1}' slot='0x{2}' function='0x{3}'/></source>
    </hostdev>
"""


@dataclass(frozen=True)
class Guest:
    """One domain, with one NVMe, none, or more."""

    rig: Rig = field(repr=False)
    name: str
    action: str
    bdf: str | None = None
    managed: bool = True
    policy: str = ""
    """Our policy in its metadata: what is inside the element, such as ``mode="off"``."""
    others: tuple[str, ...] = ()
    """What it has beside *bdf*, in the same way."""

    @property
    def uuid(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, self.name))

    @property
    def serial(self) -> str:
        return f"{SERIAL_FOLDER}/{self.name}-serial.log"

    @property
    def xml(self) -> str:
        return DOMAIN.format(
            name=self.name,
            uuid=self.uuid,
            kernel=KERNEL,
            action=self.action,
            serial=self.serial,
            metadata=METADATA.format(self.policy) if self.policy else "",
            hostdev="".join(self._hostdev(bdf) for bdf in (self.bdf, *self.others) if bdf),
        )

    def define(self) -> None:
        self.rig.run(["rm", "-f", self.serial])
        self.rig.run("cat > /run/rig/domain.xml && virsh -q define /run/rig/domain.xml", self.xml)

    def undefine(self) -> None:
        """Forget it, whatever state it is in."""
        self.rig.run(["virsh", "-q", "destroy", self.name], check=False, timeout=STOP_TIMEOUT)
        self.rig.run(["virsh", "-q", "undefine", self.name], check=False)

    def start(self, check: bool = True) -> Result:
        command = ["virsh", "-q", "start", self.name]
        return self.rig.run(command, timeout=START_TIMEOUT, check=check)

    def destroy(self) -> None:
        self.rig.run(["virsh", "-q", "destroy", self.name], timeout=STOP_TIMEOUT)

    def shut_down(self) -> None:
        """Press its power button; only one that serves notices."""
        self.rig.run(["virsh", "-q", "shutdown", self.name, "--mode", "acpi"])

    def attach(self, bdf: str) -> None:
        """Plug a drive in while it serves."""
        self._change("attach-device", bdf)

    def detach(self, bdf: str) -> None:
        """Ask it to let go of a drive; libvirt waits for that, but only for some seconds."""
        self._change("detach-device", bdf)

    @property
    def pid(self) -> int:
        """Its QEMU."""
        return int(self.rig.run(["cat", f"{STATUS_FOLDER}/{self.name}.pid"]).stdout)

    def tasks(self) -> list[int]:
        """The threads of its QEMU."""
        return [int(task) for task in self.rig.run(f"ls /proc/{self.pid}/task").stdout.split()]

    def kill(self) -> None:
        """Take QEMU away without a word to anybody."""
        self.rig.run(f"kill -KILL $(cat {STATUS_FOLDER}/{self.name}.pid)")

    def wait_for(self, words: str) -> None:
        """Wait until the guest has said *words*."""
        self.rig.run(
            f"until grep -q '{words}' {self.serial}; do sleep 0.1; done 2>/dev/null",
            timeout=SAY_TIMEOUT,
        )

    def wait_off(self) -> None:
        """Wait until libvirt is done with it, its `release` hook included.

        The status file goes before that hook; the domain stays locked until it is over.
        """
        status = f"{STATUS_FOLDER}/{self.name}.xml"
        off = f"[ \"$(virsh -q domstate {self.name})\" = 'shut off' ]"
        gone = f"while [ -e {status} ]; do sleep 0.1; done"
        self.rig.run(f"{gone}; until {off}; do sleep 0.2; done", timeout=STOP_TIMEOUT)

    def said(self) -> str:
        return self.rig.run(["cat", self.serial], check=False).stdout

    def caps_seen(self) -> list[int]:
        """CAP of each NVMe that each of its boots found."""
        return [int(cap, 16) for cap in re.findall(r"\bCAP=([0-9a-f]{16})", self.said())]

    def _hostdev(self, bdf: str) -> str:
        return HOSTDEV.format(*re.split("[:.]", bdf), managed="yes" if self.managed else "no")

    def _change(self, command: str, bdf: str) -> None:
        self.rig.run(
            f"cat > /run/rig/device.xml"
            f" && virsh -q {command} {self.name} /run/rig/device.xml --live",
            self._hostdev(bdf),
            timeout=STOP_TIMEOUT,
        )


def install_kernel(rig: Rig) -> None:
    """Put the guest where libvirt's AppArmor profiles let QEMU read it."""
    rig.run(f"cp /run/rig/parts/{GUEST} {KERNEL}")
