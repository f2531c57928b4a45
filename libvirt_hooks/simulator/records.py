# SPDX-License-Identifier: LGPL-2.1-or-later
"""SimRecords: /run/virt-nvme-reset as a dict of dicts; gone after a reboot."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from ..errors import BadRecord
from ..host import Records

Effect = Callable[[str], AbstractContextManager[None]]


class SimRecords(Records):
    """The Records protocol without a disk.

    :param effect: called around each change.
    """

    def __init__(self, effect: Effect) -> None:
        self.folders: dict[str, dict[str, bytes]] = {}
        self.full = False
        """No space left: nothing new can be written, but what is there can be removed."""
        self.read_only = False
        self._effect = effect

    @property
    def all(self) -> list[str]:
        """Every record, as folder/name."""
        return sorted(
            f"{folder}/{name}" for folder, inside in self.folders.items() for name in inside
        )

    def names(self, folder: str) -> list[str]:
        """See Records."""
        return sorted(self.folders.get(folder, {}))

    def load(self, folder: str, name: str) -> bytes | None:
        """See Records."""
        return self.folders.get(folder, {}).get(name)

    def store(self, folder: str, name: str, data: bytes) -> None:
        """See Records."""
        with self._effect(f"store {folder}/{name}"):
            if self.full or self.read_only:
                why = "Read-only file system" if self.read_only else "No space left on device"
                raise BadRecord(f"{folder}/{name}: writing: {why}")
            self.folders.setdefault(folder, {})[name] = bytes(data)

    def drop(self, folder: str, name: str) -> None:
        """See Records."""
        if name not in self.folders.get(folder, {}):
            return
        with self._effect(f"drop {folder}/{name}"):
            if self.read_only:
                raise BadRecord(f"{folder}/{name}: removing: Read-only file system")
            self.folders[folder].pop(name)
            if not self.folders[folder]:
                del self.folders[folder]
