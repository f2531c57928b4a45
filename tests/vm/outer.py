# SPDX-License-Identifier: LGPL-2.1-or-later
"""The outer machine: one QEMU with an IOMMU and two NVMe drives, each alone behind a root port.

Owns the command line and the process, not what is said to it (see ``rig`` and ``qmp``). Pure TCG,
since KVM would have to nest. The options are those of QEMU 7.2, qemu-options.hx and hw/nvme.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .image import Image

CHECKOUT = Path(__file__).resolve().parents[2]
MEMORY = "1536M"
DRIVE_BYTES = 64 << 20
# libvirtd probing KVM on emulated SVM now and then locks the machine up.
KERNEL_COMMAND_LINE = (
    "root=/dev/vda rw console=ttyS0 quiet loglevel=4 intel_iommu=on"
    " modprobe.blacklist=kvm_amd,kvm_intel,kvm apparmor=1 security=apparmor"
)
# The firmware numbers buses in the order of the root ports, so these are fixed.
DOUBLE = "0000:01:00.0"
ORDINARY = "0000:02:00.0"


@dataclass(frozen=True)
class Files:
    """What one run of the outer machine keeps in its own throw-away directory."""

    directory: Path

    @property
    def agent(self) -> Path:
        return self.directory / "agent"

    @property
    def qmp(self) -> Path:
        return self.directory / "qmp"

    @property
    def console(self) -> Path:
        return self.directory / "console.log"

    @property
    def trace(self) -> Path:
        return self.directory / "trace.log"

    def drive(self, number: int) -> Path:
        return self.directory / f"nvme{number}.raw"


@contextmanager
def running(image: Image, parts: Path, files: Files) -> Iterator[subprocess.Popen[bytes]]:
    """Run the outer machine for as long as the block runs."""
    for number in (0, 1):
        with files.drive(number).open("wb") as drive:
            drive.truncate(DRIVE_BYTES)
    process = subprocess.Popen(
        # Whatever kills the tests, the machine ends with them.
        ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", *arguments(image, parts, files)],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(files.directory)},
    )
    try:
        _wait_for(files.agent, process)
        yield process
    finally:
        process.kill()
        process.wait()


def arguments(image: Image, parts: Path, files: Files) -> list[str]:
    return [
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        # vfio in the machine wants interrupt remapping, and that a split irqchip.
        *("-machine", "q35,kernel-irqchip=split", "-accel", "tcg,thread=multi"),
        # Slots as on a real board: pciehp's, not QEMU's own by ACPI, whose off is an unplug.
        *("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"),
        # One vCPU: with two, QEMU 7.2 crashed now and then in the TCG's slow path of an access,
        # while a BAR moved or went away. The likely cure came with 8.1 ("softmmu: Use
        # async_run_on_cpu in tcg_commit"): an update of the map raced with the other vCPU.
        *("-cpu", "max", "-smp", "1", "-m", MEMORY),
        *("-device", "intel-iommu,intremap=on,caching-mode=on,device-iotlb=on"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", KERNEL_COMMAND_LINE),
        *("-serial", f"file:{files.console}", "-D", str(files.trace)),
        *("-qmp", f"unix:{files.qmp},server=on,wait=off"),
        *_disk(image),
        *_nvme(0, files),
        *_nvme(1, files),
        *_agent(files),
        *_mount("checkout", CHECKOUT),
        *_mount("parts", parts),
    ]


def _disk(image: Image) -> list[str]:
    disk = f"file={image.disk},format=raw,if=none,id=disk,snapshot=on,cache=unsafe"
    return ["-drive", disk, "-device", "virtio-blk-pci,drive=disk"]


def _nvme(number: int, files: Files) -> list[str]:
    # x-speed: at the default speed the port has no link-active bit to wait for, and a bus reset
    # that worked is reported as ENOTTY after a second.
    port = f"pcie-root-port,id=port{number},chassis={number + 1},addr={0x10 + number:#x}"
    drive = f"file={files.drive(number)},format=raw,if=none,id=nvme{number},cache=unsafe"
    return [
        *("-device", f"{port},x-speed=2_5"),
        *("-drive", drive),
        *("-device", f"nvme,drive=nvme{number},serial=rig{number},bus=port{number}"),
    ]


def _agent(files: Files) -> list[str]:
    return [
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=agent,path={files.agent},server=on,wait=off"),
        *("-device", "virtserialport,chardev=agent,name=rig.agent"),
    ]


def _mount(tag: str, path: Path) -> list[str]:
    return [
        *("-fsdev", f"local,id={tag},path={path},security_model=none,readonly=on,multidevs=remap"),
        *("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
    ]


def _wait_for(socket: Path, process: subprocess.Popen[bytes]) -> None:
    while not socket.exists():
        if process.poll() is not None:
            raise RuntimeError(f"the outer QEMU ended at once, status {process.returncode}")
        time.sleep(0.05)
