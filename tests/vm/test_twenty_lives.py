# SPDX-License-Identifier: LGPL-2.1-or-later
"""Twenty lives in a row on the double, of mixed kinds, in each of which a hook is killed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from . import hooks, kills, report
from .deadline import Deadline
from .drives import Double
from .guests import Guest
from .kills import Kill, Killed
from .lives import Life
from .rig import Rig

pytestmark = pytest.mark.vm

SEED = 20
LIVES = 20
KINDS = (Life.SHUTDOWN, Life.DESTROY, Life.KILL, Life.REBOOT)
OPERATIONS = ("prepare", "start", "stopped", "release")
# Under TCG a hook takes about 1.2 s until it has a worker, which takes 0.2 to 0.5 s.
START_SECONDS, WORK_SECONDS = 1.5, 0.4
ON_ITS_WAY_SECONDS = 35.0
HEADINGS = ("life", "managed", "kind", "killed", "hit", "lethal FLR", "driver after", "left")


@dataclass(frozen=True)
class Plan:
    """One life, as the dice have it."""

    number: int
    managed: bool
    life: Life
    kill: Kill


@dataclass(frozen=True)
class Led:
    """How it went."""

    plan: Plan
    killed: Killed
    lethal: int
    where: str
    left: list[str]

    @property
    def cells(self) -> tuple[str, ...]:
        plan = self.plan
        return (
            str(plan.number),
            "yes" if plan.managed else "no",
            plan.life.value,
            str(plan.kill),
            str(self.killed),
            str(self.lethal),
            self.where,
            " ".join(name.partition("/")[0] for name in self.left) or "-",
        )


def plans(dice: random.Random) -> Iterator[Plan]:
    for number in range(1, LIVES + 1):
        operation, whom = dice.choice(OPERATIONS), dice.choice(("worker", "hook", "both"))
        if dice.random() < 0.3:
            kill = kills.after(operation, whom, dice.uniform(0.0, START_SECONDS))
        else:
            kill = kills.working(operation, whom, dice.uniform(0.0, WORK_SECONDS))
        yield Plan(number, dice.random() < 0.5, dice.choice(KINDS), kill)


def test_twenty_lives_with_a_killed_hook_in_each(rig: Rig, double: Double) -> None:
    print(f"\nseed {SEED}")
    before = double.view()
    led: list[Led] = []
    try:
        for plan in plans(random.Random(SEED)):
            led.append(lead(rig, double, plan))
        recover_all(rig)
    finally:
        print(*report.aligned([HEADINGS, *(each.cells for each in led)]), sep="\n")
    if not double.is_live():
        double.reattach()

    assert [each.plan for each in led if each.lethal] == []
    hit = [each.plan for each in led if each.killed.killed]
    assert len(hit) > LIVES / 2, "most kills have missed"
    assert double.wait_live() == before
    assert double.read_a_block()
    assert hooks.left_behind(rig) == []


def lead(rig: Rig, double: Double, plan: Plan) -> Led:
    """Lead one life, whatever the kill makes of it."""
    ready(double, plan.managed)
    double.clear()
    guest = Guest(rig, f"life-{plan.number}", plan.life.action, double.bdf, plan.managed)
    guest.define()
    try:
        with kills.killing(rig, plan.kill) as killed:
            if guest.start(check=False).returncode == 0:
                end(guest, plan.life)
            guest.wait_off()
        return Led(
            plan=plan,
            killed=killed.result(),
            lethal=double.counters().flr_lethal,
            where=double.view().where,
            left=hooks.left_behind(rig),
        )
    finally:
        guest.undefine()


def ready(double: Double, managed: bool) -> None:
    """Have it where the next guest wants it, without the help of a heal."""
    is_live = double.is_live()
    if managed and not is_live:
        double.reattach()
    elif not managed and is_live:
        double.detach()


def end(guest: Guest, life: Life) -> None:
    if life in (Life.DESTROY, Life.KILL):
        guest.wait_for("action hang")
    if life is Life.DESTROY:
        guest.destroy()
    elif life is Life.KILL:
        guest.kill()


def recover_all(rig: Rig) -> None:
    """Have the command undo what is left, once the last hook's word is old enough."""
    since = Deadline.after(ON_ITS_WAY_SECONDS)
    if any(name.startswith("owners/") for name in hooks.left_behind(rig)):
        rig.run(f"sleep {since.left:.0f}")
    told = hooks.command(rig, "recover")
    print(told.stdout, told.stderr)
    assert told.returncode == 0
