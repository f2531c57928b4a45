# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domain XML as libvirt prints it to a hook's stdin.

Sources: libvirt 9.0 src/conf/device_conf.c (virPCIDeviceAddressFormat), qemu_process.c;
facts/libvirt.md section 6: ``id`` only while the guest runs, aliases from `start` on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from ..bdf import Bdf


@dataclass(frozen=True)
class Assigned:
    """A controller in the domain: a PCI hostdev, or an NVMe disk of QEMU's own driver."""

    bdf: Bdf
    managed: bool = True
    disk: bool = False


def domain_xml(
    name: str, uuid: str, devices: Sequence[Assigned], operation: str = "prepare"
) -> bytes:
    """The live definition, at the hook *operation*."""
    running = operation not in ("stopped", "release")
    id_attr = " id='1'" if running else ""
    lines = [
        f"<domain type='kvm'{id_attr}>",
        f"  <name>{escape(name)}</name>",
        f"  <uuid>{uuid}</uuid>",
        "  <memory unit='KiB'>65536</memory>",
        "  <vcpu placement='static'>1</vcpu>",
        "  <os>\n    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>\n  </os>",
        "  <devices>",
        "    <emulator>/usr/bin/qemu-system-x86_64</emulator>",
    ]
    aliases = operation != "prepare"
    for index, device in enumerate(devices):
        lines += (_disk if device.disk else _hostdev)(device, index, aliases)
    lines += ["  </devices>", "</domain>", ""]
    return "\n".join(lines).encode()


def _address(bdf: Bdf) -> str:
    domain, bus, slot, function = bdf
    return (
        f"<address domain='0x{domain:04x}' bus='0x{bus:02x}' "
        f"slot='0x{slot:02x}' function='0x{function:x}'"
    )


def _hostdev(device: Assigned, index: int, aliases: bool) -> list[str]:
    managed = "yes" if device.managed else "no"
    lines = [
        f"    <hostdev mode='subsystem' type='pci' managed='{managed}'>",
        "      <driver name='vfio'/>",
        f"      <source>\n        {_address(device.bdf)}/>\n      </source>",
    ]
    if aliases:
        lines.append(f"      <alias name='hostdev{index}'/>")
    guest = _address(Bdf(0, 5 + index, 0, 0)).replace("<address", "<address type='pci'")
    return [*lines, f"      {guest}/>", "    </hostdev>"]


def _disk(device: Assigned, index: int, aliases: bool) -> list[str]:
    managed = "yes" if device.managed else "no"
    lines = [
        "    <disk type='nvme' device='disk'>",
        "      <driver name='qemu' type='raw'/>",
        f"      <source type='pci' managed='{managed}' namespace='1'>",
        f"        {_address(device.bdf)}/>",
        "      </source>",
        f"      <target dev='vd{chr(ord('a') + index)}' bus='virtio'/>",
    ]
    if aliases:
        lines.append(f"      <alias name='virtio-disk{index}'/>")
    return [*lines, "    </disk>"]
