# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks of the hook: what is installed, who runs it, who confines it. Pure.

Sources: libvirt docs/hooks.rst and src/util/virhook.c, 9.0; Debian's AppArmor profile
usr.sbin.libvirtd, 9.0; Fedora's selinux-policy, virt.te and virt.fc, 2024.
"""

from .facts import Confinement, Daemon, Entry, Facts, Machine
from .findings import Verdict, failed, passed, warned
from .reading import Reading, reading

INTERPRETER = "#!/usr/bin/python3 -IS"
OLDEST_PYTHON = (3, 11)
BACKUPS = ("~", ".bak", ".old", ".orig", ".rej", ".new", ".swp", ".save", ".tmp")
BACKUP_PREFIXES = (".dpkg-", ".rpm", ".ucf-")
MAY_RUN = ("/etc/libvirt/hooks/", "/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/")
"""What AppArmor's profile of libvirtd lets it execute, of what a hook could be."""


def ours(machine: Machine) -> Entry | None:
    """Return our hook's entry, None if it is not there."""
    return next((each for each in machine.entries if each.path == machine.hook), None)


def hook(facts: Facts) -> Verdict:
    """Is it there, and does libvirt run it?"""
    machine = facts.machine
    entry = ours(machine)
    if entry is None:
        return failed(f"no {machine.hook}", "virt-nvme-reset install")
    if not entry.regular:
        return failed(f"{machine.hook}: not a file", "remove it, and virt-nvme-reset install")
    if not entry.runs:
        return failed(
            f"{machine.hook}: mode is {entry.mode:04o}, not executable", f"chmod 755 {machine.hook}"
        )
    return passed(machine.hook)


def trust(facts: Facts) -> Verdict | None:
    """It runs as root: whoever may write it is root."""
    machine = facts.machine
    if ours(machine) is None:
        return None
    if machine.writable:
        which = machine.writable[0].partition(": ")[0]
        return failed("; ".join(machine.writable), f"chown root:root {which} && chmod go-w {which}")
    return passed("root's alone")


def package(facts: Facts) -> Verdict | None:
    """Is there one, and not two?"""
    machine = facts.machine
    if ours(machine) is None:
        return None
    if not machine.packages:
        return failed("no libvirt_hooks that the hook finds", "virt-nvme-reset install")
    first, *rest = machine.packages
    if rest:
        what = f"{first} is used, not {', '.join(rest)}"
        return warned(what, f"remove {first} if it is the older one")
    return passed(first)


def interpreter(facts: Facts) -> Verdict | None:
    """Is it the distribution's Python, isolated, and new enough?"""
    entry, python = ours(facts.machine), facts.machine.interpreter
    if entry is None or python is None:
        return None
    if entry.first_line != INTERPRETER:
        return failed(
            f"first line is {entry.first_line!r} (expected {INTERPRETER!r})",
            "virt-nvme-reset install; in a venv or by env the hook breaks or is not allowed to run",
        )
    version = ".".join(map(str, python.version))
    if not version:
        return failed(f"{python.path}: {python.error}", "install the distribution's python3")
    if python.version < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return failed(
            f"{python.path} is {version} (expected {oldest} or later)", "upgrade the host"
        )
    return passed(f"{python.path} {version}")


def lxml(facts: Facts) -> Verdict | None:
    """The one thing that the hook needs beside Python."""
    python = facts.machine.interpreter
    if python is None or not python.version:
        return None
    if not python.lxml:
        return failed(
            f"{python.path} has no lxml: {python.error}", "install the distribution's python3-lxml"
        )
    return passed("yes")


def daemon(facts: Facts) -> Verdict | None:
    """Which one runs the hook, and does it know that there is one?"""
    machine = facts.machine
    entry = ours(machine)
    if not machine.daemons:
        if not machine.installed_daemons:
            return failed(
                "neither libvirtd nor virtqemud is installed", "install libvirt's QEMU driver"
            )
        names = " and ".join(machine.installed_daemons)
        return passed(f"{names}: not running, reads hooks at its start")
    if entry is None or not entry.runs:
        return None
    found = [(each, reading(each, machine.entries, machine.readers)) for each in machine.daemons]
    bad = [(each, what) for each, what in found if what is not Reading.YES]
    if not bad:
        return passed(", ".join(f"{_name(each)} {what.value}" for each, what in found))
    seen = ", ".join(f"{_name(each)} {what.value}" for each, what in bad)
    if any(what is Reading.NO for _, what in bad):
        return failed(f"{seen}: changed since it looked", _reload(bad[0][0]))
    return warned(f"{seen}: not under systemd, so nobody knows", _reload(bad[0][0]))


def _name(daemon: Daemon) -> str:
    return f"{daemon.name} ({daemon.pid})"


def _reload(daemon: Daemon) -> str:
    if daemon.supervised:
        return f"systemctl reload {daemon.name}"
    return f"kill -HUP {daemon.pid}"


def backups(facts: Facts) -> Verdict:
    """libvirt knows no back-up names: whatever is executable runs."""
    found = [each for each in facts.machine.entries if each.runs and is_backup(each.name)]
    if found:
        paths = " ".join(each.path for each in found)
        names = ", ".join(each.name for each in found)
        return failed(f"{names}: libvirt runs that, too", f"rm {paths}, or chmod a-x")
    return passed("none")


def is_backup(name: str) -> bool:
    """Does a name look like what an editor or a package manager has left?"""
    suffix = name.rpartition(".")[2] if "." in name else ""
    return (
        name.startswith((".", "#"))
        or name.endswith(BACKUPS)
        or f".{suffix}".startswith(BACKUP_PREFIXES)
    )


def others(facts: Facts) -> Verdict:
    """They run for every guest, too: one that fails refuses it, and hides our message."""
    machine = facts.machine
    runs = [each for each in machine.entries if each.runs and not is_backup(each.name)]
    found = [each for each in runs if each.path != machine.hook]
    open_to_all = [each for each in found if each.owner or each.mode & 0o022]
    if open_to_all:
        first = open_to_all[0]
        return warned(
            f"{first.path}: owner {first.owner}, mode {first.mode:04o}: others may write it",
            f"chown root:root {first.path} && chmod go-w {first.path}",
        )
    return passed(", ".join(each.name for each in found) or "none")


def confinement(facts: Facts) -> Verdict:
    """Do AppArmor and SELinux let it run, and work?"""
    machine = facts.machine
    confined = machine.confinement
    if confined.selinux:
        return _selinux(machine, confined)
    profiles = ", ".join(sorted({each.profile for each in machine.daemons if each.profile}))
    if not confined.apparmor:
        return passed("none")
    entry = ours(machine)
    if entry is not None and "(enforce)" in profiles and not _may_run(entry):
        return failed(
            f"AppArmor, {profiles}: {entry.path} is {entry.target}, which it may not execute",
            "virt-nvme-reset install: the hook has to be a file, or in /usr/sbin",
        )
    return passed(f"AppArmor, {profiles or 'no daemon of libvirt runs'}")


def _may_run(entry: Entry) -> bool:
    return (entry.target or entry.path).startswith(MAY_RUN)


def _selinux(machine: Machine, confined: Confinement) -> Verdict:
    seen = f"SELinux {confined.selinux}"
    if confined.labels:
        verdict = failed if confined.selinux == "enforcing" else warned
        first = confined.labels[0]
        paths = (machine.hook, *machine.packages)
        return verdict(f"{seen}: {first}", f"restorecon -Rv {' '.join(paths)}")
    contexts = [each.profile.split(":") for each in machine.daemons]
    domains = {context[2] for context in contexts if len(context) > 2}
    kept_in = confined.selinux == "enforcing" and "virtqemud_t" in domains
    if kept_in and confined.hooks_unconfined is False:
        return warned(
            f"{seen}: virtqemud_t may only read sysfs, virt_hooks_unconfined is off",
            "look for denials with ausearch -m avc -c 50-nvme-reset; if there are:"
            " setsebool -P virt_hooks_unconfined on, or semanage permissive -a virtqemud_t",
        )
    return passed(f"{seen}, {', '.join(sorted(domains)) or 'no daemon of libvirt runs'}")
