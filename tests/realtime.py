# SPDX-License-Identifier: LGPL-2.1-or-later
"""Controllers in real time, shared by real processes: a tree of files that LinuxHost works on.

For what the simulator's virtual clock cannot show: locks between processes, workers that run side
by side, wall time. A reset takes 100 ms, a disable 5 ms, waking 10 ms. Run as a program it is one
call of the hook:

    realtime.py ROOT OPERATION SUBOPERATION < domain.xml
"""

import os
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from libvirt_hooks import hook
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.host import Registers
from libvirt_hooks.linux import mmio
from libvirt_hooks.linux.host import LinuxHost
from libvirt_hooks.simulator.domain_xml import Assigned, domain_xml

RESET_SECONDS, DISABLE_SECONDS, WAKE_SECONDS = 0.1, 0.005, 0.01
CC, CSTS, DISABLED_AT = 0x14, 0x1C, 0xFF0
CAP = 0x0000_0020_0F01_3FFF  # TO=15: 8.0 s
LEFT_BY_THE_HOST = {CC: 0x00464061, CSTS: 0x9, 0x24: 0x001F001F, 0x28: 0x1000, 0x30: 0x2000}
LOG = "log"


class TimedRegisters:
    """A file of registers in which RDY follows EN after 5 ms, whoever has it mapped."""

    def __init__(self, inside: Registers) -> None:
        self._inside = inside

    def read32(self, offset: int) -> int:
        if offset == CSTS and not self._inside.read32(CC) & 1:
            since = (_milliseconds() - self._inside.read32(DISABLED_AT)) & 0xFFFFFFFF
            return int(self._inside.read32(CSTS) & 1 and since < DISABLE_SECONDS * 1000)
        return self._inside.read32(offset)

    def write32(self, offset: int, value: int) -> None:
        if offset == CC and not value & 1:
            self._inside.write32(DISABLED_AT, _milliseconds() & 0xFFFFFFFF)
        self._inside.write32(offset, value)


class TreeHost(LinuxHost):
    """LinuxHost on a tree of ours, with a kernel that takes its time.

    :param dirty: every controller is found as the host's driver leaves it, each time.
    """

    def __init__(self, root: Path, dirty: bool = False) -> None:
        self.root = root
        self.dirty = dirty
        super().__init__(
            str(root / "devices"),
            str(root / "run"),
            str(root / "policy.toml"),
            str(root / "bus"),
            str(root / "buses"),
        )

    def write_attr(self, bdf: Bdf, name: str, value: str) -> None:
        if name == "reset":
            time.sleep(RESET_SECONDS)
            _set_registers(self.root, bdf, {})
        elif name == "power/control":
            time.sleep(WAKE_SECONDS if value == "on" else 0)
            state = "D0" if value == "on" else "D3hot"
            (self.root / "devices" / str(bdf) / "power_state").write_text(state)
        (self.root / "devices" / str(bdf) / name).write_text(value)

    @contextmanager
    def registers(self, bdf: Bdf) -> Iterator[Registers]:
        with mmio.map_registers(self.path(bdf, "resource0"), bdf) as inside:
            yield TimedRegisters(inside)

    @contextmanager
    def lock(self, what: Bdf | str, timeout: float) -> Iterator[None]:
        with super().lock(what, timeout):
            self._note(f"+{what}")
            if self.dirty and isinstance(what, Bdf):
                _set_registers(self.root, what, LEFT_BY_THE_HOST)
            yield
            self._note(f"-{what}")

    def _note(self, what: str) -> None:
        with (self.root / LOG).open("a") as log:
            log.write(f"{time.monotonic():.6f} {os.getpid()} {what}\n")


def build(root: Path, bdfs: Sequence[Bdf]) -> None:
    """Make a tree with these controllers, idle on vfio-pci and asleep."""
    (root / "bus" / "drivers" / "vfio-pci").mkdir(parents=True)
    for at, bdf in enumerate(bdfs):
        device = root / "devices" / str(bdf)
        (device / "power").mkdir(parents=True)
        (device / "driver").symlink_to(root / "bus" / "drivers" / "vfio-pci")
        (device / "iommu_group").symlink_to(f"../../groups/{1_000_000 + at}")
        for name, text in (
            ("class", "0x010802"),
            ("vendor", "0x1b36"),
            ("device", "0x0010"),
            ("enable", "0"),
            ("power_state", "D3hot"),
            ("power/control", "auto"),
            ("reset_method", "flr bus"),
            ("reset", ""),
            ("driver_override", "(null)"),
        ):
            (device / name).write_text(f"{text}\n")
        config = bytearray(256)
        struct.pack_into("<HHH", config, 0, 0x1B36, 0x0010, 0x0103)
        (device / "config").write_bytes(config)
        _set_registers(root, bdf, LEFT_BY_THE_HOST)


def domain(name: str, at: int, bdfs: Sequence[Bdf], operation: str = "prepare") -> bytes:
    """The XML of guest number *at*."""
    uuid = f"{at:08x}-0000-4000-8000-000000000000"
    return domain_xml(name, uuid, [Assigned(bdf) for bdf in bdfs], operation)


def _set_registers(root: Path, bdf: Bdf, values: dict[int, int]) -> None:
    # In place: somebody may have it mapped.
    words = bytearray(4096)
    struct.pack_into("<QI", words, 0, CAP, 0x00010400)
    for offset, value in values.items():
        struct.pack_into("<I", words, offset, value)
    path = root / "devices" / str(bdf) / "resource0"
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.write(words)


def _milliseconds() -> int:
    return int(time.monotonic() * 1000)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    argv = ["hook", "guest", *sys.argv[2:4], "-"]
    sys.exit(hook.main(argv, sys.stdin.buffer.read(), TreeHost(root, dirty=True)))
