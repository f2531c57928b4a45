# SPDX-License-Identifier: LGPL-2.1-or-later
"""The list of files that `install` and the packages share, and what is in the tree for it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from libvirt_hooks import policy, policy_file
from libvirt_hooks.command import files
from libvirt_hooks.doctor.drives import OFFERED
from libvirt_hooks.doctor.facts import Daemon
from libvirt_hooks.errors import HookError
from libvirt_hooks.linux import daemons

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs" / "virt-nvme-reset.toml.example"


def test_every_module_is_in_it() -> None:
    listed = {each.source for each in files.listed(str(ROOT), files.PACKAGED)}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "libvirt_hooks").rglob("*.py")}
    assert modules <= listed
    assert not any("__pycache__" in name for name in listed)


def test_no_two_files_go_to_one_place() -> None:
    for prefix in (files.PACKAGED, files.LOCAL):
        places = [each.destination for each in files.listed(str(ROOT), prefix)]
        assert len(places) == len(set(places))


def test_a_makefile_can_read_it() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "libvirt_hooks.command.files"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split(" ") for line in told.stdout.splitlines()]
    assert {len(line) for line in lines} == {3}
    assert lines[-1] == [
        *("0755", "hooks/qemu.d/50-nvme-reset", "/etc/libvirt/hooks/qemu.d/50-nvme-reset")
    ]
    library = "/usr/lib/virt-nvme-reset/bin/virt-nvme-reset"
    assert ["link", library, "/usr/bin/virt-nvme-reset"] in lines
    for kind, source, _ in lines:
        assert kind == "link" or (ROOT / source).is_file()


def test_the_doctor_names_the_rule_where_it_is() -> None:
    assert OFFERED in {each.destination for each in files.listed(str(ROOT), files.LOCAL)}


def test_the_example_says_the_defaults() -> None:
    text = EXAMPLE.read_text()
    assert policy_file.parse(text) == policy.Policy()
    said = policy_file.parse(re.sub(r"(?m)^#(?=[\w\[])", "", text))
    assert (said.mode, said.failed_disable) == (
        policy.Policy().mode,
        policy.Policy().failed_disable,
    )
    assert (said.deadline, said.deadline_cap) == (20.0, 150.0)
    assert said.drives["144d:a802"]._fields == policy.Drive._fields
    assert None not in said.drives["144d:a802"]


def test_reload_tells_what_systemd_says(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(" ".join(command))
        return subprocess.CompletedProcess(command, len(ran) - 1, "", "Job failed.\nSee x.\n")

    monkeypatch.setattr(subprocess, "run", run)
    daemon = Daemon("libvirtd", 812, 4000, 0.0)
    daemons.reload(daemon)
    with pytest.raises(HookError, match="systemctl reload libvirtd.service: Job failed.$"):
        daemons.reload(daemon)
    assert ran == ["systemctl reload libvirtd.service"] * 2


def test_reload_without_systemd_is_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    monkeypatch.setattr("os.kill", lambda *what: sent.append(what))
    daemons.reload(Daemon("libvirtd", 812, 4000, 0.0, supervised=False))
    assert sent == [(812, 1)]
