# SPDX-License-Identifier: LGPL-2.1-or-later
"""Gather what the doctor judges of this machine: its files and processes. Changes nothing.

Every path is below a root, so that a test can be any machine. Sources: kernel_lockdown(7);
Documentation/admin-guide/LSM/apparmor.rst; selinux(8), restorecon(8); modules.dep(5).
"""

import os
import shutil

from ..doctor.drives import RULE
from ..doctor.facts import Confinement, Machine, PolicyFile, Vfio
from ..errors import HookError
from ..policy import PATH, resolve
from . import daemons, installed, policy_file
from .daemons import Runner, ask
from .installed import HOOK
from .manifest import readers
from .reads import names, text

RULES = ("/etc/udev/rules.d", "/run/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d")


def gather(root: str = "", run: Runner = ask, owner: int = 0) -> Machine:
    """Look at the machine below *root*.

    :param owner: uid of the only one who may change what the hook is made of.
    """
    devices = f"{root}/sys/bus/pci/devices"
    functions = names(devices)
    packages = installed.packages(root)
    entries = installed.entries(root)
    target = next((each.target for each in entries if each.path == HOOK), "")
    parts = [HOOK, *([target] if target else []), *packages[:1]]
    kernel = text(f"{root}/proc/sys/kernel/osrelease")
    return Machine(
        uid=os.geteuid(),
        kernel=kernel,
        functions=len(functions),
        resettable=sum(os.path.exists(f"{devices}/{each}/reset_method") for each in functions),
        iommu_groups=len(names(f"{root}/sys/kernel/iommu_groups")),
        vfio_pci=_vfio(root, kernel),
        lockdown=_lockdown(root),
        entries=entries,
        hook=HOOK,
        packages=packages,
        writable=installed.writable(parts, root, owner),
        interpreter=installed.interpreter(run),
        daemons=daemons.running(root, run),
        installed_daemons=daemons.installed(root),
        readers=readers(root),
        confinement=_confinement(root, run, (HOOK, *packages)),
        policy=_policy(root, owner),
        udev_rule=next(
            (f"{folder}/{RULE}" for folder in RULES if RULE in names(root + folder)), ""
        ),
    )


def _vfio(root: str, kernel: str) -> Vfio:
    if os.path.isdir(f"{root}/sys/bus/pci/drivers/vfio-pci"):
        return Vfio.LOADED
    known = text(f"{root}/lib/modules/{kernel}/modules.dep")
    return Vfio.LOADABLE if "/vfio-pci.ko" in known else Vfio.ABSENT


def _lockdown(root: str) -> str:
    # "none [integrity] confidentiality"
    _, _, rest = text(f"{root}/sys/kernel/security/lockdown").partition("[")
    return rest.partition("]")[0]


def _confinement(root: str, run: Runner, paths: tuple[str, ...]) -> Confinement:
    selinux = f"{root}/sys/fs/selinux"
    enforce = text(f"{selinux}/enforce")
    mode = {"1": "enforcing", "0": "permissive"}.get(enforce, "")
    labels: tuple[str, ...] = ()
    if mode and (root or shutil.which("restorecon")):
        # It compares with what the loaded policy wants: that differs from release to release.
        labels = tuple(run(("restorecon", "-n", "-v", "-R", *paths)).splitlines())
    boolean = text(f"{selinux}/booleans/virt_hooks_unconfined")
    return Confinement(
        apparmor=text(f"{root}/sys/module/apparmor/parameters/enabled") == "Y",
        selinux=mode,
        labels=labels,
        hooks_unconfined=boolean.startswith("1") if boolean else None,
    )


def _policy(root: str, owner: int) -> PolicyFile:
    try:
        found = policy_file.examine(root + PATH, owner)
        if found.text is not None:
            resolve(found.text)
    except HookError as error:
        return PolicyFile(PATH, True, "", error.message.removeprefix(root), error.hint)
    return PolicyFile(PATH, found.text is not None, found.untrusted)
