# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests on simulated drives, the hook called as libvirt calls it: argv, XML, status."""

from collections.abc import Callable

from libvirt_hooks import hook, journal
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.simulator.domain_xml import Assigned, domain_xml
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID, Life
from libvirt_hooks.simulator.models import Model

BDF, SECOND = Bdf.parse("0000:01:00.0"), Bdf.parse("0000:02:00.0")
OTHER = "99999999-9999-9999-9999-999999999999"

End = Callable[[Life], object]


def called(argv: list[str], xml: bytes, host: SimHost) -> int:
    return hook.main(argv, xml, host)


def call(host: SimHost, operation: str, *bdfs: Bdf, uuid: str = UUID, disk: bool = False) -> int:
    """One call, outside of any life."""
    ends = operation in ("stopped", "release")
    devices = [Assigned(bdf, disk=disk) for bdf in bdfs]
    xml = domain_xml("guest", uuid, devices, operation)
    return called(["hook", "guest", operation, "end" if ends else "begin", "-"], xml, host)


def at_rest(host: SimHost) -> None:
    """Nothing is left behind, and no rule was broken."""
    assert host.records.names(journal.OWNERS) == []
    assert host.records.names(journal.JOURNAL) == []
    assert host.violations == []


def one(model: Model, *, managed: bool = True, faults: Fault = Fault.NONE) -> tuple[SimHost, Life]:
    host = SimHost()
    host.add(BDF, model, driver="nvme" if managed else "vfio-pci", faults=faults)
    return host, Life(host, [(BDF, managed)], called)
