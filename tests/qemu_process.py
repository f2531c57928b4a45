# SPDX-License-Identifier: LGPL-2.1-or-later
"""A child process that plays QEMU, and what its vfio devices are."""

import os
import subprocess
import sys
from pathlib import Path

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import HookError
from libvirt_hooks.linux.vfio import Device

UUID = "11111111-2222-3333-4444-555555555555"
NVME = Bdf.parse("0000:03:00.0")
OTHER = Bdf.parse("0000:04:00.0")
# Does as it is told, a line at a time: `open N PATH`, `dup N M`, `close N`, `leave` (its first
# thread ends, another goes on).
CHILD = """
import ctypes, os, sys, threading
def serve():
    for line in sys.stdin:
        verb, *rest = line.split()
        if verb == "open":
            fd = os.open(rest[1], os.O_RDWR)
            os.dup2(fd, int(rest[0]))
            os.close(fd)
        elif verb == "dup":
            os.dup2(int(rest[0]), int(rest[1]))
        elif verb == "close":
            os.close(int(rest[0]))
        elif verb == "leave":
            return
        print("done", flush=True)
while True:
    serve()
    threading.Thread(target=serve).start()
    print("done", flush=True)
    ctypes.CDLL(None).syscall(ctypes.c_long(60), ctypes.c_long(0))
"""


class Guest:
    """A child that plays QEMU, and what its vfio devices are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_what: dict[str, tuple[Bdf, ...] | HookError] = {}
        self.nearby: tuple[Bdf, ...] = ()
        self.looked: list[str] = []
        folder.mkdir()
        self.child = subprocess.Popen(
            [sys.executable, "-c", CHILD, "-uuid", UUID],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.do("open 20 /dev/null")

    def do(self, line: str) -> None:
        assert self.child.stdin is not None and self.child.stdout is not None
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()
        assert self.child.stdout.readline() == "done\n"

    def plug(self, number: int, name: str, *bdfs: Bdf) -> None:
        (self.folder / name).touch()
        self.is_what.setdefault(name, bdfs)
        self.do(f"open {number} {self.folder / name}")

    def kill(self) -> None:
        self.child.kill()
        self.child.communicate()

    def may_be(self, device: Device, target: str, *_: object) -> tuple[Bdf, ...]:
        name = os.path.basename(target.removesuffix(" (deleted)"))
        self.looked.append(name)
        found = self.is_what[name]
        if isinstance(found, HookError):
            raise found
        return found
