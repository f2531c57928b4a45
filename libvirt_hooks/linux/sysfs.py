# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sysfs: PCI functions as /sys/bus/pci/devices shows them; one system call is one access.

Sources: kernel fs/sysfs/file.c, fs/kernfs/file.c, drivers/pci/pci-sysfs.c;
Documentation/ABI/testing/sysfs-bus-pci; drivers/nvme/host/sysfs.c (nvme_state).
"""

import errno
import os
from collections.abc import Sequence

from ..bdf import Bdf
from ..errors import SysfsError

DEVICES = "/sys/bus/pci/devices"


class Sysfs:
    """The part of a Host that is files below one directory of PCI functions.

    :param devices: the directory whose entries are named by BDF, each mostly a symbolic link.
    """

    def __init__(self, devices: str = DEVICES) -> None:
        self._devices = devices

    def path(self, bdf: Bdf, name: str) -> str:
        """Where an attribute of a function is, there or not."""
        return f"{self._devices}/{bdf}/{name}"

    def functions(self) -> Sequence[Bdf]:
        """See Host.functions."""
        try:
            entries = os.listdir(self._devices)
        except FileNotFoundError:  # a machine without a PCI bus
            return ()
        except OSError as error:
            raise _refused(self._devices, "listing PCI functions", error) from error
        return sorted(bdf for bdf in map(_parse, entries) if bdf is not None)

    def read_attr(self, bdf: Bdf, name: str) -> str | None:
        """See Host.read_attr."""
        path = self.path(bdf, name)
        try:
            with open(path, "rb", buffering=0) as attr:
                raw = attr.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            # kernfs_get_active() answers ENODEV once the node is being removed; an attribute
            # that is still there has said ENODEV itself, and that is an answer to report.
            if error.errno == errno.ENODEV and not os.path.exists(path):
                return None
            raise _refused(bdf, f"reading {name}", error) from error
        return raw.decode("utf-8", "backslashreplace").removesuffix("\n")

    def write_attr(self, bdf: Bdf, name: str, value: str) -> None:
        """See Host.write_attr."""
        if not value:
            # sysfs_kf_write() returns before it calls the attribute: nothing would happen, and
            # success be reported. What empties reset_method is "\n".
            raise ValueError(f"{bdf}: writing '' to {name}: the kernel ignores an empty write")
        what = f"writing {value!r} to {name}"
        try:
            fd = os.open(self.path(bdf, name), os.O_WRONLY | os.O_CLOEXEC)
            try:
                written = os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise _refused(bdf, what, error) from error
        if written != len(value.encode()):  # the rest would be a second, different command
            raise SysfsError(bdf, what, errno.EMSGSIZE)

    def driver(self, bdf: Bdf) -> str | None:
        """See Host.driver."""
        try:
            return os.path.basename(os.readlink(self.path(bdf, "driver")))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused(bdf, "reading driver", error) from error

    def nvme_state(self, bdf: Bdf) -> str | None:
        """See Host.nvme_state."""
        try:
            entries = os.listdir(self.path(bdf, "nvme"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused(bdf, "listing nvme", error) from error
        for entry in sorted(entries):
            state = self.read_attr(bdf, f"nvme/{entry}/state")
            if state is not None:  # None: it is being removed just now
                return state
        return None

    def read_config(self, bdf: Bdf, offset: int, length: int) -> bytes:
        """See Host.read_config. Shorter than *length* past the end of the space."""
        try:
            with open(self.path(bdf, "config"), "rb", buffering=0) as config:
                config.seek(offset)
                return config.read(length)
        except OSError as error:
            raise _refused(bdf, f"reading config at {offset:#x}", error) from error

    def write_config(self, bdf: Bdf, offset: int, data: bytes) -> None:
        """See Host.write_config."""
        what = f"writing {data.hex()} to config at {offset:#x}"
        try:
            with open(self.path(bdf, "config"), "r+b", buffering=0) as config:
                config.seek(offset)
                written = config.write(data)
        except OSError as error:
            raise _refused(bdf, what, error) from error
        if written != len(data):  # pci_write_config() stops at the end of the space
            raise SysfsError(bdf, what, errno.EFBIG)


def _parse(entry: str) -> Bdf | None:
    # The kernel names every entry by BDF. One that is not is none of ours, and no reason to fail.
    try:
        return Bdf.parse(entry)
    except ValueError:
        return None


def _refused(who: object, what: str, error: OSError) -> SysfsError:
    return SysfsError(who, what, error.errno or errno.EIO)
