# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guard: what ``reset_method`` says while a guest owns the controller. Pure.

It is what vfio uses when QEMU opens the device, at every guest reboot, and when QEMU is gone
(drivers/vfio/pci/vfio_pci_core.c, v6.1: pci_try_reset_function and friends).
"""

from .ladder import shared_bus, virtual_functions
from .observe import Observation
from .pci import NO_METHOD, ResetMethod
from .policy import Close, GuardChoice


def guards(seen: Observation, choice: GuardChoice = GuardChoice.AUTO) -> tuple[str, ...]:
    """Return the values to try in turn, best first; empty: leave reset_method as it is.

    :param choice: what the policy asks for; a bus that is shared is not reset for that either.
    """
    if not seen.offered or choice is GuardChoice.KEEP:
        return ()
    bus = seen.offers(ResetMethod.BUS) and not (shared_bus(seen) or virtual_functions(seen))
    if choice is GuardChoice.NONE:
        return (NO_METHOD,)
    if choice is GuardChoice.BUS and bus:
        return (ResetMethod.BUS,)
    if kernel_knows_better(seen):
        return ()
    quirk = seen.quirk
    if quirk.flr_lethal_while_enabled:
        return (ResetMethod.BUS, NO_METHOD) if bus else (NO_METHOD,)
    if quirk.prefer_bus and bus:
        return (ResetMethod.BUS,)
    return ()


def may_close_by_flr(seen: Observation) -> bool:
    """May vfio's reset at the last close be an FLR, whatever guards the drive until then?

    Only one whose EN=0 was *seen*: it is what a drive that an FLR kills must be before one.
    """
    return seen.disabled and bears_flr(seen)


def bears_flr(seen: Observation) -> bool:
    """Once it is disabled, is an FLR a reset that does it good, and nobody else any harm?"""
    return (
        seen.offers(ResetMethod.FLR)
        and not kernel_knows_better(seen)
        and not seen.quirk.prefer_bus
        and not virtual_functions(seen)
    )


def wants_keeper(offered: tuple[str, ...], close: Close | None) -> bool:
    """Is vfio's last reset a matter for a keeper?

    Not where the kernel knows better: its own reset clears CC.EN and waits, and one that finds EN=0
    already, of a keeper that was killed in between, does not wait (nvme_disable_and_flr, v6.1).

    :param offered: what ``reset_method`` said before a guard.
    """
    return close is Close.HOLDER and offered[:1] != (ResetMethod.DEVICE_SPECIFIC,)


def kernel_knows_better(seen: Observation) -> bool:
    """Has the kernel a reset of its own for this drive: nvme_disable_and_flr and its like?"""
    return seen.offered[:1] == (ResetMethod.DEVICE_SPECIFIC,)
