# SPDX-License-Identifier: LGPL-2.1-or-later
"""The completions: those of the parser, taken by each shell, and what a person gets at a TAB."""

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from libvirt_hooks.command.parser import VERBS
from tools import completions

SECONDS = 20.0
"""Until a shell answers, on a machine that is busy."""

SHELLS = [
    pytest.param(
        shell,
        marks=pytest.mark.skipif(shutil.which(shell) is None, reason=f"no {shell}"),
        id=shell,
    )
    for shell in completions.NAMES
]


def path(shell: str) -> Path:
    return completions.FOLDER / completions.NAMES[shell]


@pytest.mark.parametrize("shell", completions.NAMES)
def test_the_script_is_that_of_the_parser(shell: str) -> None:
    made = completions.scripts()[completions.NAMES[shell]]
    assert path(shell).read_text() == made, "run: python -m tools.completions"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_takes_it(shell: str) -> None:
    checked = subprocess.run([shell, "-n", path(shell)], capture_output=True, text=True, check=True)
    assert (checked.stdout, checked.stderr) == ("", "")


@pytest.mark.parametrize(
    "typed, shown",
    [
        pytest.param("virt-nvme-reset sho", "virt-nvme-reset show ", id="a verb"),
        pytest.param("virt-nvme-reset list -o j", "list -o json ", id="a choice"),
        pytest.param("virt-nvme-reset config --x", "config --xml ", id="an option"),
        pytest.param("virt-nvme-reset config --xml /proc/cmdlin", "/proc/cmdline", id="a file"),
    ],
)
def test_bash_completes(typed: str, shown: str) -> None:
    with bash() as terminal:
        os.write(terminal, f"source {path('bash')}; echo re''ady\n".encode())
        read_until(terminal, "ready")
        os.write(terminal, f"{typed}\t".encode())
        read_until(terminal, shown)


def test_bash_lists_every_verb() -> None:
    with bash() as terminal:
        os.write(terminal, f"source {path('bash')}; echo re''ady\n".encode())
        read_until(terminal, "ready")
        os.write(terminal, b"virt-nvme-reset \t\t")
        read_until(terminal, *(verb.name for verb in VERBS))


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
def test_fish_completes(tmp_path: Path) -> None:
    script = f"source {path('fish')}; complete -C 'virt-nvme-reset sho'"
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["fish", "-N", "-c", script], capture_output=True, text=True, check=True, env=home
    )
    assert done.stdout == "show\tshow all that is known of one controller\n"


@contextmanager
def bash() -> Iterator[int]:
    """A bash of nobody's own, on a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {"TERM": "dumb", "PATH": os.environ["PATH"], "PS1": "$ "}
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment)
    try:
        yield terminal
    finally:
        os.close(terminal)  # hangs it up
        os.waitpid(pid, 0)


def read_until(terminal: int, *wanted: str) -> None:
    """Read what the terminal shows until all of it has been there."""
    seen, end = "", time.monotonic() + SECONDS
    while not all(each in seen for each in wanted):
        ready, _, _ = select.select([terminal], [], [], max(0, end - time.monotonic()))
        assert ready, f"{wanted!r} not in {seen!r}"
        seen += os.read(terminal, 4096).decode(errors="replace")
