# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whole lives: every drive, every end, and what is left afterwards."""

import pytest

from libvirt_hooks.simulator.life import Life
from libvirt_hooks.simulator.models import ORDINARY, QEMU_7_2, SM951, SM961, Model

from .lives import BDF, End, at_rest, one


def reboot_and_shut_down(life: Life) -> None:
    life.guest_reboot()
    life.guest_reboot(clean=False)
    life.guest_shutdown()


ENDS = [
    pytest.param(Life.guest_shutdown, id="clean shutdown"),
    pytest.param(Life.destroy, id="destroy"),
    pytest.param(Life.kill, id="kill -9"),
    pytest.param(reboot_and_shut_down, id="reboots, then shutdown"),
]


@pytest.mark.parametrize("managed", [True, False], ids=["managed", "unmanaged"])
@pytest.mark.parametrize("model", [SM951, SM961, ORDINARY, QEMU_7_2], ids=lambda model: model.label)
@pytest.mark.parametrize("end", ENDS)
def test_a_whole_life(model: Model, managed: bool, end: End) -> None:
    host, life = one(model, managed=managed)
    before = host.read_attr(BDF, "reset_method")
    assert life.start()
    end(life)
    (verdict,) = life.verdicts()
    assert verdict.alive, verdict.text
    assert "FLR killed it" not in host.texts()
    assert life.guest_saw[BDF] and all(life.guest_saw[BDF])
    assert host.read_attr(BDF, "reset_method") == before
    assert host.nvme_state(BDF) == ("live" if managed else None)
    assert not host.function(BDF).controller.flr_is_lethal or managed
    assert [status for _, status in life.statuses] == [0] * 5
    at_rest(host)


@pytest.mark.parametrize("managed", [True, False], ids=["managed", "unmanaged"])
def test_without_the_hook_the_same_life_kills_the_drive(managed: bool) -> None:
    host, life = one(SM951, managed=managed)
    life.hook = None
    life.start()
    assert host.texts(BDF).count("FLR killed it") == 1
    assert not life.verdicts()[0].alive


@pytest.mark.parametrize("managed", [True, False], ids=["managed", "unmanaged"])
@pytest.mark.parametrize("refuse", ["prepare", "start", "started"])
def test_a_start_that_another_script_refuses(refuse: str, managed: bool) -> None:
    host, life = one(SM951, managed=managed)
    life.refuse = refuse
    assert not life.start()
    assert life.verdicts()[0].alive
    assert host.read_attr(BDF, "reset_method") == "flr bus"
    assert "FLR killed it" not in host.texts()
    at_rest(host)


def test_two_lives_one_after_the_other() -> None:
    host, life = one(SM951)
    for _ in range(2):
        assert life.start()
        life.guest_shutdown()
        assert life.verdicts()[0].alive
    at_rest(host)
