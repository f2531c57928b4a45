# SPDX-License-Identifier: LGPL-2.1-or-later
"""The controller's registers, and the states that follow from CC and CSTS.

Sources: NVM Express Base Specification 2.0, 3.1.3 "Controller Properties" (offsets, fields),
3.5 and 3.6 (what EN, RDY, SHN and SHST mean together); kernel include/linux/nvme.h. No drive is
named here: what single drives do otherwise is in ``quirks``.
"""

from enum import Enum, IntEnum

from .attributes import CLASS_NVME as CLASS_NVME
from .registers import Field, Register, flag


class Shutdown(IntEnum):
    """CC.SHN: what shutdown the host has asked for."""

    NONE = 0
    NORMAL = 1
    ABRUPT = 2
    RESERVED = 3


class ShutdownStatus(IntEnum):
    """CSTS.SHST: how far a shutdown has come."""

    NORMAL_OPERATION = 0
    OCCURRING = 1
    COMPLETE = 2
    RESERVED = 3


class CAP(Register, offset=0x00, width=64):
    """Controller Capabilities."""

    MQES = Field(15, 0, int)
    TO = Field(31, 24, int)
    DSTRD = Field(35, 32, int)
    NSSRS = flag(36)
    CSS = Field(44, 37, int)
    MPSMIN = Field(51, 48, int)
    MPSMAX = Field(55, 52, int)

    @property
    def ready_timeout(self) -> float:
        """Seconds that RDY may take to follow EN: TO in units of 500 ms, and one more.

        One more because old controllers report 0; so does nvme_wait_ready (v6.1).
        """
        return (self.TO + 1) * 0.5


class VS(Register, offset=0x08):
    """Version."""

    MJR = Field(31, 16, int)
    MNR = Field(15, 8, int)
    TER = Field(7, 0, int)


class CC(Register, offset=0x14):
    """Controller Configuration."""

    EN = flag(0)
    CSS = Field(6, 4, int)
    MPS = Field(10, 7, int)
    AMS = Field(13, 11, int)
    SHN = Field(15, 14, Shutdown)
    IOSQES = Field(19, 16, int)
    IOCQES = Field(23, 20, int)
    CRIME = flag(24)


class CSTS(Register, offset=0x1C):
    """Controller Status."""

    RDY = flag(0)
    CFS = flag(1)
    SHST = Field(3, 2, ShutdownStatus)
    NSSRO = flag(4)
    PP = flag(5)


class AQA(Register, offset=0x24):
    """Admin Queue Attributes."""

    ASQS = Field(11, 0, int)
    ACQS = Field(27, 16, int)


class ASQ(Register, offset=0x28, width=64):
    """Admin Submission Queue Base Address."""


class ACQ(Register, offset=0x30, width=64):
    """Admin Completion Queue Base Address."""


class ControllerState(Enum):
    """What EN, RDY, SHST and CFS say together."""

    DISABLED = "disabled"
    """EN=0, RDY=0: no command runs, no memory is written."""
    ENABLING = "enabling"
    """EN=1, RDY=0: coming up; changing EN now is undefined (Base 2.0, CC.EN)."""
    READY = "ready"
    """EN=1, RDY=1: commands may run."""
    DISABLING = "disabling"
    """EN=0, RDY=1: still writing its memory."""
    SHUTTING_DOWN = "shutting down"
    """EN=1, SHST=01: the shutdown that SHN asked for runs."""
    SHUT_DOWN = "shut down"
    """EN=1, SHST=10: media is safe, the controller is still enabled."""
    FATAL = "fatal"
    """CFS=1: only a reset helps; RDY may never fall."""
    GONE = "gone"
    """All ones: nobody answers."""


def controller_state(cc: CC, csts: CSTS) -> ControllerState:
    """Derive the state. All ones is tested before any field is believed."""
    if cc.all_ones or csts.all_ones:
        return ControllerState.GONE
    if csts.CFS:
        return ControllerState.FATAL
    if not cc.EN:
        return ControllerState.DISABLING if csts.RDY else ControllerState.DISABLED
    if not csts.RDY:
        return ControllerState.ENABLING
    match csts.SHST:
        case ShutdownStatus.OCCURRING:
            return ControllerState.SHUTTING_DOWN
        case ShutdownStatus.COMPLETE:
            return ControllerState.SHUT_DOWN
    return ControllerState.READY
