# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset list`: one line a controller."""

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from .. import journal, keepers, marks
from ..bdf import Bdf
from ..host import Host
from ..nvme import CLASS_NVME
from ..observe import ids, number
from ..policy import Policy
from .output import emit
from .policies import lenient


@dataclass(frozen=True)
class Entry:
    """One controller, as the JSON document has it."""

    bdf: str
    vendor: str
    device: str
    driver: str | None
    owner: str | None
    """uuid of the guest that has it."""
    held: bool
    """Has its keeper a duplicate of QEMU's descriptor?"""
    state: str
    """The host's driver's, ``given up`` or ``idle``."""
    reset_methods: list[str]
    quirk: str


def run(arguments: Namespace, host: Host) -> int:
    """Print them."""
    entries = list(_entries(host, lenient(host)))
    emit(arguments, {"controllers": [asdict(each) for each in entries]}, map(_line, entries))
    return 0


def _entries(host: Host, policy: Policy) -> Iterator[Entry]:
    owners = {bdf: owner.uuid for owner in journal.owners(host) for bdf in owner.bdfs}
    held = {bdf for keeper in keepers.find_all(host) for bdf in keeper.bdfs}
    for bdf in host.functions():
        if number(host.read_attr(bdf, "class")) == CLASS_NVME:
            yield _entry(host, policy, bdf, owners.get(bdf), bdf in held)


def _entry(host: Host, policy: Policy, bdf: Bdf, owner: str | None, held: bool) -> Entry:
    vendor, device = ids(host, bdf)
    given_up = "given up" if marks.dead(host, bdf) else None
    return Entry(
        bdf=str(bdf),
        vendor=f"{vendor:04x}",
        device=f"{device:04x}",
        driver=host.driver(bdf),
        owner=owner,
        held=held,
        state=given_up or host.nvme_state(bdf) or "idle",
        reset_methods=(host.read_attr(bdf, "reset_method") or "").split(),
        quirk=policy.quirk(bdf, vendor, device).name,
    )


def _line(each: Entry) -> str:
    names = f"{each.bdf}  {each.vendor}:{each.device}  {each.driver or '-':8}"
    methods = ",".join(each.reset_methods) or "none"
    state, held = each.owner or each.state, "held" if each.held else "-"
    return f"{names}  {state:36}  {held:4}  {methods:14}  {each.quirk or '-'}"
