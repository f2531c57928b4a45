# SPDX-License-Identifier: LGPL-2.1-or-later
"""House rules that no linter knows."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def tracked() -> list[Path]:
    """Every text file of the tree: tracked, or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split() if (path := ROOT / name).is_file()]


PYTHON = [path for path in tracked() if path.suffix == ".py"]


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_opens_with_its_licence_and_says_what_it_owns(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# SPDX-License-Identifier: ")
    assert len(lines) == 1 or lines[1].startswith('"""')


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_has_one_subject(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= (400 if "libvirt_hooks" in path.parts else 500)


def test_nothing_is_left_to_do() -> None:
    unfinished = [word.upper() for word in ("todo", "fixme", "xxx", "hack:")]
    for path in PYTHON:
        found = [word for word in unfinished if word in path.read_text()]
        assert not found, path


def test_the_gate_is_executable_and_names_its_interpreter() -> None:
    gate = ROOT / "hooks" / "qemu.d" / "50-nvme-reset"
    assert gate.stat().st_mode & 0o111 == 0o111
    assert gate.read_text().startswith("#!/usr/bin/python3 -IS\n")
