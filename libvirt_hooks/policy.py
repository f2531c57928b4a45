# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the administrator has decided: the types, the defaults, and whose word wins. Pure.

The host's file comes first, the guest's own values over it, a BDF's row over the row of its ids.
Spelling is left to ``policy_file`` (TOML) and ``guest_policy`` (the domain's metadata). To be
loaded only for guests that have an NVMe controller: a broken file must not stop the others.
"""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from . import quirks
from .bdf import Bdf
from .errors import BadPolicy
from .quirks import Quirk

if TYPE_CHECKING:
    from .host import Host
    from .identity import Expected

PATH = "/etc/virt-nvme-reset.toml"

MOST_SECONDS = 600.0
"""No deadline is longer: libvirt holds the guest's lock meanwhile, and `virsh list` waits for it.

The slowest drive that the specification knows takes 128 s (CAP.TO=255).
"""
MOST_PAUSE = 60.0
"""Seconds that a drive may be left alone: 25 times the longest known, or somebody meant ms."""

_IDS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{4}", re.I | re.A)


class Mode(StrEnum):
    """How far the hook goes."""

    ENFORCE = "enforce"
    """All of it."""
    OBSERVE = "observe"
    """Only log what would be done."""
    OFF = "off"
    """Nothing."""


class FailedDisable(StrEnum):
    """What a controller that could not be disabled at `start` does."""

    REFUSE = "refuse"
    """Refuses the start, whatever the drive."""
    REFUSE_LETHAL = "refuse-lethal"
    """Refuses the start only if a function-level reset could kill the drive."""
    GO_ON = "go-on"
    """Lets the guest have it."""


class GuardChoice(StrEnum):
    """What ``reset_method`` says while a guest owns the controller."""

    AUTO = "auto"
    """What ``guard`` makes of the drive's quirk."""
    KEEP = "keep"
    """What it said before."""
    BUS = "bus"
    """Only ``bus``."""
    NONE = "none"
    """Nothing: the guest's reboots reset no controller."""


class Close(StrEnum):
    """What makes vfio's reset at its last close harmless, when QEMU has ended."""

    HOLDER = "holder"
    """A keeper holds a duplicate of QEMU's descriptor, and disables the controller before."""
    GUARD = "guard"
    """Only the guard."""


class Drive(NamedTuple):
    """One row about drives: what it changes; None leaves the table of ``quirks`` as it is.

    The fields but CHOICES are those of ``Quirk``; times are in seconds.
    """

    guard: GuardChoice | None = None
    close: Close | None = None
    flr_lethal_while_enabled: bool | None = None
    settle_after_reset: float | None = None
    ready_check_delay: float | None = None
    prefer_bus: bool | None = None

    @property
    def behaviour(self) -> dict[str, Any]:
        """What it changes of a Quirk."""
        said = self._asdict().items()
        return {name: value for name, value in said if name not in CHOICES and value is not None}


CHOICES = frozenset({"guard", "close"})
"""The fields of a Drive that say what we do, not what the drive does."""


class Metrics(NamedTuple):
    """Where what was done is counted for Prometheus."""

    textfile: str | None = None
    """The directory that node_exporter's textfile collector reads; None: nothing is counted."""


class GuestPolicy(NamedTuple):
    """What a guest's own metadata says; None: nothing, the host's word holds. Times in seconds."""

    mode: Mode | None = None
    failed_disable: FailedDisable | None = None
    deadline: float | None = None
    deadline_cap: float | None = None
    expected: "Mapping[Bdf, Expected]" = MappingProxyType({})


SILENT = GuestPolicy()
"""A guest that says nothing."""


class Policy(NamedTuple):
    """What holds for one guest. Controllers are named as ``canonical`` spells them."""

    mode: Mode = Mode.ENFORCE
    deny: tuple[str, ...] = ()
    failed_disable: FailedDisable = FailedDisable.REFUSE_LETHAL
    deadline: float = 20.0
    """Seconds for one operation of libvirt's, on top of what CAP.TO allows the drives."""
    deadline_cap: float = 150.0
    """Seconds that no operation exceeds, whatever CAP.TO says."""
    drives: Mapping[str, Drive] = MappingProxyType({})
    metrics: Metrics = Metrics()

    def denied(self, bdf: Bdf, vendor: int, device: int) -> str | None:
        """Return the entry that keeps this controller from every guest, None if there is none."""
        return next((key for key in _keys(bdf, vendor, device) if key in self.deny), None)

    def quirk(self, bdf: Bdf, vendor: int, device: int) -> Quirk:
        """Return the table's row of a drive with what the file changes laid over it."""
        row = quirks.find(vendor, device)
        changes: dict[str, Any] = {}
        name = row.name
        for key in reversed(_keys(bdf, vendor, device)):
            behaviour = self.drives.get(key, _NO_CHANGE).behaviour
            if behaviour:
                changes |= behaviour
                name = row.name or key
        if not changes:
            return row
        return row._replace(name=name, source=row.source or PATH, **changes)

    def guard(self, bdf: Bdf, vendor: int, device: int) -> GuardChoice:
        """Return what is to guard this controller while a guest owns it."""
        rows = self._rows(bdf, vendor, device)
        return next((row.guard for row in rows if row.guard is not None), GuardChoice.AUTO)

    def close(self, bdf: Bdf, vendor: int, device: int) -> Close | None:
        """Return what is to protect this controller when QEMU ends; None: nothing has to.

        A keeper is for drives that the reset at the close could kill.
        """
        for row in self._rows(bdf, vendor, device):
            if row.close is not None:
                return row.close
        lethal = self.quirk(bdf, vendor, device).flr_lethal_while_enabled
        return Close.HOLDER if lethal else None

    def _rows(self, bdf: Bdf, vendor: int, device: int) -> list[Drive]:
        """What the file says about a controller, the more particular first."""
        return [self.drives.get(key, _NO_CHANGE) for key in _keys(bdf, vendor, device)]


_NO_CHANGE = Drive()


def load(host: "Host", guest: GuestPolicy = SILENT) -> Policy:
    """Read the host's policy and lay the guest's own values over it.

    :raises BadPolicy: the file is there and cannot be believed, or the guest contradicts it.
    :raises SysfsError: the file is there and cannot be read.
    """
    return resolve(host.policy(), guest)


def resolve(text: str | None, guest: GuestPolicy = SILENT) -> Policy:
    """Return what holds for a guest under a policy file; None: there is no file.

    :raises BadPolicy: see ``load``.
    """
    policy = Policy()
    if text is not None:
        from .policy_file import parse  # a host without the file needs no parser

        policy = parse(text)
    policy = policy._replace(
        mode=guest.mode or policy.mode,
        failed_disable=guest.failed_disable or policy.failed_disable,
        deadline=guest.deadline or policy.deadline,
        deadline_cap=guest.deadline_cap or policy.deadline_cap,
    )
    if policy.deadline > policy.deadline_cap:
        raise BadPolicy(
            f"domain metadata: deadline: {policy.deadline:g} s,"
            f" expected at most deadline_cap, {policy.deadline_cap:g} s",
            hint="give both deadline and deadline_cap in the guest's metadata",
        )
    return policy


def canonical(text: str) -> str:
    """Return the one spelling of a controller: ``144d:a802`` or ``0000:03:00.0``.

    :raises ValueError: *text* names neither a drive's ids nor a PCI function.
    """
    if _IDS.fullmatch(text) is not None:
        return text.lower()
    try:
        return str(Bdf.parse(text))
    except ValueError:
        why = "neither a PCI address such as 0000:03:00.0 nor ids such as 144d:a802"
        raise ValueError(why) from None


def nearest(word: str, known: Iterable[str]) -> str:
    """Return how a message about an unknown *word* ends: the one meant, or all there are."""
    import difflib  # only when something is wrong already

    names = list(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {close[0]}?" if close else f"expected {either(names)}"


def either(words: Iterable[str]) -> str:
    """Return ``a, b or c``."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _keys(bdf: Bdf, vendor: int, device: int) -> tuple[str, str]:
    """The names of a controller, the more particular first."""
    return str(bdf), f"{vendor:04x}:{device:04x}"
