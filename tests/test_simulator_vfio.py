# SPDX-License-Identifier: LGPL-2.1-or-later
"""vfio-pci's resets: each cell of the table in facts/kernel.md section 2."""

from errno import EAGAIN, EBUSY

import pytest

from libvirt_hooks.simulator import drivers, vfio
from libvirt_hooks.simulator.device import PciDev
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.models import ORDINARY

A, BESIDE = "0000:03:00.0", "0000:03:00.1"
RESETS = {"reset flr": "flr", "bus reset": "bus"}


def idle(methods: str = "default", beside: bool = False) -> tuple[SimHost, PciDev]:
    host = SimHost()
    dev = host.add(A, ORDINARY, "vfio-pci", beside=[BESIDE] if beside else [])
    host.write_attr(dev.bdf, "reset_method", methods)
    return host, dev


def resets_of(host: SimHost) -> list[str]:
    return [RESETS[text] for text in host.texts(A) if text in RESETS]


@pytest.mark.parametrize(
    ("before", "after", "at_open", "at_machine_reset", "at_close"),
    [
        pytest.param("default", None, ["flr"], ["flr"], ["flr"], id="default"),
        pytest.param("bus", None, ["bus"], ["bus"], ["bus"], id="bus"),
        pytest.param("\n", None, [], ["bus"], ["bus"], id="empty before open escalates"),
        pytest.param("default", "\n", ["flr"], ["bus"], ["bus"], id="empty after open escalates"),
        pytest.param("default", "bus", ["flr"], ["bus"], ["bus"], id="read at every reset"),
    ],
)
def test_resets_of_a_life(
    before: str,
    after: str | None,
    at_open: list[str],
    at_machine_reset: list[str],
    at_close: list[str],
) -> None:
    host, dev = idle(before)
    assert vfio.open_device(dev) == 0
    assert resets_of(host) == at_open
    if after is not None:
        host.write_attr(dev.bdf, "reset_method", after)
    assert vfio.machine_reset(dev) == 0
    assert resets_of(host) == at_open + at_machine_reset
    vfio.close(dev)
    assert resets_of(host) == at_open + at_machine_reset + at_close


def test_empty_is_truly_no_reset_beside_a_device_of_the_host() -> None:
    host, dev = idle("\n", beside=True)
    vfio.open_device(dev)
    assert vfio.machine_reset(dev) != 0
    vfio.close(dev)
    assert resets_of(host) == []


def test_open_wakes_and_close_lets_sleep() -> None:
    host, dev = idle()
    assert host.read_attr(dev.bdf, "enable") == "0"
    vfio.open_device(dev)
    assert host.read_attr(dev.bdf, "power_state") == "D0"
    assert host.read_attr(dev.bdf, "enable") == "1"
    vfio.close(dev)
    assert host.read_attr(dev.bdf, "power_state") == "D3hot"
    assert host.read_attr(dev.bdf, "enable") == "0"


def test_control_on_survives_open_and_close() -> None:
    host, dev = idle()
    host.write_attr(dev.bdf, "power/control", "on")
    vfio.open_device(dev)
    vfio.close(dev)
    assert host.read_attr(dev.bdf, "power_state") == "D0"


def test_only_the_last_close_resets() -> None:
    host, dev = idle()
    vfio.open_device(dev)
    vfio.dup(dev)
    vfio.close(dev)
    assert resets_of(host) == ["flr"]
    assert vfio.open_device(dev) == EBUSY
    vfio.close(dev)
    assert resets_of(host) == ["flr", "flr"]


def test_open_and_close_only_try_the_lock() -> None:
    host, dev = idle()
    dev.lock_held = True
    assert vfio.open_device(dev) == EAGAIN
    dev.lock_held = False
    vfio.open_device(dev)
    dev.lock_held = True
    vfio.close(dev)
    assert resets_of(host) == ["flr"]


def test_a_reset_that_fails_escalates_to_the_bus() -> None:
    host = SimHost()
    dev = host.add(A, ORDINARY, "vfio-pci", Fault.RESET_EIO)
    assert vfio.open_device(dev) == 0
    assert vfio.machine_reset(dev) == 0
    vfio.close(dev)
    assert resets_of(host) == ["bus", "bus"]


def test_guests_own_flr_is_the_kernels_reset() -> None:
    host, dev = idle("bus")
    vfio.open_device(dev)
    vfio.guest_flr(dev)
    assert resets_of(host) == ["bus", "bus"]


def test_hands_off_what_is_open() -> None:
    host, dev = idle()
    vfio.open_device(dev)
    with host.registers(dev.bdf) as mapped:
        mapped.read32(0x14)
    host.write_config(dev.bdf, 4, b"\2\0")
    host.write_attr(dev.bdf, "reset", "1")
    assert host.violations == [
        f"{A}: registers touched while open",
        f"{A}: config written while open",
        f"{A}: reset written while open",
    ]


def test_nvme_leaves_the_lethal_state_behind() -> None:
    host = SimHost()
    dev = host.add(A)
    drivers.unbind(dev)
    assert dev.function.controller.cc == 0x00464061
    assert dev.function.controller.csts == 0x9
    assert host.read_config(dev.bdf, 4, 2) == b"\x03\x01"
    assert host.driver(dev.bdf) is None


def test_nvme_probes_beside_the_caller() -> None:
    host = SimHost()
    dev = host.add(A, driver=None)
    drivers.drivers_probe(dev)
    assert (host.driver(dev.bdf), host.nvme_state(dev.bdf)) == ("nvme", "connecting")
    host.sleep(0.1)
    assert host.nvme_state(dev.bdf) == "live"


@pytest.mark.parametrize(
    ("faults", "seconds", "text"),
    [
        pytest.param(
            Fault.CONFIG_FROZEN, 0.1, "Removing after probe failure status: -12", id="dead"
        ),
        pytest.param(
            Fault.RDY_STUCK, 8.5, "Device not ready; aborting reset, CSTS=0x9", id="RDY stuck"
        ),
    ],
)
def test_nvme_gives_up(faults: Fault, seconds: float, text: str) -> None:
    host = SimHost()
    dev = host.add(A, driver=None, faults=faults)
    drivers.drivers_probe(dev)
    host.sleep(seconds)
    assert host.driver(dev.bdf) is None
    assert host.nvme_state(dev.bdf) is None
    assert text in host.texts(A)
