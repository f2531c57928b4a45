# SPDX-License-Identifier: LGPL-2.1-or-later
"""Known: all that is known of one controller, and how it is found out.

Reads, and wakes nothing. Registers of one that is idle and awake are read under its lock: some
drives hang when they are looked at too soon after a hook has disabled them (``quirks``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from . import admission, journal, marks, pci
from .admission import Facts
from .bdf import Bdf
from .deadline import Deadline
from .engine import glimpse
from .errors import HookError
from .forecast import Fate, forecast
from .host import Host, Identity
from .observe import Observation, ids, number
from .pci import Capabilities
from .policy import Close, GuardChoice, Mode, Policy
from .quirks import Quirk
from .snapshot import Process
from .work import locked

PATIENCE = 20.0
"""Seconds that the kernel may take to answer; only a person waits."""


@dataclass(frozen=True)
class Known:
    """One controller, and what everybody knows of it."""

    bdf: Bdf
    vendor: int
    device: int
    driver: str | None
    identity: Identity | None
    users: tuple[Process, ...]
    group: tuple[str, Sequence[Bdf]] | None
    """Its IOMMU group, and who else is in it."""
    capabilities: Capabilities | None
    """None where configuration space was not read, or does not answer."""
    seen: Observation | None
    unseen: str
    """Why it was not looked at; empty if it was."""
    quirk: Quirk
    owners: tuple[str, ...]
    dead: str | None
    stuck: str | None
    policy: Policy

    @property
    def guard(self) -> GuardChoice:
        return self.policy.guard(self.bdf, self.vendor, self.device)

    @property
    def close(self) -> Close | None:
        return self.policy.close(self.bdf, self.vendor, self.device)

    @property
    def denied(self) -> str | None:
        """The policy's entry that denies it."""
        return self.policy.denied(self.bdf, self.vendor, self.device)

    @property
    def fates(self) -> tuple[Fate, ...]:
        """Which resets a guest's life holds for it; empty where nobody can tell."""
        if self.seen is None:
            return ()
        return forecast(self.seen, self.guard, self.close, self.policy.mode is Mode.ENFORCE)


def find_out(host: Host, policy: Policy, bdf: Bdf, wording: Callable[[Known], str]) -> str:
    """Find out, and return the *wording* of it.

    :raises Refused: there is none at *bdf*, and nothing is remembered of one.
    :raises HookError: the kernel did not let us look.
    """
    code = host.read_attr(bdf, "class")
    if code is not None or not _is_remembered(host, bdf):
        facts = Facts(bdf, code is not None, number(code), driver=None, open=False)
        refused = admission.refusal(facts, "be shown")
        if refused is not None:
            raise refused
    # By a worker, as everything that may block in the kernel, or kill who looks.
    job = partial(_told, host, policy, wording)
    result = host.each([bdf], job, Deadline(host.monotonic, PATIENCE))[bdf]
    if isinstance(result, HookError):
        raise result
    return result


def _is_remembered(host: Host, bdf: Bdf) -> bool:
    given_up = marks.dead(host, bdf) is not None
    return given_up or bdf in journal.journaled(host) or bool(journal.owners_of(host, bdf))


def _told(host: Host, policy: Policy, wording: Callable[[Known], str], bdf: Bdf) -> str:
    return wording(_known(host, policy, bdf))


def _known(host: Host, policy: Policy, bdf: Bdf) -> Known:
    seen, unseen, capabilities = None, "", None
    try:
        with locked(host, bdf, policy, Deadline(host.monotonic, PATIENCE), ()) as work:
            seen = glimpse(work)
            if not seen.gone:
                capabilities = pci.capabilities(host.read_config(bdf, 0, pci.HEADER_LENGTH))
    except HookError as error:
        # All else is worth telling. Of one that another hook has, configuration space is not read
        # either: the kernel would have us wait for a reset's end.
        unseen = error.in_full.removeprefix(f"{bdf}: ")
    vendor, device = ids(host, bdf)
    return Known(
        bdf=bdf,
        vendor=vendor,
        device=device,
        driver=host.driver(bdf),
        identity=host.identity(bdf),
        group=host.iommu_group(bdf),
        capabilities=capabilities,
        users=tuple(host.vfio_users([bdf])[bdf]),
        seen=seen,
        unseen=unseen,
        quirk=policy.quirk(bdf, vendor, device),
        owners=tuple(each.uuid for each in journal.owners_of(host, bdf)),
        dead=marks.dead(host, bdf),
        stuck=marks.stuck(host, bdf),
        policy=policy,
    )
