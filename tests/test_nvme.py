# SPDX-License-Identifier: LGPL-2.1-or-later
"""The register tables against numbers from the specification, and the state table."""

import pytest

from libvirt_hooks.nvme import (
    ACQ,
    AQA,
    ASQ,
    CAP,
    CC,
    CSTS,
    VS,
    ControllerState,
    Shutdown,
    ShutdownStatus,
    controller_state,
)
from libvirt_hooks.registers import Register

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("register", "offset", "width"),
    [
        (CAP, 0x00, 64),
        (VS, 0x08, 32),
        (CC, 0x14, 32),
        (CSTS, 0x1C, 32),
        (AQA, 0x24, 32),
        (ASQ, 0x28, 64),
        (ACQ, 0x30, 64),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_place(register: type[Register], offset: int, width: int) -> None:
    assert (register.offset, register.width) == (offset, width)


# Masks as include/linux/nvme.h and the specification's figures give them.
@pytest.mark.parametrize(
    ("register", "field", "mask"),
    [
        (CAP, "MQES", 0x0000_0000_0000_FFFF),
        (CAP, "TO", 0x0000_0000_FF00_0000),
        (CAP, "DSTRD", 0x0000_000F_0000_0000),
        (CAP, "NSSRS", 0x0000_0010_0000_0000),
        (CAP, "CSS", 0x0000_1FE0_0000_0000),
        (CAP, "MPSMIN", 0x000F_0000_0000_0000),
        (CAP, "MPSMAX", 0x00F0_0000_0000_0000),
        (VS, "MJR", 0xFFFF0000),
        (VS, "MNR", 0x0000FF00),
        (VS, "TER", 0x000000FF),
        (CC, "EN", 0x00000001),
        (CC, "CSS", 0x00000070),
        (CC, "MPS", 0x00000780),
        (CC, "AMS", 0x00003800),
        (CC, "SHN", 0x0000C000),
        (CC, "IOSQES", 0x000F0000),
        (CC, "IOCQES", 0x00F00000),
        (CC, "CRIME", 0x01000000),
        (CSTS, "RDY", 0x01),
        (CSTS, "CFS", 0x02),
        (CSTS, "SHST", 0x0C),
        (CSTS, "NSSRO", 0x10),
        (CSTS, "PP", 0x20),
        (AQA, "ASQS", 0x00000FFF),
        (AQA, "ACQS", 0x0FFF0000),
    ],
)
def test_field_is_where_the_specification_has_it(
    register: type[Register], field: str, mask: int
) -> None:
    found = register.fields()[field]
    assert found.mask << found.lsb == mask


def test_what_the_kernels_unbind_leaves() -> None:
    cc, csts = CC(0x00464061), CSTS(0x00000009)
    assert (cc.EN, cc.SHN, cc.CSS, cc.IOSQES, cc.IOCQES) == (True, Shutdown.NORMAL, 6, 6, 4)
    assert (csts.RDY, csts.SHST) == (True, ShutdownStatus.COMPLETE)


@pytest.mark.parametrize(("to", "seconds"), [(0, 0.5), (1, 1.0), (15, 8.0), (255, 128.0)])
def test_ready_timeout(to: int, seconds: float) -> None:
    assert CAP(to << 24).ready_timeout == seconds


@pytest.mark.parametrize(
    ("cc", "csts", "state"),
    [
        pytest.param(0x0, 0x0, ControllerState.DISABLED, id="EN=0 RDY=0"),
        pytest.param(0x1, 0x0, ControllerState.ENABLING, id="EN=1 RDY=0"),
        pytest.param(0x1, 0x1, ControllerState.READY, id="EN=1 RDY=1"),
        pytest.param(0x0, 0x1, ControllerState.DISABLING, id="EN=0 RDY=1"),
        pytest.param(0x4001, 0x5, ControllerState.SHUTTING_DOWN, id="SHST=01"),
        pytest.param(0x4001, 0x9, ControllerState.SHUT_DOWN, id="SHST=10"),
        pytest.param(0x4001, 0x8, ControllerState.ENABLING, id="EN=1 RDY=0, whatever SHST says"),
        pytest.param(0x1, 0x3, ControllerState.FATAL, id="CFS with RDY"),
        pytest.param(0x0, 0x2, ControllerState.FATAL, id="CFS without RDY"),
        pytest.param(ONES, 0x0, ControllerState.GONE, id="CC all ones"),
        pytest.param(0x0, ONES, ControllerState.GONE, id="CSTS all ones, before CFS is believed"),
    ],
)
def test_controller_state(cc: int, csts: int, state: ControllerState) -> None:
    assert controller_state(CC(cc), CSTS(csts)) is state
