# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who uses a simulated controller: the host by a mount, a guest through vfio; and its identity.

Stands for what ``linux.usage`` and ``linux.processes`` find in /sys and /proc.
"""

from collections.abc import Sequence

from ..bdf import Bdf
from ..host import Identity
from ..snapshot import Block, Controller, Mount, Node, Process, Snapshot
from .machine import Machine

QEMU = Process(4211, "qemu-system-x86")


def snapshot(machine: Machine, bdfs: Sequence[Bdf]) -> Snapshot:
    """One disk a controller that nvme has, with one partition, mounted or not."""
    numbers = {bdf: at for at, bdf in enumerate(sorted(machine.plugged))}
    controllers, blocks, mounts = [], [], []
    for bdf in bdfs:
        dev = machine.devices.get(bdf)
        if dev is None or dev.driver != "nvme":
            controllers.append(Controller(bdf))
            continue
        at = numbers[bdf]
        disk, part = f"nvme{at}n1", f"nvme{at}n1p1"
        controllers.append(Controller(bdf, (disk,), (Node(f"nvme{at}", f"240:{at}"),)))
        blocks += [
            Block(disk, f"259:{2 * at}", partitions=(part,)),
            Block(part, f"259:{2 * at + 1}", fs_type="ext4"),
        ]
        if dev.mounted:
            mounts.append(Mount(f"259:{2 * at + 1}", dev.mounted, "ext4", f"/dev/{part}"))
    return Snapshot(tuple(controllers), tuple(blocks), tuple(mounts))


def controller(machine: Machine, name: str) -> Bdf | None:
    """Numbers go with the slots; only what nvme has, has one."""
    for at, bdf in enumerate(sorted(machine.plugged)):
        dev = machine.devices.get(bdf)
        if name == f"nvme{at}" and dev is not None and dev.driver == "nvme":
            return bdf
    return None


def claimed(machine: Machine, bdf: Bdf) -> list[str]:
    """A mounted partition keeps the whole disk from being opened exclusively."""
    at = sorted(machine.plugged).index(bdf)
    return [f"nvme{at}n1", f"nvme{at}n1p1"] if machine.devices[bdf].mounted else []


def vfio_users(machine: Machine, bdf: Bdf) -> list[Process]:
    """Whoever holds a descriptor; one that is exiting holds none any more."""
    dev = machine.devices.get(bdf)
    return [QEMU] if dev is not None and dev.vfio.user else []


def identity(machine: Machine, bdf: Bdf) -> Identity | None:
    """A serial number that goes with the drive."""
    dev = machine.devices.get(bdf)
    if dev is None or dev.driver != "nvme":
        return None
    at = sorted(machine.plugged).index(bdf)
    return Identity(f"SIM{at:05}", dev.function.model.label, (f"0025385000000{at:03x}",))
