# SPDX-License-Identifier: LGPL-2.1-or-later
"""The outer QEMU's monitor, for one thing: its trace of NVMe register accesses.

The events are those of QEMU 7.2, hw/nvme/trace-events: ``pci_nvme_mmio_read(addr, size)`` and
``pci_nvme_mmio_write(addr, data, size)``; addr is the offset in BAR0, of either drive.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVENTS = ("pci_nvme_mmio_read", "pci_nvme_mmio_write")
LINE = re.compile(
    r"pci_nvme_mmio_(?P<kind>read|write) addr (?P<offset>0x[0-9a-f]+)"
    r"(?: data (?P<data>0x[0-9a-f]+))? size (?P<size>\d+)"
)
# Beyond lie the doorbells of a host driver at work.
REGISTERS_END = 0x1000


@dataclass(frozen=True)
class Access:
    """One access to a controller register, as QEMU saw it; *data* is None for a read."""

    offset: int
    size: int
    data: int | None

    @property
    def is_write(self) -> bool:
        return self.data is not None

    @property
    def aligned(self) -> bool:
        return self.offset % self.size == 0


class Monitor:
    """A connection to QEMU's monitor (docs/interop/qmp-spec.txt)."""

    def __init__(self, path: Path, trace: Path) -> None:
        self._trace = trace
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rw")
        self._file.readline()  # the greeting
        self.execute("qmp_capabilities")

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def execute(self, command: str, **arguments: Any) -> Any:
        """Return what QEMU answers; events in between are of no interest here."""
        self._file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._file.flush()
        for line in self._file:
            message = json.loads(line)
            if "error" in message:
                raise RuntimeError(f"{command}: {message['error']['desc']}")
            if "return" in message:
                return message["return"]
        raise EOFError("the outer QEMU hung up")

    @contextmanager
    def register_accesses(self) -> Iterator[list[Access]]:
        """Fill the list that is given with the accesses that are made in the block."""
        seen: list[Access] = []
        start = self._trace.stat().st_size if self._trace.exists() else 0
        self._switch(True)
        try:
            yield seen
        finally:
            self._switch(False)
        with self._trace.open() as log:
            log.seek(start)
            seen.extend(parse(log.read()))

    def _switch(self, enable: bool) -> None:
        for event in EVENTS:
            self.execute("trace-event-set-state", name=event, enable=enable)


def parse(log: str) -> Iterator[Access]:
    for match in LINE.finditer(log):
        offset, data = int(match["offset"], 16), match["data"]
        if offset < REGISTERS_END:
            yield Access(offset, int(match["size"]), None if data is None else int(data, 16))
