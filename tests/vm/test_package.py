# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every way to install in a real host, a guest's life with each, and nothing left afterwards.

The package by dpkg and by the Ansible role, and `virt-nvme-reset install` of a checkout.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from . import doctors, hooks, packages
from .drives import Double
from .lives import Life, Row, live
from .rig import Result, Rig

pytestmark = pytest.mark.vm

ANSIBLE = f"{hooks.CHECKOUT}/packaging/ansible"
RULE = "/etc/udev/rules.d/61-virt-nvme-reset-guard.rules"
POLICY = "/etc/virt-nvme-reset.toml"
# Each task of a play starts a Python of its own, under TCG.
PLAY_TIMEOUT = 400.0
LOCAL = "/usr/local/sbin/virt-nvme-reset"


@pytest.fixture(scope="module")
def package() -> str:
    return packages.build()


@pytest.fixture
def bare(rig: Rig, double: Double) -> Iterator[frozenset[str]]:
    """A libvirtd that knows no hook; returns what is in the rig without one.

    Afterwards it is as other tests expect it, whatever this one has left.
    """
    hooks.uninstall(rig)
    try:
        yield packages.footprint(rig)
    finally:
        rig.run(["rm", "-f", RULE, POLICY])
        rig.run(["dpkg", "--force-all", "-P", packages.NAME], check=False, timeout=200)
        rig.run(f"[ ! -e {packages.LIBRARY} ] || {LOCAL} uninstall", check=False)
        hooks.install(rig)
        double.heal()


def left(rig: Rig, bare: frozenset[str]) -> list[str]:
    return sorted(packages.footprint(rig) - bare)


def assert_protected(row: Row) -> None:
    """Its drive has outlived the guest, as with the hook that is copied."""
    assert row.before is not None
    assert row.after is not None
    assert row.after.where == "nvme live"
    assert row.after.reset_method == row.before.reset_method
    assert row.counters is not None
    assert row.counters.flr_lethal == 0
    assert row.guest_saw_it, f"CAP of each boot: {row.caps}"
    assert (row.left, row.complaints) == ([], [])


def assert_libvirt_works_alone(rig: Rig) -> None:
    """Guests start and stop, and no hook of ours is looked for."""
    noted = hooks.now(rig)
    row = live(rig, Life.SHUTDOWN)
    assert row.complaints == []
    assert not hooks.state_exists(rig)
    log = f"journalctl -q --no-pager -t libvirtd --since=@{noted // 1_000_000}"
    assert "nvme-reset" not in rig.run(log).stdout


def test_the_packages_life(
    rig: Rig, double: Double, bare: frozenset[str], package: str, rows: list[Row]
) -> None:
    packages.install(rig, package)
    assert rig.run([packages.COMMAND, "--version"]).stdout.startswith(packages.NAME)

    # The double lies in a hot-plug slot, where no hook runs: that a rule of udev's is on offer the
    # doctor has to say. With what it advises there is nothing left to say.
    found = doctors.examine(rig, packages.COMMAND)
    assert doctors.amiss(found) == {"hot-plug": "WARN"}, found["hot-plug"]
    doctors.follow(rig, found["hot-plug"])
    assert doctors.amiss(doctors.examine(rig, packages.COMMAND)) == {}

    row = live(rig, Life.REBOOT, double)
    rows.append(row)
    assert_protected(row)
    assert doctors.amiss(doctors.examine(rig, packages.COMMAND)) == {}
    rig.run(["rm", RULE])

    packages.remove(rig)
    # A conffile; but libvirt does not run it.
    assert left(rig, bare) == [hooks.SCRIPT]
    assert rig.run(["test", "-x", hooks.SCRIPT], check=False).returncode == 1

    packages.purge(rig)
    assert left(rig, bare) == []
    assert_libvirt_works_alone(rig)


def test_install_and_uninstall_from_a_checkout(
    rig: Rig, double: Double, bare: frozenset[str], rows: list[Row]
) -> None:
    installed = hooks.command(rig, "install", timeout=packages.TIMEOUT)
    assert installed.returncode == 0, installed
    assert "reloaded, for it had read no hook" in installed.stdout
    assert rig.run([LOCAL, "install", "--check"]).stdout == "all is installed\n"
    assert doctors.amiss(doctors.examine(rig, LOCAL)) == {"hot-plug": "WARN"}

    row = live(rig, Life.KILL, double)
    rows.append(row)
    assert_protected(row)

    gone = rig.run([LOCAL, "uninstall"])
    assert gone.stdout.splitlines() == ["all is removed"]
    assert left(rig, bare) == []
    assert_libvirt_works_alone(rig)


def test_the_role(rig: Rig, double: Double, bare: frozenset[str], package: str) -> None:
    wanted = {
        "virt_nvme_reset_package": package,
        "virt_nvme_reset_policy": {"deadline": 30},
        "virt_nvme_reset_udev_rule": True,
    }
    played = play(rig, f"ansible-playbook {ANSIBLE}/site.yml -e '{json.dumps(wanted)}'")
    assert played.returncode == 0, played.stdout + played.stderr
    assert "failed=0" in played.stdout
    assert "none failed" in played.stdout
    assert doctors.amiss(doctors.examine(rig, packages.COMMAND)) == {}
    assert f"{POLICY}" in rig.run([packages.COMMAND, "config"]).stdout
    # By the rule, which udev has been made to read.
    double.settle()
    assert double.view().reset_method == "bus"

    rig.run(["cp", "-p", hooks.SCRIPT, f"{hooks.SCRIPT}.bak"])
    try:
        refused = play(
            rig,
            f"ANSIBLE_ROLES_PATH={ANSIBLE}/roles ansible all -m include_role"
            " -a 'name=virt_nvme_reset tasks_from=doctor.yml'",
        )
    finally:
        rig.run(["rm", f"{hooks.SCRIPT}.bak"])
    assert refused.returncode == 2, refused
    assert "50-nvme-reset.bak: libvirt runs that, too (hint: rm " in refused.stdout


def play(rig: Rig, command: str) -> Result:
    environment = {"ANSIBLE_NOCOLOR": "1", "HOME": "/root"}
    words = f"{command} -i localhost, -c local"
    return rig.run(words, env=environment, timeout=PLAY_TIMEOUT, check=False)
