# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Ansible role, as far as one machine without a guest can tell: syntax, policy, the doctor."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from libvirt_hooks import policy_file
from libvirt_hooks.policy import Drive, GuardChoice, Mode

FOLDER = Path(__file__).parent.parent / "packaging" / "ansible"
ROLE = FOLDER / "roles" / "virt_nvme_reset"

pytestmark = pytest.mark.skipif(shutil.which("ansible-playbook") is None, reason="no ansible")


def play(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ansible-playbook on this machine; what it leaves goes to *tmp_path*."""
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "ANSIBLE_LOCAL_TEMP": str(tmp_path),
        "ANSIBLE_REMOTE_TEMP": str(tmp_path),
        "ANSIBLE_ROLES_PATH": str(FOLDER / "roles"),
        "ANSIBLE_NOCOLOR": "1",
    }
    command = ["ansible-playbook", "-i", "localhost,", "-c", "local", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def tasks(tmp_path: Path, which: list[dict[str, object]], **variables: object) -> str:
    """Play some tasks with the role's defaults; return what ansible says."""
    book = tmp_path / "book.json"  # which is YAML, too
    book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": which}]))
    done = play(tmp_path, str(book), "-e", json.dumps(variables))
    return done.stdout + done.stderr


def test_the_syntax(tmp_path: Path) -> None:
    done = play(tmp_path, "--syntax-check", str(FOLDER / "site.yml"))
    assert done.returncode == 0, done.stderr


def test_the_policy_is_one(tmp_path: Path) -> None:
    policy = {
        "mode": "observe",
        "deny": ["0000:01:00.0"],
        "deadline": 30,
        "drive": {"144d:a802": {"guard": "bus", "prefer_bus": True, "settle_after_reset": 0.5}},
    }
    written = tmp_path / "policy.toml"
    template = {"src": str(ROLE / "templates" / "virt-nvme-reset.toml.j2"), "dest": str(written)}
    said = tasks(tmp_path, [{"template": template}], virt_nvme_reset_policy=policy)
    assert "failed=0" in said, said
    found = policy_file.parse(written.read_text())
    assert (found.mode, found.deny, found.deadline) == (Mode.OBSERVE, ("0000:01:00.0",), 30)
    row = Drive(guard=GuardChoice.BUS, prefer_bus=True, settle_after_reset=0.5)
    assert found.drives == {"144d:a802": row}


GOOD = {"check": "root", "title": "runs as root", "level": "PASS", "seen": "uid 0", "advice": ""}
BAD = {"check": "hook", "title": "hook", "level": "FAIL", "seen": "mode 644", "advice": "chmod it"}


@pytest.mark.parametrize(
    "checks, tolerated, expected",
    [
        pytest.param([GOOD], [], "none failed", id="all is well"),
        pytest.param([GOOD, BAD], [], "hook: mode 644 (hint: chmod it)", id="one failed"),
        pytest.param([GOOD, BAD], ["hook"], "none failed", id="one failed, and may"),
    ],
)
def test_the_doctor_decides(
    tmp_path: Path, checks: list[dict[str, str]], tolerated: list[str], expected: str
) -> None:
    status = int(BAD in checks)
    script = f"#!/bin/sh\necho '{json.dumps({'version': 1, 'checks': checks})}'\nexit {status}\n"
    command = tmp_path / "virt-nvme-reset"
    command.write_text(script)
    command.chmod(0o755)
    doctor: dict[str, object] = {
        "include_role": {"name": "virt_nvme_reset", "tasks_from": "doctor.yml"}
    }
    said = tasks(tmp_path, [doctor], virt_nvme_reset_tolerated=tolerated)
    assert expected in said, said
    assert ("failed=0" in said) == (expected == "none failed"), said
