# SPDX-License-Identifier: LGPL-2.1-or-later
"""A drive that dies between libvirt's detach and QEMU's open: the start is refused at once.

Without the hook QEMU would sit in the kernel for 65 s, twice, waiting for it.
"""

from __future__ import annotations

import pytest

from . import hooks
from .drives import PARAMETERS, Double
from .guests import Guest
from .rig import Result, Rig

pytestmark = pytest.mark.vm

KERNEL_GIVES_UP_SECONDS = 65.0
ENGINE_MS = 1000.0
"""No reset has been waited for; what it takes, some 20 ms, is for the log to say."""


@pytest.fixture
def refused(rig: Rig, double: Double) -> tuple[Result, list[dict[str, str]]]:
    """A start with a drive that an earlier script at `start` has frozen; what was logged."""
    guest = Guest(rig, "dead", "shutdown", double.bdf)
    began = hooks.now(rig)
    guest.define()
    try:
        with hooks.neighbour(rig, "10-freeze", "start", f"echo 1 > {PARAMETERS}/frozen"):
            started = guest.start(check=False)
    finally:
        guest.undefine()
    return started, hooks.journal(rig, began)


def test_start_with_a_dead_drive_is_refused(
    refused: tuple[Result, list[dict[str, str]]], rig: Rig, double: Double
) -> None:
    started, log = refused
    print(f"\ndead drive: start refused in {started.seconds:.1f} s:\n{started.stderr}")
    assert started.returncode != 0
    # With all that `release` tries to bring it back.
    assert started.seconds < KERNEL_GIVES_UP_SECONDS

    # libvirt puts its own words before ours, on the same line.
    what, hint, *more = [line for line in started.stderr.splitlines() if double.bdf in line]
    assert f"{double.bdf}: does not answer: " in what, started.stderr
    assert hint.startswith(f"  hint: virt-nvme-reset recover {double.bdf}"), started.stderr
    assert more == []
    # At `release` nothing could bring it back: the next start is refused without a look.
    assert hooks.left_behind(rig) == [f"dead/{double.bdf}"]
    counters = double.counters()
    assert (counters.flr_lethal, counters.flr_good) == (0, 0)

    at_start = [entry for entry in log if entry.get("OPERATION") == "start"]
    elapsed = [float(entry["ELAPSED_MS"]) for entry in at_start if "ELAPSED_MS" in entry]
    print(f"engine time: {elapsed} ms")
    assert elapsed, at_start
    assert max(elapsed) <= ENGINE_MS
