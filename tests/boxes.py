# SPDX-License-Identifier: LGPL-2.1-or-later
"""A checkout and a machine to install it on, both below a directory."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.command import laying, uninstall
from libvirt_hooks.command.install import Installation
from libvirt_hooks.doctor.facts import Daemon
from libvirt_hooks.linux import daemons
from libvirt_hooks.linux.installed import LIBRARY
from libvirt_hooks.simulator.host import SimHost

UUID = "0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11"
BDF = Bdf.parse("0000:01:00.0")
COMMAND = "/usr/local/sbin/virt-nvme-reset"
MODULE = f"{LIBRARY}/libvirt_hooks/hook.py"
SMALL = (
    "libvirt_hooks/hook.py",
    "libvirt_hooks/linux/sysfs.py",
    "bin/virt-nvme-reset",
    "docs/virt-nvme-reset.toml.example",
    "docs/man/virt-nvme-reset.8",
    "completions/virt-nvme-reset.bash",
    "completions/_virt-nvme-reset",
    "completions/virt-nvme-reset.fish",
    "packaging/udev/61-virt-nvme-reset-guard.rules",
    "hooks/qemu.d/50-nvme-reset",
)


class Box:
    """A small checkout, and a machine to install it on."""

    def __init__(self, where: Path) -> None:
        self.tree = where / "tree"
        self.root = where / "root"
        self.ran: list[Sequence[str]] = []
        self.reloaded: list[str] = []
        self.daemons: list[Daemon] = []
        self.host = SimHost()
        self.root.mkdir()
        for name in SMALL:
            self.edit(name, f"{name}\n")

    def edit(self, name: str, text: str) -> None:
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(self, command: Sequence[str]) -> str:
        self.ran.append(command)
        return ""

    def installation(self) -> Installation:
        return Installation(str(self.tree), "", str(self.root), self.run)

    def install(self, dry_run: bool = False) -> int:
        return self.installation().install(dry_run)

    def check(self) -> int:
        return self.installation().check()

    def uninstall(self, dry_run: bool = False) -> int:
        return uninstall.uninstall(self.host, dry_run, "", str(self.root))

    def at(self, path: str) -> Path:
        return self.root / path[1:]

    @property
    def all(self) -> list[str]:
        """Every file, as this machine names it."""
        found = (Path(at) / name for at, _, names in os.walk(self.root) for name in names)
        return sorted(f"/{path.relative_to(self.root)}" for path in found)


CHANGING = ("rename", "replace", "unlink", "symlink", "mkdir", "makedirs", "rmdir", "chmod")


def make(where: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    """Return one; from then on nothing can be changed but below *where*."""
    made = Box(where)
    monkeypatch.setattr(daemons, "running", lambda root, run: tuple(made.daemons))
    monkeypatch.setattr(daemons, "reload", lambda daemon: made.reloaded.append(daemon.name))
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # the slowest of all, and nothing to see
    for name in CHANGING:
        monkeypatch.setattr(os, name, _only_below(str(where), getattr(os, name)))
    monkeypatch.setattr(laying, "_write", _only_below(str(where), laying._write))
    monkeypatch.setattr(shutil, "rmtree", _only_below(str(where), shutil.rmtree))
    return made


def _only_below(where: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def change(*arguments: Any, **options: Any) -> Any:
        paths = [os.fspath(each) for each in arguments if isinstance(each, str | os.PathLike)]
        # The last one is what is changed; a name without a path is below a directory's descriptor.
        outside = paths and paths[-1].startswith("/") and not paths[-1].startswith(where)
        assert not outside, f"{real.__name__}: {paths[-1]}"
        return real(*arguments, **options)

    return change
