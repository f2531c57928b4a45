# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs inside the rig: tells what the host sees of one NVMe controller, as one JSON object.

    probe.py BDF               attributes of sysfs only
    probe.py BDF registers     BAR0 too; for a controller that no driver is using
    probe.py BDF enable        sets CC.EN as a guest would, and nothing else

On purpose nothing of the package is used: these are the offsets as the specification prints them
(NVMe 1.4, 3.1), so that a wrong one there cannot agree with itself here.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMAND, COMMAND_MEMORY = 0x04, 0x2
REGISTERS = {
    "CAP": 0x00,
    "CC": 0x14,
    "CSTS": 0x1C,
    "AQA": 0x24,
    "ASQ": 0x28,
    "ASQ_HI": 0x2C,
    "ACQ": 0x30,
    "ACQ_HI": 0x34,
}


def attributes(device: Path) -> dict[str, Any]:
    state = next(iter(device.glob("nvme/nvme*/state")), None)
    return {
        "driver": link(device / "driver"),
        "driver_override": read(device / "driver_override"),
        "state": read(state) if state else "",
        "reset_method": read(device / "reset_method"),
        "power_control": read(device / "power" / "control"),
        "power_state": read(device / "power_state"),
        "vendor": config(device, 0x00),
        "device": config(device, 0x02),
    }


def registers(device: Path) -> dict[str, int]:
    with bar0(device) as words:
        return {name: words[offset // 4] for name, offset in REGISTERS.items()}


def enable(device: Path) -> dict[str, int]:
    with bar0(device) as words:
        # Queues of one page that nobody uses, just so that EN is accepted.
        for offset, value in ((0x24, 0x000F000F), (0x28, 0x1000), (0x30, 0x2000)):
            words[offset // 4] = value
        words[0x14 // 4] = 0x00460001
        while not words[0x1C // 4] & 1:
            time.sleep(0.001)
        return {name: words[offset // 4] for name, offset in REGISTERS.items()}


@contextmanager
def bar0(device: Path) -> Iterator[memoryview]:
    """BAR0 as 32-bit words, of a function that is awake and decodes memory meanwhile."""
    control = (device / "power" / "control").read_text()
    (device / "power" / "control").write_text("on")
    command = config(device, COMMAND)
    set_command(device, command | COMMAND_MEMORY)
    with (device / "resource0").open("r+b", buffering=0) as file:
        mapped = mmap.mmap(file.fileno(), 4096)
        try:
            with memoryview(mapped) as view, view.cast("I") as words:
                yield words
        finally:
            mapped.close()
    set_command(device, command)
    (device / "power" / "control").write_text(control)


def config(device: Path, offset: int) -> int:
    with (device / "config").open("rb", buffering=0) as file:
        return int.from_bytes(os.pread(file.fileno(), 2, offset), "little")


def set_command(device: Path, value: int) -> None:
    with (device / "config").open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), value.to_bytes(2, "little"), COMMAND)


def read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        return f"({error.strerror})"


def link(path: Path) -> str:
    return path.resolve().name if path.is_symlink() else ""


def main(bdf: str, what: str = "") -> None:
    device = Path("/sys/bus/pci/devices", bdf)
    if not device.exists():
        raise SystemExit(f"{bdf}: not there")
    extra = {"": lambda _: {}, "registers": registers, "enable": enable}[what](device)
    print(json.dumps({**attributes(device), "registers": extra}))


if __name__ == "__main__":
    main(*sys.argv[1:])
