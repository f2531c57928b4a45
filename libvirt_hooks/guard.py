# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guard: what ``reset_method`` says while a guest owns the controller. Pure.

It is what vfio uses when QEMU opens the device, at every guest reboot, and when QEMU is gone
(drivers/vfio/pci/vfio_pci_core.c, v6.1: pci_try_reset_function and friends).
"""

from .ladder import shared_bus, virtual_functions
from .observe import Observation
from .pci import NO_METHOD, ResetMethod


def guards(seen: Observation) -> tuple[str, ...]:
    """Return the values to try in turn, best first; empty: leave reset_method as it is."""
    if not seen.offered:
        return ()
    if seen.offered[0] == ResetMethod.DEVICE_SPECIFIC:
        # nvme_disable_and_flr and its like: the kernel knows this drive better than we do.
        return ()
    quirk = seen.quirk
    bus = seen.offers(ResetMethod.BUS) and not (shared_bus(seen) or virtual_functions(seen))
    if quirk.flr_lethal_while_enabled:
        return (ResetMethod.BUS, NO_METHOD) if bus else (NO_METHOD,)
    if quirk.prefer_bus and bus:
        return (ResetMethod.BUS,)
    return ()
