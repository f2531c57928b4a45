# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two drives of the rig, as a test handles them: an ordinary NVMe, and the SM951 double.

What a drive looks like from the host is read by ``probe``, inside; what the double counts is in
its module's parameters (``double/sm951_double.c``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .deadline import Deadline
from .parts import DOUBLE as DOUBLE_MODULE
from .rig import Rig

PROBE = "/run/rig/checkout/tests/vm/probe.py"
PARAMETERS = "/sys/module/sm951_double/parameters"
PCI = "/sys/bus/pci"
DISK, GENERIC = "nvme[0-9]*n1", "ng[0-9]*n1"
LIVE_SECONDS = 60.0
SETTLE_SECONDS = 20


class Cure(StrEnum):
    """What brings a frozen double back, by the module's parameter."""

    BUS_RESET = "bus_reset_revives"
    RESCAN = "rescan_revives"
    SLOT_POWER = "slot_revives"


@dataclass(frozen=True)
class View:
    """What the host sees of a drive; registers only where they were asked for."""

    driver: str
    driver_override: str
    state: str
    reset_method: str
    power_control: str
    power_state: str
    vendor: int
    device: int
    registers: dict[str, int]

    @property
    def is_disabled(self) -> bool:
        """EN, SHN, RDY, CFS and SHST are 0.

        Not the queues: QEMU's controller keeps AQA, ASQ and ACQ through a reset (7.2).
        """
        readable = self.registers["CAP"] not in (0, 0xFFFFFFFF)
        return readable and not self.registers["CC"] & 0xC001 and not self.registers["CSTS"] & 0xF

    @property
    def where(self) -> str:
        """In a word or two, for the results."""
        return f"{self.driver} {self.state}".strip() or "no driver"


@dataclass(frozen=True)
class Counters:
    """What happened to the double since they were cleared."""

    flr_lethal: int
    flr_good: int
    bus_resets: int
    flr_fatal: int = 0
    """Those that would have done an SM951 no harm, and froze it for ``any_flr_freezes``."""


class Drive:
    """One controller in the rig."""

    def __init__(self, rig: Rig, bdf: str, name: str) -> None:
        self.rig = rig
        self.bdf = bdf
        self.name = name

    def __str__(self) -> str:
        return self.name

    def view(self) -> View:
        return self._probe()

    def registers_view(self) -> View:
        """Look at the registers too; only for a drive that no driver is using."""
        return self._probe("registers")

    def enable(self) -> View:
        """Leave CC.EN set, as a guest that was killed does."""
        return self._probe("enable")

    def is_live(self) -> bool:
        seen = self.rig.run(f"cat {self.sysfs}/nvme/nvme*/state", check=False)
        return seen.stdout.strip() == "live"

    def wait_live(self) -> View:
        """Wait until the host's driver has it and can use it, and udev has looked at it.

        :raises TimeoutError: it never did.
        """
        deadline = Deadline.after(LIVE_SECONDS)
        deadline.wait_until(f"{self.bdf} live", self.is_live)
        self.settle()
        return self.view()

    def settle(self) -> None:
        """Wait until udev has closed it.

        Where nvme goes meanwhile, and the drive has shadow doorbells as QEMU's has, the last close
        frees them by a device that has no DMA any more, and the kernel dies of it: an Oops in
        nvme_dbbuf_dma_free, now and then (6.1.192).
        """
        self.rig.run(["udevadm", "settle", f"--timeout={SETTLE_SECONDS}"], check=False)

    def keep_awake(self) -> None:
        """Set power/control as the kernel does at enumeration."""
        self.rig.run(f"echo on > {self.sysfs}/power/control")

    def detach(self) -> None:
        """Give it to vfio-pci, as users do for an unmanaged guest."""
        self.rig.run(["virsh", "-q", "nodedev-detach", self._nodedev])

    def reattach(self) -> None:
        self.rig.run(["virsh", "-q", "nodedev-reattach", self._nodedev])
        self.wait_live()

    def read_a_block(self) -> bool:
        """Whether a read of the disk comes back."""
        read = f"dd if=/dev/$({self.listing(DISK)}) bs=4096 count=1 iflag=direct of=/dev/null"
        return self.rig.run(read, check=False).returncode == 0

    def listing(self, pattern: str) -> str:
        """The command that names what its controller has: the disk, the generic device."""
        return f"ls {self.sysfs}/nvme/nvme*/ | grep -m1 -x '{pattern}'"

    def heal(self) -> None:
        """Whatever became of it, bring it back to the host's driver, as if never used."""
        self.settle()
        # libvirt keeps what was detached through it on a list, and while it is there gives no
        # managed guest's drive back to the host: a removal alone would not take it off.
        self.rig.run(["virsh", "-q", "nodedev-reattach", self._nodedev], check=False)
        self.settle()  # what is the host's again, udev has open
        self.rig.run(
            f"[ -e {self.sysfs} ] && {{ echo > {self.sysfs}/driver_override;"
            f" echo 1 > {self.sysfs}/remove; }}; echo 1 > {PCI}/drivers_autoprobe;"
            # pciehp switches a slot off in which it has found nothing.
            f" for slot in {PCI}/slots/*; do [ $(cat $slot/address) != {self.bdf[:-2]} ]"
            " || [ $(cat $slot/power) = 1 ] || echo 1 > $slot/power; done;"
            f" echo 1 > {PCI}/rescan"
        )
        self.wait_live()

    @property
    def sysfs(self) -> str:
        return f"{PCI}/devices/{self.bdf}"

    def counters(self) -> Counters | None:
        return None

    def clear(self) -> None:
        """Start counting anew."""

    @property
    def _nodedev(self) -> str:
        return "pci_" + self.bdf.replace(":", "_").replace(".", "_")

    def _probe(self, *what: str) -> View:
        command = ["/usr/bin/python3", "-I", PROBE, self.bdf, *what]
        fields: dict[str, Any] = json.loads(self.rig.run(command).stdout)
        return View(**fields)


class Double(Drive):
    """The drive that dies of a function level reset while it is enabled."""

    def load(self) -> None:
        """Put the module between; only a new enumeration sees the new ids."""
        self.rig.run(f"insmod /run/rig/parts/{DOUBLE_MODULE} bdf={self.bdf} bus_reset_revives=0")
        super().heal()

    def freeze(self) -> None:
        self._set("frozen", 1)

    def thaw(self) -> None:
        """It answers again; nobody is told."""
        self._set("frozen", 0)

    def cure_by(self, cure: Cure) -> None:
        """Have this thaw it; until ``clear``."""
        self._set(cure, 1)

    def freeze_at_any_reset(self, freezes: bool = True) -> None:
        """Have every function level reset freeze it, whatever its registers say."""
        self._set("any_flr_freezes", int(freezes))

    def heal(self) -> None:
        self.freeze_at_any_reset(False)
        self.thaw()
        super().heal()

    def clear(self) -> None:
        """Counters and cures are 0; frozen stays as it is."""
        self._set("clear", 1)

    def counters(self) -> Counters:
        names = ("flr_lethal", "flr_good", "bus_resets", "flr_fatal")
        lines = self.rig.run("cat " + " ".join(f"{PARAMETERS}/{name}" for name in names)).stdout
        return Counters(*(int(line) for line in lines.split()))

    def last_reset(self) -> str:
        """CC and CSTS as the last function level reset met them."""
        words = self.rig.run(f"cd {PARAMETERS} && cat last_cc last_csts").stdout.split()
        return "CC={} CSTS={}".format(*words)

    def _set(self, parameter: str, value: int) -> None:
        self.rig.run(f"echo {value} > {PARAMETERS}/{parameter}")
