# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sysfs: PCI functions as /sys/bus/pci shows them; one system call is one access.

Sources: kernel fs/sysfs/file.c, fs/kernfs/file.c, drivers/pci/pci-sysfs.c, drivers/pci/slot.c;
Documentation/ABI/testing/sysfs-bus-pci; drivers/nvme/host/sysfs.c (nvme_state, identity).
"""

import errno
import os
from collections.abc import Sequence

from ..bdf import Bdf
from ..errors import SysfsError
from ..host import Identity
from . import worker

DEVICES = "/sys/bus/pci/devices"
BUS = "/sys/bus/pci"
BUSES = "/sys/class/pci_bus"


class Sysfs:
    """The part of a Host that is files below /sys.

    :param devices: the directory whose entries are named by BDF, each mostly a symbolic link.
    :param bus: /sys/bus/pci, where drivers and slots are.
    :param buses: the directory whose entries are named by domain and bus.
    """

    def __init__(self, devices: str = DEVICES, bus: str = BUS, buses: str = BUSES) -> None:
        self._devices = devices
        self._bus = bus
        self._buses = buses

    def path(self, bdf: Bdf, name: str) -> str:
        """Where an attribute of a function is, there or not."""
        return f"{self._devices}/{bdf}/{name}"

    def controller(self, name: str) -> Bdf | None:
        """See Host.controller."""
        for bdf in self.functions():
            if name in self._names(bdf, "nvme"):
                return bdf
        return None

    def functions(self) -> Sequence[Bdf]:
        """See Host.functions."""
        return sorted(bdf for bdf in map(_parse, self._entries()) if bdf is not None)

    def neighbours(self, bdf: Bdf) -> Sequence[Bdf]:
        """See Host.neighbours."""
        bus = f"{bdf.domain:04x}:{bdf.bus:02x}:"
        found = (_parse(entry) for entry in self._entries() if entry.startswith(bus))
        return sorted(each for each in found if each is not None and each != bdf)

    def _entries(self) -> list[str]:
        try:
            return os.listdir(self._devices)
        except FileNotFoundError:  # a machine without a PCI bus
            return []
        except OSError as error:
            raise _refused(self._devices, "listing PCI functions", error) from error

    def read_attr(self, bdf: Bdf, name: str) -> str | None:
        """See Host.read_attr."""
        return _read(bdf, name, self.path(bdf, name))

    def write_attr(self, bdf: Bdf, name: str, value: str) -> None:
        """See Host.write_attr."""
        _write(bdf, name, self.path(bdf, name), value)

    def read_bus(self, name: str) -> str | None:
        """See Host.read_bus."""
        return _read(self._bus, name, f"{self._bus}/{name}")

    def write_bus(self, name: str, value: str) -> None:
        """See Host.write_bus."""
        _write(self._bus, name, f"{self._bus}/{name}", value)

    def rescan(self, bdf: Bdf) -> None:
        """See Host.rescan."""
        bus = f"{bdf.domain:04x}:{bdf.bus:02x}"
        _write(bdf, f"rescan of bus {bus}", f"{self._buses}/{bus}/rescan", "1")

    def has_driver(self, name: str) -> bool:
        """See Host.has_driver."""
        return os.path.isdir(f"{self._bus}/drivers/{name}")

    def iommu_group(self, bdf: Bdf) -> tuple[str, Sequence[Bdf]] | None:
        """See Host.iommu_group."""
        try:
            number = os.path.basename(os.readlink(self.path(bdf, "iommu_group")))
        except FileNotFoundError:  # no IOMMU, or it is off
            return None
        except OSError as error:
            raise _refused(bdf, "reading iommu_group", error) from error
        found = map(_parse, self._names(bdf, "iommu_group/devices"))
        return number, sorted(each for each in found if each is not None and each != bdf)

    def port(self, bdf: Bdf) -> Bdf | None:
        """See Host.port."""
        above = os.path.dirname(os.path.realpath(self.path(bdf, "")))
        return _parse(os.path.basename(above))

    def slot(self, bdf: Bdf) -> str | None:
        """See Host.slot."""
        address = f"{bdf.domain:04x}:{bdf.bus:02x}:{bdf.slot:02x}"
        try:
            names = sorted(os.listdir(f"{self._bus}/slots"))
        except OSError:
            return None
        for name in names:
            if self.read_bus(f"slots/{name}/address") == address:
                return name if os.path.exists(f"{self._bus}/slots/{name}/power") else None
        return None

    def driver(self, bdf: Bdf) -> str | None:
        """See Host.driver."""
        try:
            return os.path.basename(os.readlink(self.path(bdf, "driver")))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused(bdf, "reading driver", error) from error

    def virtual_functions(self, bdf: Bdf) -> int:
        """See Host.virtual_functions."""
        return sum(name.startswith("virtfn") for name in self._names(bdf, "."))

    def nvme_state(self, bdf: Bdf) -> str | None:
        """See Host.nvme_state."""
        return self._first(bdf, self._names(bdf, "nvme"), "state")

    def identity(self, bdf: Bdf) -> Identity | None:
        """See Host.identity. Namespaces hang below the controller also with nvme multipath."""
        controllers = self._names(bdf, "nvme")
        serial = self._first(bdf, controllers, "serial")
        if serial is None:
            return None
        euis = {
            value.strip()
            for controller in controllers
            for namespace in self._names(bdf, f"nvme/{controller}")
            if namespace.startswith("nvme")
            for name in ("eui", "nguid", "wwid")
            if (value := self.read_attr(bdf, f"nvme/{controller}/{namespace}/{name}"))
        }
        model = self._first(bdf, controllers, "model") or ""
        return Identity(serial.strip(), model.strip(), tuple(sorted(euis)))

    def _first(self, bdf: Bdf, controllers: Sequence[str], name: str) -> str | None:
        found = (self.read_attr(bdf, f"nvme/{each}/{name}") for each in controllers)
        return next((value for value in found if value is not None), None)

    def _names(self, bdf: Bdf, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self.path(bdf, folder)))
        except FileNotFoundError:  # or it is being removed just now
            return []
        except OSError as error:
            raise _refused(bdf, f"listing {folder}", error) from error

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


def _read(who: object, name: str, path: str) -> str | None:
    try:
        with open(path, "rb", buffering=0) as attr:
            raw = attr.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        # kernfs_get_active() answers ENODEV once the node is being removed; an attribute that is
        # still there has said ENODEV itself, and that is an answer to report.
        if error.errno == errno.ENODEV and not os.path.exists(path):
            return None
        raise _refused(who, f"reading {name}", error) from error
    return raw.decode("utf-8", "backslashreplace").removesuffix("\n")


def _write(who: object, name: str, path: str, value: str) -> None:
    what = f"writing {value!r} to {name}"
    if not value:
        # sysfs_kf_write() returns before it calls the attribute: nothing would happen, and
        # success be reported. What empties reset_method is "\n".
        raise ValueError(f"{who}: {what}: the kernel ignores an empty write")
    worker.doing(what)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise _refused(who, what, error) from error
    if written != len(value.encode()):  # the rest would be a second, different command
        raise SysfsError(who, what, errno.EMSGSIZE)


def _parse(entry: str) -> Bdf | None:
    # The kernel names every entry by BDF. One that is not is none of ours, and no reason to fail.
    try:
        return Bdf.parse(entry)
    except ValueError:
        return None


def _refused(who: object, what: str, error: OSError) -> SysfsError:
    return SysfsError(who, what, error.errno or errno.EIO)
