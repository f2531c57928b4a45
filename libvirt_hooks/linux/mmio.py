# SPDX-License-Identifier: LGPL-2.1-or-later
"""Registers through a mapping of resource0: one aligned 32-bit load or store a call.

Only ``memoryview.cast("I")`` touches the device: mmap slices make two accesses, and
``struct.pack_into`` writes zero before the value (counted in QEMU's pci_nvme_mmio trace). The
kernel revokes the mapping when a driver claims the BAR; the next access is then SIGBUS, so map in
a worker and for short. Sources: drivers/pci/pci-sysfs.c (pci_mmap_resource), kernel/resource.c.
"""

import errno
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import RegistersUnreadable

SIZE = 4096
"""Bytes mapped: CAP to CRTO, and no doorbell."""

_WHY = {
    errno.EINVAL: (
        " (a driver has claimed BAR0)",
        "see /proc/iomem; the kernel is built with CONFIG_IO_STRICT_DEVMEM",
    ),
    errno.EPERM: (
        " (kernel lockdown)",
        "see /sys/kernel/security/lockdown; Secure Boot turns it on",
    ),
}


class MappedRegisters:
    """Registers over a view of 32-bit words.

    :param words: the mapping, cast to ``I``.
    :param swap: words in memory are of the other byte order than this machine's.
    """

    def __init__(self, words: memoryview, swap: bool = sys.byteorder == "big") -> None:
        self._words = words
        self._swap = swap

    def read32(self, offset: int) -> int:
        """See host.Registers."""
        value: int = self._words[_index(offset, len(self._words))]
        return _swapped(value) if self._swap else value

    def write32(self, offset: int, value: int) -> None:
        """See host.Registers.

        :raises ValueError: *value* does not fit 32 bits.
        """
        self._words[_index(offset, len(self._words))] = _swapped(value) if self._swap else value


@contextmanager
def map_registers(path: str, who: object) -> Iterator[MappedRegisters]:
    """Map the first 4 KiB of a ``resource0``; the registers are dead after the context.

    :param who: the BDF, for messages.
    :raises RegistersUnreadable: the kernel will not have it.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_SYNC | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(who, "opening resource0", error) from error
    try:
        memory = mmap.mmap(fd, SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        raise _unreadable(who, "mapping resource0", error) from error
    except ValueError as error:  # Python compares with st_size, which is the BAR's
        raise RegistersUnreadable(f"{who}: mapping resource0: BAR0 is below {SIZE} B") from error
    finally:
        os.close(fd)  # mmap keeps a duplicate of its own
    # The views go before the mapping: an exported buffer makes close() raise BufferError.
    with memory, memoryview(memory) as octets, octets.cast("I") as words:
        yield MappedRegisters(words)


def _index(offset: int, count: int) -> int:
    # A negative index would be a register at the far end, an unaligned one a neighbour.
    if offset % 4 or not 0 <= offset < 4 * count:
        raise ValueError(f"offset {offset:#x}: not a 32-bit register below {4 * count:#x}")
    return offset // 4


def _swapped(value: int) -> int:
    # PCI is little-endian, the load is native.
    try:
        return int.from_bytes(value.to_bytes(4, "little"), "big")
    except OverflowError as error:
        raise ValueError(f"{value:#x} does not fit 0xffffffff") from error


def _unreadable(who: object, what: str, error: OSError) -> RegistersUnreadable:
    why, hint = _WHY.get(error.errno or 0, ("", ""))
    forbidden = error.errno == errno.EPERM
    return RegistersUnreadable(f"{who}: {what}: {error.strerror}{why}", hint, forbidden)
