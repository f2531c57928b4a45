# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whole lives: who dies without a hook, and that the smallest right hook is enough."""

from xml.etree import ElementTree

import pytest

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import Refused
from libvirt_hooks.simulator.domain_xml import Assigned, domain_xml
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID, Life
from libvirt_hooks.simulator.models import ORDINARY, SM951, SM961, Model

A, B = Bdf(0, 3, 0, 0), Bdf(0, 4, 0, 0)
END = {"shutdown": Life.guest_shutdown, "destroy": Life.destroy, "kill": Life.kill}


def smallest_hook(argv: list[str], xml: bytes, host: SimHost) -> int:
    """The least that keeps an SM951 alive, written by hand."""
    operation = argv[2]
    if operation not in ("start", "stopped") or host.driver(A) != "vfio-pci":
        return 0
    host.write_attr(A, "power/control", "on")
    with host.registers(A) as mapped:
        cc = mapped.read32(0x14)
        if cc & 1:
            mapped.write32(0x14, cc & ~0xC001)
            while mapped.read32(0x1C) & 1:
                host.sleep(0.001)
    host.write_attr(A, "reset_method", "bus" if operation == "start" else "default")
    return 0


def life_of(
    model: Model, managed: bool = True, hook: bool = False, faults: Fault = Fault.NONE
) -> Life:
    host = SimHost()
    host.add(A, model, "nvme" if managed else "vfio-pci", faults)
    return Life(host, [(A, managed)], smallest_hook if hook else None)


@pytest.mark.parametrize("managed", [True, False], ids=["managed", "unmanaged"])
@pytest.mark.parametrize("end", END)
def test_without_a_hook_the_sm951_dies_when_qemu_opens_it(managed: bool, end: str) -> None:
    life = life_of(SM951, managed)
    assert life.start()
    texts = life.host.texts(A)
    assert texts[texts.index("vfio open") :][:4] == [
        "vfio open",
        "power_state=D0",
        "reset flr",
        "FLR killed it",
    ]
    END[end](life)
    (verdict,) = life.verdicts()
    assert not verdict.alive
    assert life.guest_saw == {A: [False]}
    assert life.host.function(A).lethal_flrs == 1
    if managed:
        assert life.host.texts(A)[-1] == "Removing after probe failure status: -12"
        assert life.host.driver(A) is None


def test_a_cure_by_bus_reset_costs_65_s_at_each_reset() -> None:
    life = life_of(SM951, faults=Fault.BUS_RESET_CURES)
    life.start()
    assert 65 < life.host.monotonic() < 70
    life.guest_reboot()
    life.guest_shutdown()
    assert life.host.function(A).lethal_flrs == 3
    assert life.verdicts()[0].alive


@pytest.mark.parametrize("model", [ORDINARY, SM961], ids=lambda model: model.label)
@pytest.mark.parametrize("managed", [True, False], ids=["managed", "unmanaged"])
@pytest.mark.parametrize("end", END)
def test_others_need_no_hook(model: Model, managed: bool, end: str) -> None:
    life = life_of(model, managed)
    assert life.start()
    life.guest_reboot()
    END[end](life)
    assert life.verdicts()[0].alive
    assert life.guest_saw == {A: [True, True]}
    assert life.host.monotonic() < 5


@pytest.mark.parametrize("managed", [True, False], ids=["managed", "unmanaged"])
@pytest.mark.parametrize("reboots", [0, 2])
@pytest.mark.parametrize("end", END)
def test_the_smallest_hook_saves_the_sm951(managed: bool, reboots: int, end: str) -> None:
    life = life_of(SM951, managed, hook=True)
    assert life.start()
    for _ in range(reboots):
        life.guest_reboot()
    END[end](life)
    function = life.host.function(A)
    assert (function.flrs, function.lethal_flrs, function.bus_resets) == (0, 0, 3 + reboots)
    assert life.verdicts()[0].alive
    assert life.guest_saw == {A: [True] * (1 + reboots)}
    assert life.host.read_attr(A, "reset_method") == "flr bus"
    assert life.host.violations == []


@pytest.mark.parametrize(
    ("operation", "operations"),
    [
        ("prepare", ["prepare", "stopped", "release"]),
        ("start", ["prepare", "start", "stopped", "release"]),
        ("started", ["prepare", "start", "started", "stopped", "release"]),
    ],
)
def test_a_refusal_still_brings_stopped_and_release(operation: str, operations: list[str]) -> None:
    host = SimHost()
    host.add(A, ORDINARY)
    life = Life(host, [(A, True)], smallest_hook, refuse=operation)
    assert not life.start()
    assert [name for name, _ in life.statuses] == operations
    assert life.problems == [f"hook refused at {operation}"]
    assert life.verdicts()[0].text == "nvme live"


def test_a_refusal_may_be_raised() -> None:
    def refuse(argv: list[str], xml: bytes, host: SimHost) -> int:
        raise Refused(f"{A}: in use")

    life = Life(life_of(ORDINARY).host, [(A, True)], refuse)
    assert not life.start()
    assert life.problems[0] == f"{A}: in use"
    assert life.host.function(A).flrs == 0


@pytest.mark.parametrize(
    ("driver", "managed", "problem"),
    [
        ("nvme", False, "must be manually detached from the host"),
        (None, False, "must be manually detached from the host"),
    ],
)
def test_what_libvirt_itself_refuses(driver: str | None, managed: bool, problem: str) -> None:
    host = SimHost()
    host.add(A, ORDINARY, driver)
    life = Life(host, [(A, managed)])
    assert not life.start()
    assert problem in life.problems[0]
    assert host.driver(A) == driver


def test_a_second_guest_gets_stopped_but_not_the_device() -> None:
    first = life_of(ORDINARY)
    first.start()
    calls = []

    def watch(argv: list[str], xml: bytes, host: SimHost) -> int:
        calls.append((argv[1:], host.read_attr(A, "enable")))
        return 0

    second = Life(first.host, [(A, True)], watch, name="second", uuid=UUID[::-1])
    assert not second.start()
    assert "in use by" in second.problems[0]
    assert [argv[1] for argv, _ in calls] == ["prepare", "stopped", "release"]
    assert {enable for _, enable in calls} == {"1"}, "the first guest still has it"
    first.guest_shutdown()
    assert first.verdicts()[0].alive


def test_stopped_may_run_while_qemu_hangs_in_the_kernel() -> None:
    seen = []

    def watch(argv: list[str], xml: bytes, host: SimHost) -> int:
        if argv[2] == "stopped":
            seen.append((host.read_attr(A, "enable"), host.read_config(A, 0, 2)))
        return 0

    host = SimHost()
    host.add(A, SM951, "vfio-pci", Fault.BUS_RESET_CURES, pristine=True)
    life = Life(host, [(A, False)], watch)
    life.start()
    began = host.monotonic()
    life.guest_shutdown()
    assert seen == [("1", b"\xff\xff")]
    assert host.monotonic() - began == pytest.approx(42, abs=0.1)


def test_reconnect_that_fails_kills_the_guest() -> None:
    life = life_of(ORDINARY)
    life.hook = lambda argv, xml, host: int(argv[2] == "reconnect")
    life.start()
    life.daemon_restart()
    assert not life.running
    assert [name for name, _ in life.statuses[-3:]] == ["reconnect", "stopped", "release"]


@pytest.mark.parametrize("operation", ["prepare", "start", "started", "stopped", "release"])
def test_xml_is_what_libvirt_prints(operation: str) -> None:
    devices = [Assigned(Bdf(0x10000, 0xA, 0x1F, 7)), Assigned(B, managed=False, disk=True)]
    root = ElementTree.fromstring(domain_xml("a & b", UUID, devices, operation))
    assert root.findtext("name") == "a & b"
    assert root.findtext("uuid") == UUID
    assert ("id" in root.attrib) is (operation not in ("stopped", "release"))
    assert (root.find("devices/hostdev/alias") is not None) is (operation != "prepare")
    hostdev = root.find("devices/hostdev[@type='pci'][@managed='yes']/source/address")
    assert hostdev is not None
    assert hostdev.attrib == {
        "domain": "0x10000",
        "bus": "0x0a",
        "slot": "0x1f",
        "function": "0x7",
    }
    disk = root.find("devices/disk[@type='nvme']/source[@type='pci'][@managed='no']/address")
    assert disk is not None
    assert disk.get("bus") == "0x04"
