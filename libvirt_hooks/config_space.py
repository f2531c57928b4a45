# SPDX-License-Identifier: LGPL-2.1-or-later
"""Configuration space for people: which capabilities there are, and all of it in hex. Pure.

The dump is as `lspci -xxxx` prints it. Sources: PCI Express Base Specification 5.0, 7.5.1, 7.6.3,
7.9.3 (device serial number); kernel include/uapi/linux/pci_regs.h for the names.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass

from . import pci

EXTENDED = 0x100
"""Offset at which the extended capabilities begin."""
MOST = (EXTENDED // 4, (4096 - EXTENDED) // 8)
"""Capabilities that fit: a list that runs in a circle ends."""

GONE = 0xFF
"""No capability's id: nobody answers any more."""

SERIAL_NUMBER = 0x0003
"""The extended capability that has an EUI-64."""
SERIAL_NUMBER_AT, SERIAL_NUMBER_LENGTH = 4, 8

NAMES = {
    0x01: "PM",
    0x03: "VPD",
    0x05: "MSI",
    0x09: "VNDR",
    0x0D: "SSVID",
    0x10: "EXP",
    0x11: "MSIX",
    0x13: "AF",
    0x14: "EA",
}
EXTENDED_NAMES = {
    0x0001: "ERR",
    0x0002: "VC",
    0x0003: "DSN",
    0x0004: "PWR",
    0x000B: "VNDR",
    0x000D: "ACS",
    0x000E: "ARI",
    0x000F: "ATS",
    0x0010: "SRIOV",
    0x0013: "PRI",
    0x0015: "REBAR",
    0x0017: "TPH",
    0x0018: "LTR",
    0x0019: "SECPCI",
    0x001B: "PASID",
    0x001D: "DPC",
    0x001E: "L1SS",
    0x001F: "PTM",
    0x0023: "DVSEC",
    0x0025: "DLF",
    0x0026: "PL_16GT",
    0x0027: "LMR",
}


@dataclass(frozen=True)
class Capability:
    """One entry of either list."""

    offset: int
    id: int

    @property
    def extended(self) -> bool:
        return self.offset >= EXTENDED

    def __str__(self) -> str:
        names, digits = (EXTENDED_NAMES, 4) if self.extended else (NAMES, 2)
        return f"{names.get(self.id, 'unknown')}({self.id:0{digits}x})@{self.offset:#04x}"


def capabilities(config: bytes) -> list[Capability]:
    """Return what is in both lists, as far as *config* reaches."""
    return [*_plain(config), *_extended(config)]


def _plain(config: bytes) -> Iterator[Capability]:
    if len(config) < 0x40 or not pci.word(config, pci.STATUS) & pci.STATUS_CAP_LIST:
        return
    at = config[pci.CAPABILITY_LIST] & ~3
    for _ in range(MOST[0]):
        if not 0x40 <= at < min(len(config), EXTENDED) - 1:
            return
        if config[at] == GONE:
            return
        yield Capability(at, config[at])
        at = config[at + 1] & ~3


def _extended(config: bytes) -> Iterator[Capability]:
    at = EXTENDED
    for _ in range(MOST[1]):
        header = int.from_bytes(config[at : at + 4], "little")
        if len(config) < at + 4 or at < EXTENDED or header in (0, 0xFFFFFFFF):
            return
        yield Capability(at, header & 0xFFFF)
        at = header >> 20 & ~3


def serial_number(config: bytes) -> Container[int]:
    """Return the offsets of the drive's serial number, as far as it has one there."""
    found = [each.offset for each in capabilities(config) if each.extended]
    starts = [at + SERIAL_NUMBER_AT for at in found if pci.word(config, at) == SERIAL_NUMBER]
    return {start + byte for start in starts for byte in range(SERIAL_NUMBER_LENGTH)}


def dump(config: bytes, hidden: Container[int] = ()) -> Iterator[str]:
    """Return the lines; extended ones that are all zero are left out.

    :param hidden: offsets of bytes that are not shown.
    """
    for at in range(0, len(config), 16):
        row = config[at : at + 16]
        if at >= EXTENDED and not any(row):
            continue
        shown = (".." if at + index in hidden else f"{byte:02x}" for index, byte in enumerate(row))
        yield f"{at:02x}: {' '.join(shown)}"
