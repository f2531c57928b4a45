# SPDX-License-Identifier: LGPL-2.1-or-later
"""The doctor's checks: each for each of its outcomes, and all of them together."""

from dataclasses import replace

import pytest

from libvirt_hooks import doctor
from libvirt_hooks.doctor import hooks
from libvirt_hooks.doctor.facts import (
    Confinement,
    Daemon,
    Drive,
    Entry,
    Facts,
    HostUse,
    Interpreter,
    Leftover,
    Machine,
    PolicyFile,
    Vfio,
)
from libvirt_hooks.doctor.findings import Finding, Level, Verdict
from libvirt_hooks.doctor.reading import Reading, reading

PATH = "/etc/libvirt/hooks/qemu.d/50-nvme-reset"
FOLDER = "/etc/libvirt/hooks/qemu.d"
LIBRARY = "/usr/lib/virt-nvme-reset/libvirt_hooks"
PYTHON = Interpreter("/usr/bin/python3", (3, 11, 2), True)
HOOK = Entry(PATH, changed=100.0, first_line=hooks.INTERPRETER)
DAEMON = Daemon("libvirtd", 812, 4000, started=200.0, profile="libvirtd (enforce)")
SOUND = Machine(
    kernel="6.1.0-18-amd64",
    functions=30,
    resettable=12,
    iommu_groups=14,
    lockdown="none",
    entries=(HOOK,),
    hook=PATH,
    packages=(LIBRARY,),
    interpreter=PYTHON,
    daemons=(DAEMON,),
    installed_daemons=("libvirtd",),
    confinement=Confinement(apparmor=True),
)
SM951 = Drive("0000:01:00.0", "144d:a802", lethal=True)
OWNED = replace(SM951, guest="0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11")
ENFORCING = Confinement(selinux="enforcing", hooks_unconfined=False)
VIRTQEMUD = replace(DAEMON, name="virtqemud", profile="system_u:system_r:virtqemud_t:s0")


def of(check: str, facts: Facts) -> Finding | None:
    return next((each for each in doctor.examine(facts) if each.check == check), None)


def changed(**changes: object) -> Facts:
    return Facts(replace(SOUND, **changes))  # type: ignore[arg-type]


def entry(**changes: object) -> Facts:
    return changed(entries=(replace(HOOK, **changes),))  # type: ignore[arg-type]


def beside(name: str, **changes: object) -> Facts:
    return changed(entries=(HOOK, Entry(f"{FOLDER}/{name}", **changes)))  # type: ignore[arg-type]


def daemon(**changes: object) -> Facts:
    return changed(daemons=(replace(DAEMON, **changes),))  # type: ignore[arg-type]


def drive(**changes: object) -> Facts:
    return Facts(SOUND, (replace(OWNED, **changes),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("check", "facts", "level", "seen", "advice"),
    [
        pytest.param("root", changed(), "PASS", "yes", "", id="root"),
        pytest.param("root", changed(uid=1000), "FAIL", "uid is 1000", "sudo", id="a user"),
        pytest.param(
            "reset-method", changed(), "PASS", "6.1.0-18-amd64, 12 of 30", "", id="reset_method"
        ),
        pytest.param(
            "reset-method",
            changed(kernel="5.10.0", resettable=0),
            *("FAIL", "5.10.0, none of 30 functions", "5.15 or later"),
            id="an old kernel",
        ),
        pytest.param(
            "reset-method",
            changed(functions=0, resettable=0),
            *("WARN", "no PCI functions", "on the host"),
            id="a container",
        ),
        pytest.param("iommu", changed(), "PASS", "14 groups", "", id="IOMMU"),
        pytest.param(
            "iommu", changed(iommu_groups=0), "FAIL", "no groups", "intel_iommu=on", id="no IOMMU"
        ),
        pytest.param("vfio-pci", changed(), "PASS", "loaded", "", id="vfio-pci is loaded"),
        pytest.param(
            "vfio-pci", changed(vfio_pci=Vfio.LOADABLE), "PASS", "loadable", "", id="it can be"
        ),
        pytest.param(
            "vfio-pci", changed(vfio_pci=Vfio.ABSENT), "FAIL", "no such module", "full kernel"
        ),
        pytest.param("lockdown", changed(), "PASS", "none", "", id="no lockdown"),
        pytest.param("lockdown", changed(lockdown=""), "PASS", "none", "", id="nor a word of it"),
        pytest.param(
            "lockdown", changed(lockdown="integrity"), "WARN", "integrity", "through vfio"
        ),
        pytest.param("hook", changed(), "PASS", PATH, "", id="hook"),
        pytest.param(
            "hook", changed(entries=()), "FAIL", f"no {PATH}", "reset install", id="no hook"
        ),
        pytest.param(
            "hook", entry(mode=0o644), "FAIL", "mode is 0644", f"chmod 755 {PATH}", id="no x bit"
        ),
        pytest.param(
            "hook", entry(regular=False), "FAIL", "not a file", "remove it", id="a folder"
        ),
        pytest.param("trust", changed(), "PASS", "root's alone", "", id="root's"),
        pytest.param(
            "trust",
            changed(writable=(f"{PATH}: mode is 0777", f"{LIBRARY}: owner is uid 7")),
            *("FAIL", f"{PATH}: mode is 0777; ", f"chown root:root {PATH} && chmod go-w {PATH}"),
            id="anybody's",
        ),
        pytest.param("package", changed(), "PASS", LIBRARY, "", id="package"),
        pytest.param(
            "package", changed(packages=()), "FAIL", "no libvirt_hooks", "install", id="no package"
        ),
        pytest.param(
            "package",
            changed(packages=("/etc/libvirt/hooks/libvirt_hooks", LIBRARY)),
            *("WARN", f"is used, not {LIBRARY}", "remove /etc/libvirt/hooks/libvirt_hooks"),
            id="two packages",
        ),
        pytest.param(
            "interpreter", changed(), "PASS", "/usr/bin/python3 3.11.2", "", id="interpreter"
        ),
        pytest.param(
            "interpreter",
            entry(first_line="#!/usr/bin/env python3"),
            *("FAIL", "'#!/usr/bin/env python3' (expected '#!/usr/bin/python3 -IS')", "install"),
            id="another interpreter",
        ),
        pytest.param(
            "interpreter",
            changed(interpreter=replace(PYTHON, version=(3, 9, 18))),
            *("FAIL", "3.9.18 (expected 3.11 or later)", "upgrade"),
            id="an old Python",
        ),
        pytest.param(
            "interpreter",
            changed(interpreter=Interpreter("/usr/bin/python3", error="does not run")),
            *("FAIL", "/usr/bin/python3: does not run", "python3"),
            id="no Python",
        ),
        pytest.param("lxml", changed(), "PASS", "yes", "", id="lxml"),
        pytest.param(
            "lxml",
            changed(interpreter=replace(PYTHON, lxml=False, error="No module named 'lxml'")),
            *("FAIL", "No module named 'lxml'", "python3-lxml"),
            id="no lxml",
        ),
        pytest.param("daemon", changed(), "PASS", "libvirtd (812) has read hooks", "", id="daemon"),
        pytest.param(
            "daemon",
            daemon(started=50.0),
            *("FAIL", "libvirtd (812) has read no hook", "systemctl reload libvirtd"),
            id="not reloaded",
        ),
        pytest.param(
            "daemon",
            daemon(started=50.0, supervised=False),
            *("WARN", "libvirtd (812) may have read no hook", "kill -HUP 812"),
            id="not under systemd",
        ),
        pytest.param(
            "daemon",
            changed(daemons=()),
            *("PASS", "libvirtd: not running, reads hooks at its start", ""),
            id="no daemon runs",
        ),
        pytest.param(
            "daemon",
            changed(daemons=(), installed_daemons=()),
            *("FAIL", "neither libvirtd nor virtqemud", "install libvirt"),
            id="no libvirt",
        ),
        pytest.param("backups", changed(), "PASS", "none", "", id="no back-up"),
        pytest.param("backups", beside("x.bak", mode=0o644), "PASS", "none", "", id="cannot run"),
        pytest.param(
            "backups",
            beside("50-nvme-reset.bak"),
            *("FAIL", "50-nvme-reset.bak: ", f"rm {PATH}.bak, or chmod a-x"),
            id="a back-up that runs",
        ),
        pytest.param("others", changed(), "PASS", "none", "", id="alone"),
        pytest.param("others", beside("90-net"), "PASS", "90-net", "", id="not alone"),
        pytest.param(
            "others", beside("90-net.bak"), "PASS", "none", "", id="a back-up is no other"
        ),
        pytest.param(
            "others", beside("90-net", mode=0o777), "WARN", "mode 0777", "chmod go-w", id="anyone's"
        ),
        pytest.param(
            "others", beside("90-net", owner=7), "WARN", "owner 7", "chown root", id="a user's"
        ),
        pytest.param(
            "confinement", changed(), "PASS", "AppArmor, libvirtd (enforce)", "", id="AppArmor"
        ),
        pytest.param(
            "confinement", changed(confinement=Confinement()), "PASS", "none", "", id="unconfined"
        ),
        pytest.param(
            "confinement",
            entry(target="/opt/vnr/50-nvme-reset"),
            *("FAIL", "50-nvme-reset is /opt/vnr/50-nvme-reset, which it may not", "install"),
            id="AppArmor, a link that leads out",
        ),
        pytest.param(
            "confinement", entry(target="/usr/sbin/hook"), "PASS", "AppArmor", "", id="in sbin"
        ),
        pytest.param(
            "confinement",
            changed(confinement=replace(ENFORCING, labels=("Would relabel x",))),
            *("FAIL", "enforcing: Would relabel x", f"restorecon -Rv {PATH} {LIBRARY}"),
            id="SELinux, a label",
        ),
        pytest.param(
            "confinement",
            changed(confinement=Confinement(selinux="permissive", labels=("Would relabel x",))),
            *("WARN", "permissive: Would relabel x", "restorecon"),
            id="SELinux, only a warning",
        ),
        pytest.param(
            "confinement",
            changed(confinement=ENFORCING, daemons=(VIRTQEMUD,)),
            *("WARN", "virt_hooks_unconfined is off", "setsebool -P virt_hooks_unconfined on"),
            id="SELinux, the boolean",
        ),
        pytest.param(
            "confinement",
            changed(confinement=replace(ENFORCING, hooks_unconfined=True), daemons=(VIRTQEMUD,)),
            *("PASS", "SELinux enforcing, virtqemud_t", ""),
            id="SELinux, all well",
        ),
        pytest.param("policy", changed(), "PASS", "defaults hold", "", id="no policy"),
        pytest.param(
            "policy", changed(policy=PolicyFile("/p", True)), "PASS", "/p", "", id="a policy"
        ),
        pytest.param(
            "policy",
            changed(policy=PolicyFile("/p", False, "mode is 0666")),
            *("FAIL", "/p is ignored: mode is 0666", "chown root:root /p && chmod 644 /p"),
            id="a policy that is not trusted",
        ),
        pytest.param(
            "policy",
            changed(policy=PolicyFile("/p", True, "", "/p: line 1, column 7: x")),
            *("FAIL", "/p: line 1, column 7: x", "correct or remove /p"),
            id="a broken policy",
        ),
        pytest.param("guards", drive(), "PASS", "1 of 1 drives", "", id="guarded"),
        pytest.param(
            "guards", drive(guarded=False), "FAIL", "0000:01:00.0 (144d:a802)", "restart", id="bare"
        ),
        pytest.param("guards", drive(guarded=False, guest=None), "PASS", "0 of 1", "", id="idle"),
        pytest.param(
            "guards",
            drive(guarded=False, kernel_knows=True),
            "PASS",
            "1",
            "",
            id="the kernel knows",
        ),
        pytest.param("guards", drive(guarded=False, lethal=False), "PASS", "1", "", id="harmless"),
        pytest.param(
            "keepers", drive(wants_keeper=True, kept=True), "PASS", "0000:01", "", id="kept"
        ),
        pytest.param(
            "keepers", drive(wants_keeper=True), "WARN", "none for 0000:01", "journalctl", id="lost"
        ),
        pytest.param(
            "leftovers", Facts(SOUND, (), (Leftover("x", "y"),)), "WARN", "x", "y", id="left over"
        ),
        pytest.param("leftovers", changed(), "PASS", "none", "", id="nothing is left over"),
        pytest.param(
            "host-uses", Facts(SOUND, host_uses=()), "PASS", "none", "", id="the host uses none"
        ),
        pytest.param(
            "host-uses",
            Facts(SOUND, host_uses=(HostUse("win", "0000:02:00.0", "mount@nvme0n1:/"),)),
            *("WARN", "win: 0000:02:00.0: mount@nvme0n1:/", "show 0000:02:00.0"),
            id="the host uses one",
        ),
        pytest.param(
            "host-uses",
            Facts(SOUND, host_uses=(HostUse("win", "0000:02:00.0", "x", running=True),)),
            *("FAIL", "win", "show"),
            id="both use one",
        ),
        pytest.param(
            "hot-plug",
            Facts(SOUND, (SM951,)),
            *("PASS", "0000:01:00.0 (144d:a802): guarded from", "install -m 644 /usr/share/"),
            id="an offer",
        ),
        pytest.param(
            "hot-plug",
            Facts(SOUND, (replace(SM951, hot_pluggable=True),)),
            *("WARN", "hot-plug slot", "/etc/udev/rules.d/"),
            id="a slot",
        ),
        pytest.param(
            "hot-plug",
            Facts(replace(SOUND, udev_rule="/etc/udev/rules.d/x"), (SM951,)),
            *("PASS", "/etc/udev/rules.d/x", ""),
            id="the rule is active",
        ),
    ],
)
def test_check(check: str, facts: Facts, level: str, seen: str, advice: str) -> None:
    found = of(check, facts)
    assert found is not None
    assert (found.level, bool(found.advice)) == (level, bool(advice))
    assert seen in found.seen
    assert advice in found.advice


@pytest.mark.parametrize(
    ("check", "facts"),
    [
        ("trust", changed(entries=())),
        ("package", changed(entries=())),
        ("interpreter", changed(entries=())),
        ("lxml", changed(interpreter=replace(PYTHON, version=()))),
        ("daemon", changed(entries=())),
        ("daemon", entry(mode=0o644)),
        ("interpreter", changed(interpreter=None)),
        ("lxml", changed(interpreter=None)),
        ("keepers", changed()),
        ("keepers", drive(wants_keeper=True, guest=None)),
        ("keepers", drive()),
        ("hot-plug", Facts(SOUND, (replace(SM951, lethal=False),))),
        ("host-uses", changed()),
        ("hot-plug", changed()),
        ("hot-plug", Facts(SOUND, (replace(SM951, kernel_knows=True),))),
    ],
)
def test_check_that_does_not_apply(check: str, facts: Facts) -> None:
    assert of(check, facts) is None


@pytest.mark.parametrize(
    ("check", "facts", "seen"),
    [
        pytest.param("policy", changed(policy=PolicyFile("/p", True)), "/p", id="a policy"),
        pytest.param("others", beside("90-net", mode=0o644), "none", id="a file that cannot run"),
        pytest.param(
            "confinement",
            changed(
                entries=(replace(HOOK, target="/opt/x"),),
                daemons=(replace(DAEMON, profile="libvirtd (complain)"),),
            ),
            "AppArmor, libvirtd (complain)",
            id="AppArmor that only complains",
        ),
        pytest.param(
            "confinement",
            daemon(profile=""),
            "AppArmor, no daemon of libvirt runs",
            id="AppArmor without a daemon",
        ),
        pytest.param(
            "confinement",
            changed(
                confinement=replace(ENFORCING, selinux="permissive"),
                daemons=(VIRTQEMUD, replace(VIRTQEMUD, profile="")),
            ),
            "SELinux permissive, virtqemud_t",
            id="SELinux that only warns",
        ),
        pytest.param(
            "confinement",
            changed(
                confinement=ENFORCING,
                daemons=(replace(DAEMON, profile="system_u:system_r:virtd_t:s0"),),
            ),
            "SELinux enforcing, virtd_t",
            id="SELinux, a daemon that it does not confine",
        ),
        pytest.param(
            "confinement",
            changed(confinement=ENFORCING, daemons=()),
            "SELinux enforcing, no daemon of libvirt runs",
            id="SELinux without a daemon",
        ),
    ],
)
def test_all_of_what_was_seen(check: str, facts: Facts, seen: str) -> None:
    found = of(check, facts)
    assert found is not None
    assert (found.level, found.seen) == (Level.PASS, seen)


def test_another_hook_is_not_ours() -> None:
    found = of("hook", changed(entries=(Entry(f"{FOLDER}/90-net"),)))
    assert found is not None
    assert found.level is Level.FAIL


def test_the_parsers_own_hint_comes_first() -> None:
    found = of("policy", changed(policy=PolicyFile("/p", True, "", "x", "give both")))
    assert found is not None
    assert found.advice == "give both"


def test_of_uses_that_of_a_guest_that_runs_comes_first() -> None:
    uses = (HostUse("a", "0000:02:00.0", "x"), HostUse("b", "0000:03:00.0", "x", running=True))
    found = of("host-uses", Facts(SOUND, host_uses=uses))
    assert found is not None
    assert found.advice.startswith("virt-nvme-reset show 0000:03:00.0")


def test_each_outcome_of_each_check_is_tried() -> None:
    """By the table above: whoever adds a check adds its cases."""
    (mark,) = test_check.pytestmark  # type: ignore[attr-defined]
    tried = {case.values[0] for case in mark.args[1]}
    assert tried == {check.name for check in doctor.CHECKS}


@pytest.mark.parametrize(
    "name",
    ["x~", "x.bak", ".x.swp", ".x", "#x#", "x.dpkg-old", "x.rpmsave", "x.ucf-dist", "x.new"],
)
def test_names_of_backups(name: str) -> None:
    assert hooks.is_backup(name)


@pytest.mark.parametrize("name", ["qemu", "50-nvme-reset", "90-x.py", "10-a.sh", "dpkg-hook"])
def test_names_of_hooks(name: str) -> None:
    assert not hooks.is_backup(name)


@pytest.mark.parametrize(
    ("daemon", "entries", "readers", "expected"),
    [
        pytest.param(DAEMON, (HOOK,), (), Reading.YES, id="installed, then started"),
        pytest.param(
            replace(DAEMON, started=50.0), (HOOK,), (), Reading.NO, id="started, then installed"
        ),
        pytest.param(
            replace(DAEMON, started=50.0, reloaded=150.0), (HOOK,), (), Reading.YES, id="reloaded"
        ),
        pytest.param(
            replace(DAEMON, started=50.0, reloaded=70.0),
            *((HOOK,), (), Reading.NO),
            id="reloaded too soon",
        ),
        pytest.param(
            replace(DAEMON, started=50.0),
            *((HOOK, replace(HOOK, path="/etc/libvirt/hooks/qemu", changed=10.0)), ()),
            Reading.YES,
            id="another hook was there before",
        ),
        pytest.param(
            replace(DAEMON, started=50.0),
            *((HOOK, replace(HOOK, path="x", mode=0o644, changed=10.0)), (), Reading.NO),
            id="one that does not run proves nothing",
        ),
        pytest.param(
            replace(DAEMON, started=50.0), (HOOK,), {(812, 4000)}, Reading.YES, id="said by install"
        ),
        pytest.param(
            replace(DAEMON, started=50.0), (HOOK,), {(812, 1)}, Reading.NO, id="said of another"
        ),
        pytest.param(
            replace(DAEMON, started=50.0, supervised=False),
            *((HOOK,), (), Reading.UNKNOWN),
            id="who knows",
        ),
    ],
)
def test_reading(
    daemon: Daemon, entries: tuple[Entry, ...], readers: set[tuple[int, int]], expected: Reading
) -> None:
    assert reading(daemon, entries, readers) is expected


def test_no_complaint_without_advice() -> None:
    with pytest.raises(ValueError, match="no advice"):
        Verdict(Level.FAIL, "x")
