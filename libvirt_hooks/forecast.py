# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which resets a guest's life holds for a controller, what each meets, and whether it hurts. Pure.

No hook of ours runs when these happen. Each is taken to do what it is for, if it is not known to
harm. Sources: kernel drivers/vfio/pci/vfio_pci_core.c (vfio_pci_core_enable,
vfio_pci_core_disable, vfio_pci_ioctl_reset, vfio_pci_dev_set_try_reset), drivers/pci/pci.c
(__pci_reset_function_locked, pci_parent_bus_reset), v6.1; QEMU hw/vfio/pci.c (vfio_pci_reset, 7.2).
"""

from dataclasses import dataclass
from enum import StrEnum

from .guard import bears_flr, guards, wants_keeper
from .observe import Observation
from .pci import ResetMethod
from .policy import Close, GuardChoice


class Moment(StrEnum):
    """When vfio resets."""

    OPEN = "open"
    """QEMU opens the device."""
    REBOOT = "guest reboot"
    """A machine reset: QEMU's first too, right after the open, but then nothing has changed."""
    CLOSE = "close"
    """The last descriptor is closed."""


class State(StrEnum):
    """What a reset meets."""

    HOOK = "disabled by the hook before"
    KEEPER = "disabled by the keeper before"
    HOST = "as the host's driver leaves it"
    """Shut down, with CC.EN=1 (nvme_disable_ctrl with shutdown, v6.1)."""
    GUEST = "as the guest leaves it"
    """Enabled, or shut down with CC.EN=1."""

    @property
    def may_be_enabled(self) -> bool:
        return self in (State.HOST, State.GUEST)


@dataclass(frozen=True)
class Fate:
    """What one moment does to a controller."""

    moment: Moment
    reset: str | None
    """As ``reset_method`` spells it, and newer kernels have words that are not in ResetMethod."""
    state: State
    safe: bool
    why: str
    """Why it is not safe, or why there is no reset; else empty."""

    def describe(self) -> str:
        why = f" ({self.why})" if self.why else ""
        safe = "safe" if self.safe else "not safe"
        return f"{self.reset or 'nothing'}, {self.state}: {safe}{why}"


FLRS = (ResetMethod.FLR, ResetMethod.AF_FLR)
"""To the drive they are the same."""


def forecast(
    seen: Observation, choice: GuardChoice, close: Close | None, hook: bool = True
) -> tuple[Fate, ...]:
    """Return the fate at each moment, in order; of a controller that is gone nobody can tell.

    A start that goes on with a controller that could not be disabled is ``failed_disable``'s.

    :param choice: the policy's guard.
    :param close: what the policy has protect it at the close.
    :param hook: False: as if there were no hook, neither guard nor keeper.
    """
    if seen.gone:
        return ()
    keeper = hook and wants_keeper(seen.offered, close)
    method = _method(seen, choice, hook)
    # Where the open could not reset, vfio does not believe in reset_method any more (reset_works).
    # What is left is the whole bus, which QEMU and vfio take where nobody else is on it.
    later = method or (ResetMethod.BUS if _alone(seen) else None)
    last = ResetMethod.FLR if keeper and method and bears_flr(seen) else later
    return (
        _fate(seen, Moment.OPEN, method, State.HOOK if hook else State.HOST),
        _fate(seen, Moment.REBOOT, later, State.GUEST),
        _fate(seen, Moment.CLOSE, last, State.KEEPER if keeper else State.GUEST),
    )


def _method(seen: Observation, choice: GuardChoice, hook: bool) -> str | None:
    """The first method that the kernel would not pass over: on a shared bus it does ``bus``."""
    values = guards(seen, choice) if hook else ()
    methods = values[0].split() if values else seen.offered
    return next((each for each in methods if each != ResetMethod.BUS or _alone(seen)), None)


def _alone(seen: Observation) -> bool:
    return seen.port is not None and not seen.neighbours


def _fate(seen: Observation, moment: Moment, reset: str | None, state: State) -> Fate:
    harm = _harm(seen, reset, state)
    why = harm if reset else _why_none(seen, moment)
    return Fate(moment, reset, state, safe=not harm, why=why)


def _harm(seen: Observation, reset: str | None, state: State) -> str:
    if reset not in FLRS:
        return ""
    if seen.quirk.flr_lethal_while_enabled and state.may_be_enabled:
        return "would kill it"
    return "would damage it" if seen.quirk.prefer_bus else ""


def _why_none(seen: Observation, moment: Moment) -> str:
    none = "reset_method has none for it"
    if moment is Moment.OPEN:
        return none
    if seen.port is None:
        return f"{none}, and it is on a root bus"
    others = f"{none}, and its bus is shared"
    # vfio_pci_dev_set_try_reset: whose neighbours are vfio's too, and idle, goes with them.
    return f"{others}: reset only if vfio has all of it" if moment is Moment.CLOSE else others
