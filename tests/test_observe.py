# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is believed of a controller, one line a case; and what is not even asked."""

from typing import Any

import pytest

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import RegistersUnreadable
from libvirt_hooks.nvme import ACQ
from libvirt_hooks.observe import Observation, RegisterValues, observe, read_power_state
from libvirt_hooks.quirks import ORDINARY as NO_QUIRK
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.models import ORDINARY

from .lives import BDF
from .observations import registers, seen

ONES = 0xFFFFFFFF
NEIGHBOUR, PORT = Bdf.parse("0000:01:00.1"), Bdf.parse("0000:00:01.0")


def with_acq() -> RegisterValues:
    values = registers()
    return RegisterValues(**{**vars(values), "acq": ACQ(0x1000)})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(registers(), "pristine", id="as after power-on"),
        pytest.param(registers(aqa=0x001F001F), "disabled", id="AQA is set"),
        pytest.param(registers(asq=0x1000), "disabled", id="ASQ is set"),
        pytest.param(with_acq(), "disabled", id="ACQ is set"),
        pytest.param(registers(cc=0x00460060), "pristine", id="other fields of CC do not count"),
        pytest.param(registers(cc=0x00460061), "", id="EN"),
        pytest.param(registers(cc=0x00464060), "", id="SHN"),
        pytest.param(registers(csts=0x1), "", id="RDY"),
        pytest.param(registers(csts=0x2), "", id="CFS"),
        pytest.param(registers(csts=0x4), "", id="shutdown is going on"),
        pytest.param(registers(csts=0x8), "", id="shutdown is done"),
        pytest.param(registers(csts=0x20), "pristine", id="PP does not count"),
        pytest.param(registers(cap=(1 << 64) - 1), "gone", id="CAP reads all ones"),
        pytest.param(registers(cap=0), "gone", id="CAP reads zero"),
        pytest.param(registers(cc=ONES), "gone", id="CC reads all ones"),
        pytest.param(registers(csts=ONES), "gone", id="CSTS reads all ones"),
    ],
)
def test_registers(values: RegisterValues, expected: str) -> None:
    observation = seen(registers=values)
    assert observation.gone is (expected == "gone")
    assert observation.disabled is (expected in ("disabled", "pristine"))
    assert observation.pristine is (expected == "pristine")


@pytest.mark.parametrize(
    ("changes", "live"),
    [
        pytest.param({"driver": "nvme", "nvme_state": "live"}, True, id="live"),
        pytest.param({"driver": "nvme", "nvme_state": "connecting"}, False, id="on its way"),
        pytest.param({"driver": "vfio-pci", "nvme_state": "live"}, False, id="another's by now"),
        pytest.param({"driver": None}, False, id="nobody's"),
    ],
)
def test_live(changes: dict[str, Any], live: bool) -> None:
    assert seen(**changes).live is live


def look(host: SimHost, offered: str | None = None) -> Observation:
    return observe(host, BDF, NO_QUIRK, offered)


def test_what_is_around_it() -> None:
    host = SimHost()
    host.add(BDF, ORDINARY, slot="7", total_vfs=4, beside=[NEIGHBOUR])
    host.write_attr(BDF, "sriov_numvfs", "2")
    found = look(host)
    assert (found.neighbours, found.port, found.slot) == ((NEIGHBOUR,), PORT, "7")
    assert (found.virtual_functions, found.nvme_state) == (2, "live")
    assert found.unreadable == "driver nvme owns them"


def test_what_is_around_one_that_is_away() -> None:
    host = SimHost()
    host.add(BDF, ORDINARY, slot="7", beside=[NEIGHBOUR])
    host.write_attr(BDF, "remove", "1")
    found = look(host)
    assert (found.present, found.gone, found.live) == (False, True, False)
    assert (found.neighbours, found.slot) == ((NEIGHBOUR,), "7")


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        pytest.param(None, ("flr", "bus"), id="no guard: what it says now"),
        pytest.param("flr", ("flr",), id="what it said before the guard"),
        pytest.param("", (), id="which may have been nothing"),
    ],
)
def test_what_is_offered(offered: str | None, expected: tuple[str, ...]) -> None:
    host = SimHost()
    host.add(BDF, ORDINARY)
    assert look(host, offered).offered == expected
    assert look(host, offered).reset_methods == ("flr", "bus")


def test_only_the_hosts_driver_is_asked_for_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is still below the function when another driver has it is on its way out."""
    host = SimHost()
    host.add(BDF, ORDINARY, driver="vfio-pci")
    monkeypatch.setattr(host, "nvme_state", lambda _: "deleting")
    assert look(host).nvme_state is None


def test_a_silent_functions_registers_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """On some servers a read that nobody answers is a machine check."""
    host = SimHost()
    host.add(BDF, ORDINARY, driver="vfio-pci")
    host.write_attr(BDF, "power/control", "on")
    host.function(BDF).frozen = True
    monkeypatch.setattr(host, "registers", lambda _: pytest.fail("they were"))
    assert look(host).gone


def test_why_registers_cannot_be_mapped_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(bdf: Bdf) -> None:
        raise RegistersUnreadable(f"{bdf}: mapping resource0: Operation not permitted")

    host = SimHost()
    host.add(BDF, ORDINARY, driver="vfio-pci")
    host.write_attr(BDF, "power/control", "on")
    monkeypatch.setattr(host, "registers", refused)
    assert look(host).unreadable == "mapping resource0: Operation not permitted"


@pytest.mark.parametrize(
    ("says", "pmcsr", "expected"),
    [
        pytest.param("D3hot", 0, "D3hot", id="the kernel knows"),
        pytest.param("D3cold", 0, "D3cold", id="also what PMCSR cannot say"),
        pytest.param("unknown", 3, "D3hot", id="no driver: PMCSR is asked"),
        pytest.param("unknown", 0, "D0", id="no driver, awake"),
        pytest.param(None, 3, "D3hot", id="a kernel without power_state"),
    ],
)
def test_power_state(
    says: str | None, pmcsr: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = SimHost()
    host.add(BDF, ORDINARY, driver=None)
    host.write_config(BDF, 0x44, pmcsr.to_bytes(2, "little"))
    monkeypatch.setattr(host, "read_attr", lambda *_: says)
    assert read_power_state(host, BDF) == expected
