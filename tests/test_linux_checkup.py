# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the doctor sees of a machine: trees of files, and programs that answer as real ones do."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from libvirt_hooks.doctor.facts import (
    Confinement,
    Daemon,
    Entry,
    Interpreter,
    Machine,
    PolicyFile,
    Vfio,
)
from libvirt_hooks.linux import checkup, daemons, installed, manifest

QEMU_D = "etc/libvirt/hooks/qemu.d"
SHOWN = (  # systemd 252, `systemctl show --timestamp=us+utc`, a unit that was reloaded once
    "MainPID=812\n"
    "ExecMainStartTimestamp=Fri 2026-11-27 20:00:00.250000 UTC\n"
    "StateChangeTimestamp=Fri 2026-11-27 21:30:00.500000 UTC\n"
    "ActiveEnterTimestamp=Fri 2026-11-27 20:00:01.750000 UTC\n"
)
STARTED, RELOADED = 1795809600.25, 1795815000.5
PYTHON = '[[3, 11, 2], ""]'


class Box:
    """A machine below a directory, and what its programs print."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.prints: dict[str, str] = {installed.PYTHON: PYTHON}
        self.ran: list[Sequence[str]] = []

    def write(self, path: str, text: str = "", mode: int = 0o644) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def run(self, command: Sequence[str]) -> str:
        self.ran.append(command)
        return self.prints.get(command[0], "")

    def gather(self) -> Machine:
        return checkup.gather(str(self.root), self.run, os.geteuid())

    def process(self, pid: int, name: str, uid: int = 0, ticks: int = 4000) -> None:
        stat = f"{pid} ({name}) S " + " ".join(["1"] * 18) + f" {ticks} 0\n"
        self.write(f"proc/{pid}/comm", f"{name}\n")
        self.write(f"proc/{pid}/stat", stat)
        self.write(f"proc/{pid}/task/{pid}/stat", stat)
        self.write(f"proc/{pid}/status", f"Name:\t{name}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
        self.write(f"proc/{pid}/attr/current", "libvirtd (enforce)\n\0")


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_an_empty_machine(box: Box) -> None:
    box.prints.clear()
    assert box.gather() == Machine(
        uid=os.geteuid(),
        vfio_pci=Vfio.ABSENT,
        hook=installed.HOOK,
        interpreter=Interpreter(installed.PYTHON, error="does not run"),
        policy=PolicyFile("/etc/virt-nvme-reset.toml"),
    )


def test_kernel(box: Box) -> None:
    box.write("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n")
    box.write("sys/bus/pci/devices/0000:00:00.0/class")
    box.write("sys/bus/pci/devices/0000:01:00.0/reset_method", "flr bus\n")
    box.write("sys/kernel/iommu_groups/0/type")
    box.write("sys/kernel/iommu_groups/1/type")
    seen = box.gather()
    assert (seen.kernel, seen.functions, seen.resettable) == ("6.1.0-18-amd64", 2, 1)
    assert seen.iommu_groups == 2


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("sys/bus/pci/drivers/vfio-pci/bind", Vfio.LOADED),
        ("lib/modules/6.1/modules.dep", Vfio.LOADABLE),
        ("lib/modules/6.0/modules.dep", Vfio.ABSENT),
    ],
)
def test_vfio_pci(box: Box, path: str, expected: Vfio) -> None:
    box.write("proc/sys/kernel/osrelease", "6.1\n")
    box.write(path, "kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/drivers/vfio/vfio.ko.xz\n")
    assert box.gather().vfio_pci is expected


@pytest.mark.parametrize("mode", ["none", "integrity", "confidentiality"])
def test_lockdown(box: Box, mode: str) -> None:
    all_of_them = "none integrity confidentiality".replace(mode, f"[{mode}]")
    box.write("sys/kernel/security/lockdown", f"{all_of_them}\n")
    assert box.gather().lockdown == mode


def test_entries_in_the_order_of_libvirt(box: Box) -> None:
    """As section 3 of the contract has it: bytes, no name is left out, links followed."""
    for name in ("90-x.py", "10-a~", ".hidden", "Zed", "10-a", "2-b"):
        box.write(f"{QEMU_D}/{name}", "#!/bin/sh\n", 0o755)
    box.write("etc/libvirt/hooks/qemu", "", 0o700)
    box.write("etc/libvirt/hooks/lxc", "", 0o700)
    (box.root / QEMU_D / "nowhere").symlink_to("gone")
    (box.root / QEMU_D / "folder").mkdir()
    seen = box.gather().entries
    assert [each.name for each in seen] == [
        *("qemu", ".hidden", "10-a", "10-a~", "2-b", "90-x.py", "Zed", "folder")
    ]
    assert [each.name for each in seen if not each.runs] == ["folder"]
    assert {each.first_line for each in seen} == {"#!/bin/sh", ""}


def test_an_entry_through_a_link(box: Box) -> None:
    real = box.write("opt/vnr/50-nvme-reset", "#!/usr/bin/python3 -IS\n", 0o755)
    link = box.root / QEMU_D / "50-nvme-reset"
    link.parent.mkdir(parents=True)
    link.symlink_to(real)
    (seen,) = box.gather().entries
    assert seen == Entry(
        path=installed.HOOK,
        mode=0o755,
        owner=os.geteuid(),
        changed=max(link.lstat().st_ctime, real.stat().st_ctime),
        target="/opt/vnr/50-nvme-reset",
        first_line="#!/usr/bin/python3 -IS",
    )


def test_a_file_that_is_made_executable_has_changed(box: Box) -> None:
    """By its ctime: chmod leaves mtime alone."""
    hook = box.write(f"{QEMU_D}/50-nvme-reset", "", 0o755)
    os.utime(hook, (1000.0, 1000.0))
    (seen,) = box.gather().entries
    assert seen.changed == hook.stat().st_ctime > 1000.0


def test_packages_in_the_order_of_the_hook(box: Box) -> None:
    wanted = (
        "/etc/libvirt/hooks",
        "/etc/libvirt",
        "/usr/lib/virt-nvme-reset",
        "/usr/local/lib/python3.11/dist-packages",
        "/usr/lib/python3/dist-packages",
        "/usr/lib/python3.13/site-packages",
    )
    for place in wanted:
        box.write(f"{place[1:]}/libvirt_hooks/hook.py")
    box.write("usr/lib/python3.9/libvirt_hooks/hook.py")
    assert box.gather().packages == tuple(f"{place}/libvirt_hooks" for place in wanted)


def test_the_hook_looks_there_too() -> None:
    gate = Path(__file__).parent.parent / "hooks" / "qemu.d" / "50-nvme-reset"
    assert f'INSTALLED = "{installed.LIBRARY}"\n' in gate.read_text()


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        (f"{QEMU_D}/50-nvme-reset", 0o775),
        (QEMU_D, 0o777),
        ("etc", 0o775),
        ("usr/lib/virt-nvme-reset/libvirt_hooks", 0o770),
        ("usr/lib/virt-nvme-reset/libvirt_hooks/linux/sysfs.py", 0o666),
    ],
)
def test_what_others_may_change(box: Box, path: str, mode: int) -> None:
    box.write(f"{QEMU_D}/50-nvme-reset", "", 0o755)
    box.write("usr/lib/virt-nvme-reset/libvirt_hooks/hook.py")
    box.write("usr/lib/virt-nvme-reset/libvirt_hooks/linux/sysfs.py")
    assert box.gather().writable == ()
    (box.root / path).chmod(mode)
    assert box.gather().writable == (f"/{path}: mode is {mode:04o}",)


def test_who_owns_it(box: Box) -> None:
    box.write(f"{QEMU_D}/50-nvme-reset", "", 0o755)
    (box.root / "etc").chmod(0o1777)  # sticky: nobody else may replace what is in it
    me = os.geteuid()
    assert box.gather().writable == ()
    seen = installed.writable([installed.HOOK], str(box.root), me + 1)
    assert seen[-1] == f"{installed.HOOK}: owner is uid {me} (expected {me + 1})"
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("printed", "version", "lxml", "error"),
    [
        ('[[3, 13, 1], ""]', (3, 13, 1), True, ""),
        ("[[3, 9, 2], \"No module named 'lxml'\"]", (3, 9, 2), False, "No module named 'lxml'"),
        ("", (), False, "does not run"),
    ],
)
def test_interpreter(
    box: Box, printed: str, version: tuple[int, ...], lxml: bool, error: str
) -> None:
    box.prints[installed.PYTHON] = printed
    seen = box.gather().interpreter
    assert seen is not None
    assert (seen.version, seen.lxml, seen.error) == (version, lxml, error)


def test_the_real_interpreter() -> None:
    assert installed.interpreter(daemons.ask).version >= (3, 11)


def test_a_daemon_that_systemd_has_reloaded(box: Box) -> None:
    box.process(812, "libvirtd")
    box.process(900, "libvirtd", uid=1000)
    box.process(901, "virtlogd")
    box.prints["systemctl"] = SHOWN
    assert box.gather().daemons == (
        Daemon("libvirtd", 812, 4000, STARTED, RELOADED, True, "libvirtd (enforce)"),
    )
    assert [command[-1] for command in box.ran if command[0] == "systemctl"] == ["libvirtd.service"]


def test_a_daemon_that_was_never_reloaded(box: Box) -> None:
    box.process(812, "virtqemud")
    box.prints["systemctl"] = SHOWN.replace("21:30:00.500000", "20:00:01.750000")
    (seen,) = box.gather().daemons
    assert (seen.started, seen.reloaded, seen.supervised) == (STARTED, 0.0, True)


def test_a_systemd_that_prints_seconds(box: Box) -> None:
    box.process(812, "libvirtd")
    box.prints["systemctl"] = re.sub(r"\.\d{6}", "", SHOWN)
    (seen,) = box.gather().daemons
    assert (seen.started, seen.reloaded) == (int(STARTED), int(RELOADED))


@pytest.mark.parametrize(
    "printed",
    [
        pytest.param("", id="no systemd"),
        pytest.param(SHOWN.replace("812", "0"), id="of another process"),
        pytest.param(SHOWN.replace(" UTC", ""), id="times of another zone"),
        pytest.param(SHOWN.replace("StateChange", "Stat"), id="no such property"),
    ],
)
def test_a_daemon_that_systemd_knows_nothing_of(box: Box, printed: str) -> None:
    box.write("proc/stat", "cpu 1 2 3\nbtime 1795800000\n")
    box.process(812, "libvirtd", ticks=100 * os.sysconf("SC_CLK_TCK"))
    box.prints["systemctl"] = printed
    (seen,) = box.gather().daemons
    assert (seen.started, seen.reloaded, seen.supervised) == (1795800100, 0.0, False)


def test_installed_daemons(box: Box) -> None:
    box.write("usr/sbin/virtqemud")
    assert box.gather().installed_daemons == ("virtqemud",)


def test_readers_are_what_install_has_noted(box: Box) -> None:
    box.write(manifest.PATH[1:], '{"files": {}, "directories": [], "readers": [[812, 4000]]}')
    assert box.gather().readers == {(812, 4000)}
    box.write(manifest.PATH[1:], "{}")
    assert box.gather().readers == frozenset()


def test_apparmor(box: Box) -> None:
    box.write("sys/module/apparmor/parameters/enabled", "Y\n")
    assert box.gather().confinement == Confinement(apparmor=True)
    assert not any(command[0] == "restorecon" for command in box.ran)


@pytest.mark.parametrize(("enforce", "mode"), [("1", "enforcing"), ("0", "permissive")])
def test_selinux(box: Box, enforce: str, mode: str) -> None:
    relabel = f"Would relabel {installed.HOOK} from user_tmp_t to virt_hook_t"
    box.write("sys/fs/selinux/enforce", enforce)
    box.write("sys/fs/selinux/booleans/virt_hooks_unconfined", "0 0")
    box.write("usr/lib/virt-nvme-reset/libvirt_hooks/hook.py")
    box.prints["restorecon"] = f"{relabel}\n"
    assert box.gather().confinement == Confinement(False, mode, (relabel,), False)
    (asked,) = (command for command in box.ran if command[0] == "restorecon")
    assert asked == (
        *("restorecon", "-n", "-v", "-R", installed.HOOK),
        "/usr/lib/virt-nvme-reset/libvirt_hooks",
    )


@pytest.mark.parametrize(
    ("text", "mode", "untrusted", "error"),
    [
        ("deadline = 30\n", 0o644, "", ""),
        ("deadline = 30\n", 0o666, "mode is 0666 (expected", ""),
        ("mode =", 0o644, "", "/etc/virt-nvme-reset.toml: line 1, column 7: "),
    ],
)
def test_policy(box: Box, text: str, mode: int, untrusted: str, error: str) -> None:
    box.write("etc/virt-nvme-reset.toml", text, mode)
    seen = box.gather().policy
    assert seen.untrusted.startswith(untrusted) and bool(seen.untrusted) == bool(untrusted)
    assert seen.error.startswith(error) and bool(seen.error) == bool(error)


@pytest.mark.parametrize("folder", ["etc/udev/rules.d", "usr/lib/udev/rules.d"])
def test_udev_rule(box: Box, folder: str) -> None:
    box.write(f"{folder}/61-virt-nvme-reset-guard.rules")
    assert box.gather().udev_rule == f"/{folder}/61-virt-nvme-reset-guard.rules"


def test_a_program_that_is_not_there_or_fails_says_nothing() -> None:
    assert daemons.ask(("/nonexistent",)) == ""
    assert daemons.ask(("/bin/sh", "-c", "echo x; exit 1")) == ""
    assert daemons.ask(("/bin/sh", "-c", "echo $LC_ALL")) == "C\n"
