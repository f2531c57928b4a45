# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests on simulated drives, the hook called as libvirt calls it: argv, XML, status."""

from collections.abc import Callable

from libvirt_hooks import hook, journal
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.deadline import Deadline
from libvirt_hooks.journal import Undo
from libvirt_hooks.keeper import Keeper
from libvirt_hooks.policy import Policy
from libvirt_hooks.simulator.domain_xml import Assigned, domain_xml
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID, Life
from libvirt_hooks.simulator.models import Model
from libvirt_hooks.work import Work

BDF, SECOND = Bdf.parse("0000:01:00.0"), Bdf.parse("0000:02:00.0")
OTHER = "99999999-9999-9999-9999-999999999999"

End = Callable[[Life], object]


PAST_DEADLINE = 0.5
"""Seconds by which no operation may run past its deadline, in any test."""


def called(argv: list[str], xml: bytes, host: SimHost) -> int:
    """The hook, a keeper beside it, and a look at the clock."""
    host.keeper = Keeper
    began = host.monotonic()
    try:
        return hook.main(argv, xml, host)
    finally:
        # CAP.TO in units of 500 ms, and one more; the host's driver may take 10 s all the same.
        slowest = max(
            ((each.model.to + 1) * 0.5 for each in host.machine.plugged.values()), default=0
        )
        allowed = min(20.0 + max(slowest, 10.0), 150.0)
        took = host.monotonic() - began
        assert took <= allowed + PAST_DEADLINE, f"{argv[2]} took {took:.1f} s of {allowed:.1f} s"


def call(host: SimHost, operation: str, *bdfs: Bdf, uuid: str = UUID, disk: bool = False) -> int:
    """One call, outside of any life."""
    ends = operation in ("stopped", "release")
    devices = [Assigned(bdf, disk=disk) for bdf in bdfs]
    xml = domain_xml("guest", uuid, devices, operation)
    return called(["hook", "guest", operation, "end" if ends else "begin", "-"], xml, host)


def at_work(host: SimHost, bdf: Bdf = BDF, policy: Policy | None = None) -> Work:
    """Work on one controller, without its lock."""
    return Work(host, bdf, policy or Policy(), Deadline(host.monotonic, 200.0), Undo(host, bdf))


def owned(host: SimHost, uuid: str) -> tuple[Bdf, ...] | None:
    """What a guest has, by its record."""
    owner = journal.owner(host, uuid)
    return None if owner is None else owner.bdfs


def at_rest(host: SimHost) -> None:
    """Nothing is left behind, and no rule was broken."""
    assert host.records.all == []
    assert host.violations == []


def one(model: Model, *, managed: bool = True, faults: Fault = Fault.NONE) -> tuple[SimHost, Life]:
    host = SimHost()
    host.add(BDF, model, driver="nvme" if managed else "vfio-pci", faults=faults)
    return host, Life(host, [(BDF, managed)], called)
