# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset list`: one line a controller. Reads, opens nothing, wakes nothing."""

from argparse import Namespace
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from .. import journal, keepers, marks, store, usage
from ..attributes import CLASS_NVME, NVME, VFIO_PCI, ids, is_open, number
from ..bdf import Bdf
from ..host import Host
from ..policy import Policy
from ..snapshot import printable
from .output import BAD, GOOD, WARN, emit
from .policies import lenient
from .table import Cell, Column, lines
from .terminal import width

COLUMNS = (
    Column("BDF"),
    Column("IDS"),
    Column("MODEL", 7),
    Column("SERIAL", 6),
    Column("DRIVER", 8),
    Column("STATE"),
    Column("RESET", 7),
    Column("QUIRK", 5),
    Column("USED BY", 8),
)
COLOURS = {
    **dict.fromkeys(("live", "held", "in a guest"), GOOD),
    **dict.fromkeys(("idle", "driven"), ""),
    **dict.fromkeys(("given up", "stuck", "gone", "dead"), BAD),
}
"""Of states; what is not here is on its way from one to another, or nobody knows why it is."""
NO_NAMES: Mapping[str, str] = {}


class Entry(NamedTuple):
    """One controller, as the JSON document has it."""

    bdf: str
    vendor: str | None
    """Four hexadecimal digits, as *device*; None: there is no such function any more."""
    device: str | None
    model: str | None
    """What the host's driver knows, as *serial*."""
    serial: str | None
    driver: str | None
    state: str
    guest: str | None
    """uuid of the guest that has it, by its record."""
    guest_name: str | None
    """If libvirt was asked."""
    held: bool
    """Has the guest's keeper a duplicate of QEMU's descriptor?"""
    reset_methods: list[str]
    quirk: str
    uses: list[str]
    """What the host, or a process that is no guest's on record, does with it: ``kind@object``."""


def run(arguments: Namespace, host: Host) -> int:
    """Print them."""
    found = entries(host, lenient(host), known_guests(host))
    emit(arguments, {"controllers": [each._asdict() for each in found]}, table(found, width()))
    return 0


def known_guests(host: Host) -> Mapping[str, str]:
    """Return the names of guests by uuid; libvirt is asked only if a guest has a controller."""
    if not journal.owners(host):
        return NO_NAMES
    from .domains import names  # lxml and libvirt take longer to load than all the rest

    return names()


def entries(host: Host, policy: Policy, guests: Mapping[str, str] = NO_NAMES) -> list[Entry]:
    """Look at every controller, and at what our records remember of one that is away.

    :param guests: names of guests, by uuid.
    """
    owners = {bdf: owner.uuid for owner in journal.owners(host) for bdf in owner.bdfs}
    held = {bdf for keeper in keepers.find_all(host) for bdf in keeper.bdfs}
    # Which have a mark at all: to look for each one's would be a third of all that is read.
    dead, stuck = (set(store.bdfs(host, mark)) for mark in (marks.DEAD, marks.STUCK))
    codes = {bdf: host.read_attr(bdf, "class") for bdf in host.functions()}
    present = [bdf for bdf, code in codes.items() if number(code) == CLASS_NVME]
    away = {*owners, *dead, *journal.journaled(host)}.difference(codes)
    drivers = {bdf: host.driver(bdf) for bdf in present}
    opened = {bdf for bdf, driver in drivers.items() if is_open(host, bdf, driver)}
    uses = _uses(host, drivers, opened.difference(owners))
    found = []
    for bdf in sorted({*present, *away}):
        vendor, device = ids(host, bdf)
        driver, owner = drivers.get(bdf), owners.get(bdf)
        identity = host.identity(bdf) if driver == NVME else None
        nvme = (host.nvme_state(bdf) or "probing") if driver == NVME else None
        # The first that holds. The next start is not refused for a mark once the host's driver
        # can use the drive again.
        states = {
            "given up": bdf in dead and nvme != "live" and marks.dead(host, bdf),
            "stuck": bdf in stuck and marks.stuck(host, bdf),
            "gone": bdf in away,
            nvme or "": nvme,
            "held": bdf in held,
            "in a guest": owner,
            "open": bdf in opened,
            "idle": driver in (None, VFIO_PCI),
            "driven": True,
        }
        found.append(
            Entry(
                bdf=str(bdf),
                vendor=None if bdf in away else f"{vendor:04x}",
                device=None if bdf in away else f"{device:04x}",
                model=identity and identity.model,
                serial=identity and identity.serial,
                driver=driver,
                state=next(word for word, holds in states.items() if holds),
                guest=owner,
                guest_name=guests.get(owner or ""),
                held=bdf in held,
                reset_methods=(host.read_attr(bdf, "reset_method") or "").split(),
                quirk=policy.quirk(bdf, vendor, device).name,
                uses=uses.get(bdf, []),
            )
        )
    return found


def _uses(
    host: Host, drivers: Mapping[Bdf, str | None], opened: Collection[Bdf]
) -> dict[Bdf, list[str]]:
    """At most two walks through the processes, however many controllers there are."""
    disks = [bdf for bdf, driver in drivers.items() if driver == NVME]
    snapshot = host.usage(disks) if disks else None
    used = {bdf: list(map(str, usage.uses(snapshot, bdf))) for bdf in disks if snapshot}
    users = host.vfio_users(sorted(opened)) if opened else {}
    return used | {bdf: [f"open@{each}" for each in users[bdf]] for bdf in opened}


def table(found: Sequence[Entry], columns: int | None) -> Iterator[str]:
    """Word it.

    :param columns: of the terminal, None if it is none.
    """
    if not found:
        return iter(["no NVMe controllers"])
    return lines(COLUMNS, list(map(_row, found)), columns)


def _row(each: Entry) -> list[Cell]:
    guest = each.guest_name or (each.guest or "")[:8]
    texts = (
        each.bdf,
        f"{each.vendor}:{each.device}" if each.vendor else "",
        each.model or "",
        each.serial or "",
        each.driver or "",
        each.state,
        ",".join(each.reset_methods) or "none",
        each.quirk,
        ", ".join(filter(None, (guest, *each.uses))),
    )
    cells = [Cell(printable(text) or "-") for text in texts]
    at = texts.index(each.state, 5)
    cells[at] = Cell(each.state, COLOURS.get(each.state, WARN))
    return cells
