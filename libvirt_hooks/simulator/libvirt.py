# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's handling of assigned PCI devices: detach, the active list, reattach.

Sources: libvirt 9.0 src/hypervisor/virhostdev.c (virHostdevPreparePCIDevicesImpl,
virHostdevReAttachPCIDevicesImpl), src/util/virpci.c (virPCIDeviceBindToStub,
virPCIDeviceUnbindFromStub). libvirt resets nothing that is on vfio-pci or has FLR.
"""

from collections.abc import Sequence

from ..bdf import Bdf
from . import drivers
from .device import PciDev
from .domain_xml import Assigned
from .machine import Machine


class StartFailed(Exception):
    """libvirt itself refuses to start the guest."""


def detach(machine: Machine, name: str, devices: Sequence[Assigned]) -> None:
    """Check all, then put the managed ones on vfio-pci, and mark all as *name*'s.

    :raises StartFailed: in use by another guest, absent, or unmanaged and not on vfio-pci.
    """
    found = [_usable(machine, assigned) for assigned in devices]
    for assigned, dev in zip(devices, found, strict=True):
        if assigned.managed:
            _bind_to_stub(machine, dev)
        machine.active[dev.bdf] = name


def _usable(machine: Machine, assigned: Assigned) -> PciDev:
    bdf = assigned.bdf
    if owner := machine.active.get(bdf):
        raise StartFailed(f"PCI device {bdf} is in use by driver QEMU, domain {owner}")
    if bdf not in machine.devices:
        raise StartFailed(f"Device {bdf} not found")
    dev = machine.devices[bdf]
    if not assigned.managed and dev.driver != "vfio-pci":
        raise StartFailed(f"Unmanaged PCI device {bdf} must be manually detached from the host")
    return dev


def _bind_to_stub(machine: Machine, dev: PciDev) -> None:
    if dev.driver == "vfio-pci":
        return  # found there, so it stays there afterwards
    machine.unbind_from_stub.add(dev.bdf)
    dev.driver_override = "vfio-pci"
    drivers.unbind(dev)
    drivers.drivers_probe(dev)


def reattach(machine: Machine, name: str, bdfs: Sequence[Bdf]) -> None:
    """Give back what was *name*'s and what libvirt itself had taken from a driver."""
    for bdf in bdfs:
        if machine.active.get(bdf) != name:
            continue
        del machine.active[bdf]
        if bdf in machine.unbind_from_stub:
            machine.unbind_from_stub.discard(bdf)
            if dev := machine.devices.get(bdf):
                _unbind_from_stub(machine, dev)


def _unbind_from_stub(machine: Machine, dev: PciDev) -> None:
    if dev.vfio.references:
        # The real unbind waits for ever, and libvirt with it.
        machine.trace.violations.append(f"{dev.bdf}: still open when libvirt reattaches it")
        return
    dev.driver_override = None
    drivers.unbind(dev)
    drivers.drivers_probe(dev)
