# SPDX-License-Identifier: LGPL-2.1-or-later
"""Observations to decide over: a healthy drive on vfio-pci, and changes to it.

Register values are written as numbers, so that a wrong field in nvme.py cannot agree with itself.
"""

from dataclasses import replace
from typing import Any

from libvirt_hooks import quirks
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.nvme import ACQ, AQA, ASQ, CAP, CC, CSTS, VS
from libvirt_hooks.observe import Observation, RegisterValues

BDF = Bdf.parse("0000:03:00.0")
NEIGHBOUR = Bdf.parse("0000:03:00.1")
PORT = Bdf.parse("0000:00:03.0")

CAP_TO_15 = 0x0000_0020_0F01_3FFF  # TO=15: 8.0 s


def registers(
    cc: int = 0, csts: int = 0, aqa: int = 0, asq: int = 0, cap: int = CAP_TO_15
) -> RegisterValues:
    return RegisterValues(CAP(cap), VS(0x00010300), CC(cc), CSTS(csts), AQA(aqa), ASQ(asq), ACQ(0))


def seen(cc: int = 0, csts: int = 0, **changes: Any) -> Observation:
    """A drive that is alone on its bus, idle on vfio-pci and awake."""
    ids = (changes.get("vendor", 0x1B36), changes.get("device", 0x0010))
    ordinary = Observation(
        bdf=BDF,
        vendor=0x1B36,
        device=0x0010,
        config_vendor=0x1B36,
        quirk=quirks.find(*ids),
        driver="vfio-pci",
        nvme_state=None,
        open=False,
        power_state="D0",
        reset_methods=("flr", "bus"),
        offered=("flr", "bus"),
        virtual_functions=0,
        neighbours=(),
        port=PORT,
        slot=None,
        registers=registers(cc, csts),
        unreadable="",
    )
    return replace(ordinary, **changes)


def sm951(cc: int = 0, csts: int = 0, **changes: Any) -> Observation:
    return seen(
        cc, csts, **{"vendor": 0x144D, "device": 0xA802, "config_vendor": 0x144D, **changes}
    )
