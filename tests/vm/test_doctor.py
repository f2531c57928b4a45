# SPDX-License-Identifier: LGPL-2.1-or-later
"""The doctor under a real libvirtd, systemd and AppArmor: what it fails, and that its advice cures.

Under lockdown there is no rig: that verdict is only tested without one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from . import daemon, doctors, hooks, uses
from .drives import Double, Drive
from .guests import Guest
from .rig import Rig
from .storage import Disk

pytestmark = pytest.mark.vm

POLICY = "/etc/virt-nvme-reset.toml"
MARK = "/run/rig/hooks-run"
# What holds for the double in its slot, as long as nobody has put the udev rule there.
ALWAYS = {"hot-plug": "WARN"}


@pytest.fixture
def sound(rig: Rig, double: Double, ordinary: Drive) -> Iterator[None]:
    """All is well before; and after, whatever the test has made of it."""
    # A libvirtd that was only starting when the hook was laid down is not reloaded by
    # reload-or-restart, and whether it has seen the hook nobody knows.
    rig.run("systemctl start libvirtd && systemctl reload libvirtd && virsh -q uri")
    assert doctors.amiss(doctors.examine(rig)) == ALWAYS
    yield
    rig.run(["rm", "-f", f"{hooks.SCRIPT}.bak", POLICY, MARK])
    hooks.install(rig)


def cure(rig: Rig, check: str, seen: str, advice: str) -> None:
    """The check fails with these words, alone; and passes once its advice has been followed."""
    found = doctors.examine(rig)
    assert doctors.amiss(found) == ALWAYS | {check: "FAIL"}, found[check]
    assert (found[check].seen, found[check].advice) == (seen, advice)
    doctors.follow(rig, found[check])
    assert doctors.examine(rig)[check].level == "PASS"


def test_hook_that_is_not_executable(rig: Rig, sound: None) -> None:
    rig.run(["chmod", "644", hooks.SCRIPT])
    cure(
        rig,
        "hook",
        f"{hooks.SCRIPT}: mode is 0644, not executable",
        f"chmod 755 {hooks.SCRIPT}",
    )


def test_backup_that_libvirt_would_run(rig: Rig, sound: None) -> None:
    rig.run(["cp", "-p", hooks.SCRIPT, f"{hooks.SCRIPT}.bak"])
    cure(
        rig,
        "backups",
        "50-nvme-reset.bak: libvirt runs that, too",
        f"rm {hooks.SCRIPT}.bak, or chmod a-x",
    )


def test_policy_with_a_mistake(rig: Rig, sound: None) -> None:
    rig.run(f"cat > {POLICY}", stdin='mode = "enforce"\ndeadlin = 20\n')
    found = doctors.examine(rig)["policy"]
    assert (found.level, found.seen, found.advice) == (
        "FAIL",
        f"{POLICY}: line 2, column 1: unknown key 'deadlin', did you mean deadline?",
        f"correct or remove {POLICY}",
    )
    rig.run(["rm", POLICY])
    assert doctors.amiss(doctors.examine(rig)) == ALWAYS


def test_policy_that_others_can_write(rig: Rig, sound: None) -> None:
    rig.run(f"cat > {POLICY} && chmod 666 {POLICY}", stdin='mode = "enforce"\n')
    cure(
        rig,
        "policy",
        f"{POLICY} is ignored: mode is 0666 (expected no write bit for group and others)",
        f"chown root:root {POLICY} && chmod 644 {POLICY}",
    )


def test_daemon_that_has_not_looked(rig: Rig, sound: None) -> None:
    """What the doctor says of libvirtd is what libvirtd does, before the reload and after."""
    hooks.uninstall(rig)
    daemon.restart(rig)
    rig.run(
        f"cp -r {hooks.CHECKOUT}/libvirt_hooks {hooks.FOLDER}/"
        f" && install -m 755 {hooks.CHECKOUT}/hooks/qemu.d/50-nvme-reset {hooks.SCRIPT}"
    )
    with hooks.neighbour(rig, "10-mark", "prepare", f"touch {MARK}"):
        assert not hooks_run(rig)
        pid = rig.run(["pidof", "libvirtd"]).stdout.strip()
        cure(
            rig,
            "daemon",
            f"libvirtd ({pid}) has read no hook: changed since it looked",
            "systemctl reload libvirtd",
        )
        assert hooks_run(rig)
    # Nor does a change of the hook, or a restart, trouble who has looked.
    daemon.restart(rig)
    assert doctors.amiss(doctors.examine(rig)) == ALWAYS


def hooks_run(rig: Rig) -> bool:
    """Does libvirtd run hooks?"""
    guest = Guest(rig, "marks", "hang")
    guest.define()
    try:
        guest.start()
    finally:
        guest.undefine()
    return rig.run(["rm", MARK], check=False).returncode == 0


def test_names_and_uses_by_libvirt(rig: Rig, sound: None, double: Double, ordinary: Drive) -> None:
    """Through libvirt-python, of the guests of a libvirtd that runs."""
    running = Guest(rig, "has-the-double", "hang", double.bdf)
    defined = Guest(rig, "wants-the-disk", "hang", ordinary.bdf)
    disk = Disk(ordinary)
    disk.partition()
    rig.run(["mkdir", "-p", uses.POINT])
    use = uses.mounted(disk)
    running.define()
    defined.define()
    try:
        plan = hooks.command(rig, "plan", running.name)
        assert plan.returncode == 0, plan
        assert double.bdf in plan.stdout
        refused = hooks.command(rig, "plan", defined.name)
        assert refused.returncode == 1
        assert use.reasons in refused.stdout + refused.stderr

        running.start()
        listed = json.loads(hooks.command(rig, "list", "-o", "json").stdout)["controllers"]
        (held,) = [each for each in listed if each["bdf"] == double.bdf]
        assert (held["guest_name"], held["guest"]) == (running.name, running.uuid)
        assert running.name in hooks.command(rig, "list").stdout

        found = doctors.examine(rig)
        assert doctors.amiss(found) == ALWAYS | {"host-uses": "WARN"}
        assert found["host-uses"].seen == f"{defined.name}: {ordinary.bdf}: {use.reasons}"
        assert found["guards"].seen == "1 of 2 drives are with guests"
        assert double.bdf in found["keepers"].seen
    finally:
        running.undefine()
        defined.undefine()
        rig.run(use.commands[0])
        disk.wipe()
    double.wait_live()
    assert doctors.amiss(doctors.examine(rig)) == ALWAYS
