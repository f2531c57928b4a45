# SPDX-License-Identifier: LGPL-2.1-or-later
"""SimRecords: /run/virt-nvme-reset as a dict of dicts; gone after a reboot."""

from ..host import Records


class SimRecords(Records):
    """The Records protocol without a disk."""

    def __init__(self) -> None:
        self.folders: dict[str, dict[str, bytes]] = {}

    def names(self, folder: str) -> list[str]:
        """See Records."""
        return sorted(self.folders.get(folder, {}))

    def load(self, folder: str, name: str) -> bytes | None:
        """See Records."""
        return self.folders.get(folder, {}).get(name)

    def store(self, folder: str, name: str, data: bytes) -> None:
        """See Records."""
        self.folders.setdefault(folder, {})[name] = bytes(data)

    def drop(self, folder: str, name: str) -> None:
        """See Records."""
        self.folders.get(folder, {}).pop(name, None)
        if not self.folders.get(folder, True):
            del self.folders[folder]
