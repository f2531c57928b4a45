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
    :param now: the virtual clock.
    """

    def __init__(self, effect: Effect, now: Callable[[], float]) -> None:
        self.folders: dict[str, dict[str, bytes]] = {}
        self.linger = False
        """What is dropped now is seen by others until ``settle`` says when that was."""
        self._lingering: dict[tuple[str, str], tuple[bytes, float]] = {}
        self._now = now
        self.full = False
        """No space left: nothing new can be written, but what is there can be removed."""
        self.read_only = False
        self._effect = effect

    @property
    def all(self) -> list[str]:
        """Every record, as folder/name."""
        folders = {*self.folders, *(folder for folder, _ in self._lingering)}
        return sorted(f"{folder}/{name}" for folder in folders for name in self.names(folder))

    def names(self, folder: str) -> list[str]:
        """See Records."""
        late = {name for at, name in self._lingering if at == folder and self._late(at, name)}
        return sorted({*self.folders.get(folder, {}), *late})

    def load(self, folder: str, name: str) -> bytes | None:
        """See Records."""
        return self.folders.get(folder, {}).get(name, self._late(folder, name))

    def _late(self, folder: str, name: str) -> bytes | None:
        data, until = self._lingering.get((folder, name), (None, 0.0))
        return data if self._now() < until else None

    def settle(self, until: float) -> None:
        """What has been dropped while ``linger`` was set, was dropped at the moment *until*."""
        self.linger = False
        for key, (data, at) in self._lingering.items():
            self._lingering[key] = (data, min(at, until))

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
            self._lingering.pop((folder, name), None)
            return
        with self._effect(f"drop {folder}/{name}"):
            if self.read_only:
                raise BadRecord(f"{folder}/{name}: removing: Read-only file system")
            data = self.folders[folder].pop(name)
            if self.linger:
                self._lingering[folder, name] = (data, float("inf"))
            if not self.folders[folder]:
                del self.folders[folder]
