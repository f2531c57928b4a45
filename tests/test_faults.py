# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every named fault, on every kind of drive, through every kind of life: nothing worse comes of it.

What a drive with a fault is good for afterwards is in the tests of each operation; here is what
must hold whatever it does.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from itertools import combinations, product
from operator import or_

import pytest

from libvirt_hooks import recovery
from libvirt_hooks.policy import Policy
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.life import Life
from libvirt_hooks.simulator.models import A80C, ORDINARY, P3700, PM1725, SM951, SM961, SM2262

from . import tally
from .lives import BDF, one

MODELS = [replace(model, to=5) for model in (SM951, SM961, ORDINARY, P3700, PM1725, A80C, SM2262)]
ENDS = (Life.guest_shutdown, Life.destroy, Life.kill)
SINGLE: list[Fault] = [fault for fault in Fault if fault is not Fault.LETHAL_FLR]
"""That one is the models' own: of a drive that is in no table nobody can know it."""
FAULTS = [*SINGLE, *(reduce(or_, pair) for pair in combinations(SINGLE, 2))]


A_WHILE = 300.0
"""Seconds after which nothing blocks any more, and no guest is on its way."""


def lives(faults: Fault) -> Iterator[tuple[Life, str | None]]:
    """Each life, and what reset_method said before it."""
    for model, managed, end in product(MODELS, (True, False), ENDS):
        tally.tried(tally.FAULTS)
        host, life = one(model, managed=managed, faults=faults)
        before = host.read_attr(BDF, "reset_method")
        if life.start():
            end(life)
        assert host.violations == [], f"{model.label}, managed={managed}, {end.__name__}"
        yield life, before


@pytest.mark.parametrize("faults", FAULTS, ids=lambda faults: str(faults).removeprefix("Fault."))
def test_no_fault_makes_the_hook_do_harm(faults: Fault) -> None:
    """Only a start may be refused; what could not be finished at once is, later, by `recover`."""
    for life, before in lives(faults):
        assert {operation for operation, status in life.statuses if status} <= {"prepare", "start"}
        host = life.host
        host.clock.advance(A_WHILE)
        host.new_process()
        list(recovery.recover_all(host, Policy()))
        assert host.violations == []
        if faults & Fault.RESET_BLOCKS:
            continue  # it keeps `recover`, too, which says so
        assert set(host.records.all) <= {f"dead/{BDF}"}
        if BDF in host.machine.devices:
            assert host.read_attr(BDF, "reset_method") == before
