# SPDX-License-Identifier: LGPL-2.1-or-later
"""What list and watch show, word by word, of controllers in every state."""

import io
import json
import os
import re
import sys
from dataclasses import dataclass

import pytest

from libvirt_hooks import cli, journal, marks, policy, store
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.command import domains, listing
from libvirt_hooks.command.listing import Entry, entries, known_guests, table
from libvirt_hooks.errors import HookError, Stuck
from libvirt_hooks.keeper import Keeper
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import Life
from libvirt_hooks.simulator.models import ORDINARY, PM1725, SM951, SM961

from .lives import BDF, called

UUID = "0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11"


class Terminal(io.StringIO):
    """A stdout that is a terminal."""

    def isatty(self) -> bool:
        return True


def fleet() -> SimHost:
    """A machine with a bit of everything."""
    host = SimHost()
    host.add("0000:01:00.0", SM951, driver="vfio-pci")
    host.add("0000:02:00.0", ORDINARY, mounted="/srv")
    host.add("0000:03:00.0", SM951, driver=None)
    host.add("0000:04:00.0", PM1725, driver="vfio-pci")
    host.add("0000:05:00.0", SM961, driver="vfio-pci")
    journal.claim(host, UUID, [host.device("0000:01:00.0").bdf])
    host.keepers.start(UUID, Keeper)
    content = {
        "process": [6000, 6000],
        "qemu": [4211, 4211],
        "bdfs": ["0000:01:00.0"],
        "seconds": 0,
    }
    store.save(host, "keepers", UUID, content)
    host.device("0000:03:00.0").reset_methods.clear()
    marks.mark_dead(host, Bdf.parse("0000:04:00.0"), HookError("x"))
    return host


def listed(host: SimHost, bdf: Bdf = BDF) -> Entry:
    """One entry; looking has changed nothing, and broken no rule."""
    events, effects = len(host.trace), list(host.effects)
    found = {each.bdf: each for each in entries(host, policy.load(host))}
    assert (len(host.trace), host.effects, host.violations) == (events, effects, [])
    return found[str(bdf)]


def drawn(host: SimHost, columns: int | None, name: str = "") -> str:
    found = entries(host, policy.load(host), {UUID: name} if name else {})
    return "".join(f"{line}\n" for line in table(found, columns))


def test_nothing_is_cut_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "this_machine", fleet)
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["list"]) == 0
    lines = ["|".join(re.split("  +", line)) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "BDF|IDS|MODEL|SERIAL|DRIVER|STATE|RESET|QUIRK|USED BY",
        "0000:01:00.0|144d:a802|-|-|vfio-pci|held|flr,bus|sm951|0d6f8a7e",
        "0000:02:00.0|1b36:0010|ordinary NVMe|SIM00001|nvme|live|flr,bus|-|mount@nvme1n1p1:/srv",
        "0000:03:00.0|144d:a802|-|-|-|idle|none|sm951|-",
        "0000:04:00.0|144d:a821|-|-|vfio-pci|given up|flr,bus|delay-before-ready-check|-",
        "0000:05:00.0|144d:a804|-|-|vfio-pci|idle|device_specific,flr,bus|sm961|-",
    ]


def test_eighty_columns() -> None:
    text = drawn(fleet(), 80, "web01")
    assert (
        text
        == """\
BDF          IDS       MODEL   SERIAL DRIVER   STATE    RESET   QUIRK  USED BY
0000:01:00.0 144d:a802 -       -      vfio-pci held     flr,bus sm951  web01
0000:02:00.0 1b36:0010 ordina… SIM00… nvme     live     flr,bus -      mount@nv…
0000:03:00.0 144d:a802 -       -      -        idle     none    sm951  -
0000:04:00.0 144d:a821 -       -      vfio-pci given up flr,bus delay… -
0000:05:00.0 144d:a804 -       -      vfio-pci idle     device… sm961  -
"""
    )


def test_eighty_columns_are_enough_for_the_longest_of_everything() -> None:
    long = "x" * 60
    entry = Entry(
        bdf=str(BDF),
        vendor="144d",
        device="a802",
        model=long,
        serial=long,
        driver="uio_pci_generic",
        state="in a guest",
        guest=UUID,
        guest_name=long,
        held=False,
        reset_methods=["device_specific", "flr", "bus"],
        quirk=long,
        uses=[long],
    )
    assert list(map(len, table([entry], 80))) == [79, 80]
    assert list(map(len, table([entry], 400)))[1] == 12 + 9 + 3 * 60 + 15 + 10 + 23 + 122 + 8 * 2


def test_that_there_is_no_controller_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "this_machine", SimHost)
    assert cli.main(["list"]) == 0
    assert capsys.readouterr() == ("no NVMe controllers\n", "")
    assert cli.main(["list", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": 1, "controllers": []}


def test_for_programs_nothing_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "this_machine", fleet)
    monkeypatch.setattr(listing, "width", lambda: 80)
    assert cli.main(["list", "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["version"] == 1
    assert [each["state"] for each in document["controllers"]] == [
        *("held", "live", "idle", "given up", "idle")
    ]
    assert document["controllers"][:2] == [
        {
            "bdf": "0000:01:00.0",
            "vendor": "144d",
            "device": "a802",
            "model": None,
            "serial": None,
            "driver": "vfio-pci",
            "state": "held",
            "guest": UUID,
            "guest_name": None,
            "held": True,
            "reset_methods": ["flr", "bus"],
            "quirk": "sm951",
            "uses": [],
        },
        {
            "bdf": "0000:02:00.0",
            "vendor": "1b36",
            "device": "0010",
            "model": "ordinary NVMe",
            "serial": "SIM00001",
            "driver": "nvme",
            "state": "live",
            "guest": None,
            "guest_name": None,
            "held": False,
            "reset_methods": ["flr", "bus"],
            "quirk": "",
            "uses": ["mount@nvme1n1p1:/srv"],
        },
    ]


@pytest.mark.parametrize(
    ("driver", "faults", "expected"),
    [
        pytest.param("nvme", Fault.NONE, "live", id="the host's"),
        pytest.param("nvme", Fault.CONFIG_FROZEN, "dead", id="the host's, which gave up"),
        pytest.param("vfio-pci", Fault.NONE, "idle", id="vfio's"),
        pytest.param(None, Fault.NONE, "idle", id="nobody's"),
        pytest.param("uio_pci_generic", Fault.NONE, "driven", id="SPDK's"),
    ],
)
def test_states_by_driver(driver: str | None, faults: Fault, expected: str) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver, faults)
    assert listed(host).state == expected


def test_a_driver_that_has_not_made_a_controller_yet_is_probing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = SimHost()
    host.add(BDF, SM951)
    monkeypatch.setattr(host, "nvme_state", lambda bdf: None)
    assert listed(host).state == "probing"


def test_in_a_guest_without_a_keeper() -> None:
    host = SimHost()
    host.add(BDF, ORDINARY)
    assert Life(host, [(BDF, True)], called).start()
    entry = listed(host)
    assert (entry.state, entry.held, entry.uses) == ("in a guest", False, [])


def test_open_by_whom_no_record_tells() -> None:
    host = SimHost()
    host.add(BDF, ORDINARY)
    assert Life(host, [(BDF, True)], called).start()
    for uuid in host.records.names(journal.OWNERS):
        host.records.drop(journal.OWNERS, uuid)
    entry = listed(host)
    assert (entry.state, entry.guest) == ("open", None)
    assert entry.uses == ["open@4211 (qemu-system-x86)"]


def test_given_up_counts_no_more_once_the_host_s_driver_has_it_again() -> None:
    host = SimHost()
    host.add(BDF, ORDINARY)
    marks.mark_dead(host, BDF, HookError("x"))
    assert listed(host).state == "live"


def test_stuck() -> None:
    host = SimHost()
    host.add(BDF, SM961, driver="vfio-pci")
    host._workers._runs_until[7] = 600.0
    marks.mark_stuck(host, BDF, Stuck(f"{BDF}: writing '1' to reset", pid=7, started=1))
    assert listed(host).state == "stuck"


@pytest.mark.parametrize("given_up", [False, True])
def test_what_a_hook_took_away_and_nobody_found_again(given_up: bool) -> None:
    host = SimHost()
    host.add("0000:02:00.0", ORDINARY)
    journal.claim(host, UUID, [BDF])
    if given_up:
        marks.mark_dead(host, BDF, HookError("x"))
    entry = listed(host)
    assert (entry.vendor, entry.device, entry.driver) == (None, None, None)
    assert entry.state == ("given up" if given_up else "gone")
    assert drawn(host, None).splitlines()[1].split()[:2] == ["0000:01:00.0", "-"]


def test_the_policy_names_drives_too() -> None:
    host = SimHost(policy='[drive."1b36:0010"]\nprefer_bus = true\n')
    host.add(BDF, ORDINARY)
    assert listed(host).quirk == "1b36:0010"


def test_what_a_drive_calls_itself_is_no_control_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    host = SimHost()
    host.add(BDF, ORDINARY)
    found = host.identity(BDF)
    assert found is not None
    monkeypatch.setattr(host, "identity", lambda bdf: found._replace(model="\x1b[2J", serial="\n"))
    assert "\\x1b[2J  \\x0a " in drawn(host, None)


def test_a_policy_that_is_broken_is_told_and_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = SimHost(policy="mode =")
    host.add(BDF, SM951)
    monkeypatch.setattr(cli, "this_machine", lambda: host)
    assert cli.main(["list"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].startswith("0000:01:00.0  144d:a802  Samsung SM951")
    assert captured.err.startswith("virt-nvme-reset: /etc/virt-nvme-reset.toml: line 1, column 7: ")


@pytest.mark.parametrize(
    ("is_terminal", "no_color", "coloured"),
    [
        pytest.param(True, False, True, id="a terminal"),
        pytest.param(True, True, False, id="no-color.org"),
        pytest.param(False, False, False, id="a file"),
    ],
)
def test_colour_is_for_terminals(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, no_color: bool, coloured: bool
) -> None:
    out = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "")
    text = drawn(fleet(), 80)
    plain = text.replace("\x1b[32m", "").replace("\x1b[31m", "").replace("\x1b[1m", "")
    assert ("\x1b[32mheld\x1b[0m " in text) is coloured
    assert ("\x1b[31mgiven up\x1b[0m " in text) is coloured
    assert ("\x1b" in text) is coloured
    assert max(map(len, plain.replace("\x1b[0m", "").splitlines())) == 80


@dataclass
class Watched:
    """How often it was drawn before ctrl-C."""

    host: SimHost
    rounds: int
    slept: tuple[float, ...] = ()

    def sleep(self, seconds: float) -> None:
        self.slept += (seconds,)
        self.host.device("0000:02:00.0").mounted = ""
        if len(self.slept) == self.rounds:
            raise KeyboardInterrupt


def test_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    host, out = fleet(), Terminal()
    watched = Watched(host, 2)
    monkeypatch.setattr(cli, "this_machine", lambda: host)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(host, "sleep", watched.sleep)
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["watch", "-n", "0.5"]) == 0
    assert watched.slept == (0.5, 0.5)
    _, first, second = out.getvalue().split("\x1b[H")[1:]
    assert first.startswith("every 0.5 s, now ")
    assert "mount@nv…\x1b[K\n" in first
    assert "mount@" not in second
    assert second.endswith(" -\x1b[K\n\x1b[J")


def test_watch_does_not_scroll(monkeypatch: pytest.MonkeyPatch) -> None:
    host, out = fleet(), Terminal()
    monkeypatch.setattr(cli, "this_machine", lambda: host)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(host, "sleep", Watched(host, 1).sleep)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((80, 6)))
    monkeypatch.setattr(out, "fileno", lambda: 1)
    assert cli.main(["watch"]) == 0
    assert out.getvalue().count("\n") == 5


def test_watch_wants_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = fleet()
    monkeypatch.setattr(cli, "this_machine", lambda: host)
    monkeypatch.setattr(host, "sleep", Watched(host, 1).sleep)
    assert cli.main(["watch"]) == 1
    assert capsys.readouterr() == (
        "",
        "virt-nvme-reset: watch: standard output is no terminal\n"
        "  hint: virt-nvme-reset list prints it once\n",
    )


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon", "3601"])
def test_watch_wants_a_pause(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["watch", "-n", seconds])
    assert caught.value.code == 2
    said = f"argument -n/--interval: '{seconds}', expected seconds, 0.1 to 3600\n"
    assert capsys.readouterr().err.endswith(said)


def test_guests_have_names_where_libvirt_knows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    host = SimHost()
    asked: list[str] = []

    def names() -> dict[str, str]:
        asked.append("libvirt")
        return {UUID: "web01"}

    monkeypatch.setattr(domains, "names", names)
    host.add("0000:01:00.0", SM951, driver="vfio-pci")
    assert known_guests(host) == {}
    assert asked == []  # it takes longer than all the rest
    journal.claim(host, UUID, [Bdf.parse("0000:01:00.0")])
    (entry,) = entries(host, policy.Policy(), known_guests(host))
    assert entry.guest_name == "web01"
