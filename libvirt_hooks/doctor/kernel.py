# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks of user, kernel and IOMMU. Pure.

Sources: Documentation/ABI/testing/sysfs-bus-pci (reset_method, since v5.15);
Documentation/ABI/testing/sysfs-kernel-iommu_groups; kernel_lockdown(7).
"""

from .facts import Facts, Vfio
from .findings import Verdict, failed, passed, warned

THROUGH_VFIO = (
    "nothing, if you want Secure Boot: the hook disables an idle drive by opening it through vfio,"
    " and the keeper by QEMU's descriptor; show and reset read no registers"
)


def root(facts: Facts) -> Verdict:
    """Without it, hardly anything below can be seen."""
    uid = facts.machine.uid
    if uid:
        return failed(f"uid is {uid} (expected 0)", "sudo virt-nvme-reset doctor")
    return passed("yes")


def reset_method(facts: Facts) -> Verdict:
    """The feature counts, not the version: distributions backport."""
    machine = facts.machine
    if machine.resettable:
        return passed(f"{machine.kernel}, {machine.resettable} of {machine.functions} functions")
    if not machine.functions:
        return warned(f"{machine.kernel}, no PCI functions", "run this on the host")
    return failed(
        f"{machine.kernel}, none of {machine.functions} functions",
        "boot Linux 5.15 or later: without reset_method there is no guard",
    )


def iommu(facts: Facts) -> Verdict:
    """QEMU gets no device without."""
    groups = facts.machine.iommu_groups
    if groups:
        return passed(f"{groups} groups")
    return failed(
        "no groups",
        "enable VT-d or AMD-Vi in the firmware, and boot with intel_iommu=on (Intel)",
    )


def vfio_pci(facts: Facts) -> Verdict:
    """libvirt loads it when it first wants it."""
    match facts.machine.vfio_pci:
        case Vfio.ABSENT:
            return failed(
                f"no such module for {facts.machine.kernel}",
                "install the distribution's full kernel: cloud and minimal ones have no vfio",
            )
        case found:
            return passed(str(found))


def lockdown(facts: Facts) -> Verdict:
    """Nobody may map a BAR under it."""
    mode = facts.machine.lockdown
    if mode in ("", "none"):
        return passed("none")
    return warned(mode, THROUGH_VFIO)
