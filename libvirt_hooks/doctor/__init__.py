# SPDX-License-Identifier: LGPL-2.1-or-later
"""The doctor: is this machine one on which the hook protects drives? Pure.

A check is a row here and a function in ``kernel``, ``hooks`` or ``drives`` that judges ``facts``.
"""

from collections.abc import Iterator

from . import drives, hooks, kernel
from .facts import Facts
from .findings import Check, Finding

CHECKS = (
    Check("root", "runs as root", kernel.root),
    Check("reset-method", "kernel offers reset_method", kernel.reset_method),
    Check("iommu", "IOMMU is on", kernel.iommu),
    Check("vfio-pci", "vfio-pci is there", kernel.vfio_pci),
    Check("lockdown", "kernel lockdown", kernel.lockdown),
    Check("hook", "hook is installed", hooks.hook),
    Check("trust", "only root can change it", hooks.trust),
    Check("package", "its package is there", hooks.package),
    Check("interpreter", "its interpreter", hooks.interpreter),
    Check("lxml", "its interpreter has lxml", hooks.lxml),
    Check("daemon", "libvirt knows the hook", hooks.daemon),
    Check("backups", "back-up files that would run", hooks.backups),
    Check("others", "other hooks of QEMU guests", hooks.others),
    Check("confinement", "security modules", hooks.confinement),
    Check("policy", "policy", drives.policy),
    Check("guards", "guards", drives.guards),
    Check("keepers", "keepers", drives.keepers),
    Check("host-uses", "guests' drives the host uses", drives.host_uses),
    Check("leftovers", "records left over", drives.leftovers),
    Check("hot-plug", "guard at hot-plug", drives.hot_plug),
)


def examine(facts: Facts) -> Iterator[Finding]:
    """Yield what every check that applies has to say."""
    for check in CHECKS:
        verdict = check.judge(facts)
        if verdict is not None:
            yield Finding(check.name, check.title, verdict.level, verdict.seen, verdict.advice)
