# SPDX-License-Identifier: LGPL-2.1-or-later
"""The simulated controller's registers change as the specification says, fault by fault."""

import pytest

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.simulator.clock import SimClock, Trace
from libvirt_hooks.simulator.controller import Controller
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.models import PM1725, SM951

BDF = Bdf(0, 3, 0, 0)


class Bench:
    """A controller on a table, with a clock beside it."""

    def __init__(self, faults: Fault = Fault.NONE) -> None:
        self.clock = SimClock()
        self.trace = Trace(self.clock)
        self.controller = Controller(BDF, SM951, faults, self.clock, self.trace)
        self.controller.live()

    def csts_after(self, seconds: float) -> int:
        self.clock.advance(seconds)
        return self.controller.read32(0x1C)

    def disable(self) -> None:
        self.controller.write32(0x14, 0x00460060)

    @property
    def texts(self) -> list[str]:
        return [event.text for event in self.trace.events]


def test_what_a_live_controller_reads() -> None:
    read32 = Bench().controller.read32
    assert read32(0x00) >> 24 == 60
    assert read32(0x04) & 1 << 4 == 0, "no NVM subsystem reset"
    assert read32(0x08) == 0x00010100
    assert read32(0x14) == 0x00460061
    assert read32(0x1C) == 1


def test_clearing_en_ends_with_rdy_0_and_keeps_the_queues() -> None:
    bench = Bench()
    bench.controller.latch_shutdown()
    assert bench.csts_after(0) == 0x9
    bench.disable()
    assert bench.csts_after(0.0005) == 0x9
    assert bench.csts_after(0.0005) == 0
    assert bench.controller.read32(0x14) == 0x00460060
    assert bench.controller.read32(0x24) == 0x001F001F
    assert not bench.controller.pristine
    assert not bench.controller.flr_is_lethal
    assert bench.texts == ["CC=0x00460060", "CSTS.RDY=0"]
    assert bench.trace.violations == []


def test_en_cleared_but_shn_kept_is_still_lethal() -> None:
    bench = Bench()
    bench.controller.latch_shutdown()
    bench.controller.write32(0x14, 0x00464060)
    assert bench.csts_after(1) == 0
    assert bench.controller.flr_is_lethal


def test_shutdown_keeps_en_and_takes_time() -> None:
    bench = Bench()
    bench.controller.write32(0x14, 0x00464061)
    assert bench.csts_after(0) == 0x5
    assert bench.csts_after(0.005) == 0x9
    assert bench.texts == ["CC=0x00464061", "CSTS.SHST=10"]


def test_reset_clears_everything() -> None:
    bench = Bench(Fault.CFS)
    bench.controller.reset()
    assert bench.controller.pristine


@pytest.mark.parametrize(
    ("faults", "before", "at_1_s", "at_3_s", "at_60_s"),
    [
        pytest.param(Fault.RDY_STUCK, 1, 1, 1, 1, id="RDY never falls"),
        pytest.param(Fault.SLOW_RDY, 1, 1, 0, 0, id="RDY falls after 3 s"),
        pytest.param(Fault.CFS, 3, 3, 3, 3, id="fatal from the beginning"),
        pytest.param(Fault.CFS_ON_DISABLE, 1, 3, 3, 3, id="fatal once EN is cleared"),
        pytest.param(Fault.ENABLING, 0, 1, 1, 1, id="EN cleared while RDY=0 wedges"),
    ],
)
def test_csts_around_a_disable(
    faults: Fault, before: int, at_1_s: int, at_3_s: int, at_60_s: int
) -> None:
    bench = Bench(faults)
    assert bench.csts_after(0) == before
    bench.disable()
    assert bench.csts_after(1) == at_1_s
    assert bench.csts_after(2) == at_3_s
    assert bench.csts_after(57) == at_60_s


def test_enabling_may_be_disabled_once_rdy_came() -> None:
    bench = Bench(Fault.ENABLING)
    assert bench.csts_after(2) == 1
    bench.disable()
    assert bench.csts_after(0.001) == 0
    assert bench.trace.violations == []


def test_changing_en_while_rdy_differs_is_a_violation() -> None:
    bench = Bench(Fault.ENABLING)
    bench.disable()
    assert bench.trace.violations == ["0000:03:00.0: CC.EN=1 changed while CSTS.RDY=0"]


def test_a_guest_may_do_what_the_hook_may_not() -> None:
    bench = Bench(Fault.ENABLING)
    with bench.trace.acting("guest"):
        bench.disable()
    assert bench.trace.violations == []


@pytest.mark.parametrize(("waited", "csts"), [(0.1, 1), (2.2, 1), (2.3, 0)])
def test_csts_read_too_early_wedges(waited: float, csts: int) -> None:
    bench = Bench(PM1725.faults)
    bench.disable()
    bench.csts_after(waited)
    assert bench.csts_after(60) == csts


@pytest.mark.parametrize(
    ("offset", "text"),
    [(0x1C, "CSTS"), (0x00, "CAP"), (0x20, "offset 0x20"), (0x1000, "offset 0x1000")],
)
def test_what_cannot_be_written(offset: int, text: str) -> None:
    bench = Bench()
    bench.controller.write32(offset, 1)
    expected = f"0000:03:00.0: write of {text}, which cannot be written"
    assert bench.trace.violations == [expected]


def test_unknown_offsets_are_a_violation() -> None:
    bench = Bench()
    bench.controller.read32(0x16)
    assert bench.trace.violations == ["0000:03:00.0: read of offset 0x16, which is no register"]
