# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset history`, as it is typed."""

import json
import os

import pytest

from libvirt_hooks import cli
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.command import output
from libvirt_hooks.linux import events
from libvirt_hooks.simulator.host import SimHost

from .test_history import EVENT, FAILED, UUID

Asked = list[tuple[int, str | None, Bdf | None]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What the journal is asked for; it has two events."""
    asked: Asked = []

    def find(most: int, since: str | None, bdf: Bdf | None) -> events.Found:
        asked.append((most, since, bdf))
        return events.Found("journal", (EVENT, FAILED))

    host = SimHost()
    host.add("0000:01:00.0")
    monkeypatch.setattr(cli, "this_machine", lambda: host)
    monkeypatch.setattr(events, "find", find)
    return asked


def test_history(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["history"]) == 0
    heading, *told = capsys.readouterr().out.splitlines()
    assert heading.endswith(f"  start  guest {UUID}")
    assert [line[13:] for line in told] == [
        "0000:01:00.0: controller: enabled -> disabled, 5.0 ms",
        "start failed: x",
    ]
    assert asked == [(50, None, None)]


@pytest.mark.parametrize("name", ["01:00.0", "nvme0"])
def test_of_one_controller(asked: Asked, name: str) -> None:
    assert cli.main(["history", name, "-n", "3", "--since", "10:00"]) == 0
    assert asked == [(3, "10:00", Bdf.parse("01:00.0"))]


def test_for_programs(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["history", "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["version", "source", "events"]
    assert document["source"] == "journal"
    assert document["events"][0] == EVENT.document


def test_what_is_wrong_has_a_colour(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "is_colourful", lambda: True)
    assert cli.main(["history"]) == 0
    heading, good, bad = capsys.readouterr().out.splitlines()
    assert heading.startswith("\x1b[1m")
    assert "\x1b" not in good
    assert bad.startswith("\x1b[31m")


def test_nothing(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(events, "find", lambda *_: events.Found(None, ()))
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert cli.main(["history"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("virt-nvme-reset.log that a user may see: run it as root\n")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert cli.main(["history"]) == 0
    said = "nothing in the journal, nor in /var/log/virt-nvme-reset.log\n"
    assert capsys.readouterr().out == said
    assert cli.main(["history", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["events"] == []


@pytest.mark.parametrize("lines", ["0", "-1", "5001", "many"])
def test_how_many_is_bounded(asked: Asked, lines: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["history", "-n", lines])
    assert caught.value.code == 2
    assert f"-n/--lines: {lines!r}, expected a number, 1 to 5000" in capsys.readouterr().err
    assert asked == []
