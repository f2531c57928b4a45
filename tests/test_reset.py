# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command's reset: asked for, refused, rehearsed, watched."""

import io
import logging
import sys
from collections.abc import Iterator

import pytest

from libvirt_hooks import cli, journal, policy
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.command import reset
from libvirt_hooks.command.waiting import each_told, told
from libvirt_hooks.operation import Operation
from libvirt_hooks.plan import Goal
from libvirt_hooks.rehearsal import rehearsed
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.models import (
    A80C,
    ORDINARY,
    P3700,
    PM1725,
    QEMU_7_2,
    SM951,
    SM961,
    SM2262,
    Model,
)

from .lives import BDF

UUID = "0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11"


class Terminal(io.StringIO):
    """A stdin or stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> SimHost:
    """What the command takes for this machine."""
    machine = SimHost()
    monkeypatch.setattr(cli, "this_machine", lambda: machine)
    return machine


@pytest.mark.parametrize("name", ["01:00.0", "0000:01:00.0", "pci_0000_01_00_0"])
def test_reset(host: SimHost, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    host.add("0000:01:00.0", SM951, driver="vfio-pci")
    assert cli.main(["reset", "--yes", name]) == 0
    assert capsys.readouterr().out == "0000:01:00.0: pristine: controller and flr, 112.0 ms\n"
    assert host.function("0000:01:00.0").lethal_flrs == 0
    assert host.records.names(journal.JOURNAL) == []


@pytest.mark.parametrize(
    ("driver", "owned", "said"),
    [
        pytest.param(
            "nvme",
            False,
            "0000:01:00.0: may not be reset: driver is nvme, expected vfio-pci or none\n"
            "  hint: virsh nodedev-detach pci_0000_01_00_0\n",
            id="the host's",
        ),
        pytest.param(
            "vfio-pci",
            True,
            f"0000:01:00.0: may not be reset: the guest with uuid {UUID} has it\n",
            id="a guest's",
        ),
        pytest.param(
            "absent",
            False,
            "0000:01:00.0: may not be reset: there is no such PCI function\n"
            "  hint: look for its address with: lspci -D -d ::0108\n",
            id="nobody's",
        ),
    ],
)
def test_reset_is_refused(
    host: SimHost, driver: str, owned: bool, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bdf = Bdf.parse("01:00.0")
    if driver != "absent":
        host.add(bdf, SM951, driver=driver)
    if owned:
        journal.claim(host, UUID, [bdf])
    events = len(host.trace)
    assert cli.main(["reset", str(bdf)]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"virt-nvme-reset: {said}")
    assert len(host.trace) == events


def test_reset_waits_for_another_hook_and_not_for_the_policy(
    host: SimHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host.policy_text = "deadline = 0.5"
    host.add("0000:01:00.0", SM951, driver="vfio-pci")
    host.occupy("0000:01:00.0", 3.0)
    assert cli.main(["reset", "-y", "01:00.0"]) == 0
    assert capsys.readouterr().out.startswith("0000:01:00.0: pristine: ")


def test_reset_of_a_drive_that_nothing_disables(
    host: SimHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host.add("0000:01:00.0", SM951, "vfio-pci", Fault.RDY_STUCK | Fault.RESET_EIO)
    assert cli.main(["reset", "-y", "01:00.0"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("virt-nvme-reset: 0000:01:00.0: not pristine after controller")
    assert host.read_attr(Bdf.parse("01:00.0"), "power/control") == "auto"
    assert host.records.all == []


@pytest.mark.parametrize("answer", ["y\n", "Yes\n", " YES \n"])
def test_it_asks_on_a_terminal(
    host: SimHost, answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host.add(BDF, SM951, driver="vfio-pci")
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert cli.main(["reset", "01:00.0"]) == 0
    assert capsys.readouterr() == (
        "0000:01:00.0: pristine: controller and flr, 112.0 ms\n",
        "Reset 0000:01:00.0 (144d:a802, sm951, on vfio-pci)? [y/N] ",
    )


@pytest.mark.parametrize("answer", ["\n", "n\n", "yessir\n", ""])
def test_whatever_is_no_yes_is_a_no(
    host: SimHost, answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host.add(BDF, ORDINARY, driver=None)
    effects = len(host.effects)
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert cli.main(["reset", "01:00.0"]) == 1
    assert len(host.effects) == effects
    captured = capsys.readouterr()
    assert captured.out == "0000:01:00.0: left as it is\n"
    assert captured.err == "Reset 0000:01:00.0 (1b36:0010, without a driver)? [y/N] "


def test_where_nobody_can_be_asked_nothing_is_done(
    host: SimHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host.add(BDF, SM951, driver="vfio-pci")
    effects = len(host.effects)
    assert cli.main(["reset", "01:00.0"]) == 1
    assert len(host.effects) == effects
    assert capsys.readouterr() == (
        "",
        "virt-nvme-reset: 0000:01:00.0: not reset: nobody can be asked: standard input is no"
        " terminal\n  hint: virt-nvme-reset reset --yes 0000:01:00.0\n",
    )


def test_what_came_while_somebody_thought_is_seen(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host.add(BDF, SM951, driver="vfio-pci")

    def thinks(question: str, unasked: object) -> bool:
        journal.claim(host, UUID, [BDF])
        host.clock.advance(1000.0)
        return True

    monkeypatch.setattr(reset, "confirmed", thinks)
    assert cli.main(["reset", "01:00.0"]) == 1
    said = f"0000:01:00.0: may not be reset: the guest with uuid {UUID} has it\n"
    assert capsys.readouterr().err == f"virt-nvme-reset: {said}"


def dry(host: SimHost, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said; nothing was changed, and no rule broken."""
    events, effects, records = len(host.trace), list(host.effects), host.records.all
    assert cli.main(["reset", "--dry-run", "01:00.0"]) == 0
    assert (len(host.trace), host.effects, host.records.all) == (events, effects, records)
    assert host.violations == []
    return capsys.readouterr().out


def test_dry_run_of_one_that_is_awake(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    host.add(BDF, SM951, driver=None)
    assert (
        dry(host, capsys)
        == """\
0000:01:00.0: would:
  clear CC.EN and CC.SHN
  wait for CSTS.RDY=0, 30.5 s at most
  reset by flr
  wait for configuration space, 5.0 s at most
  put back what was changed for it
"""
    )


def test_dry_run_wakes_nothing(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    host.add(BDF, PM1725, driver="vfio-pci")
    assert (
        dry(host, capsys)
        == """\
0000:01:00.0: would:
  have its registers answer (asleep in D3hot); then, if it is enabled:
  clear CC.EN and CC.SHN
  leave it alone for 2.30 s
  wait for CSTS.RDY=0, 128.0 s at most
  reset by flr
  wait for configuration space, 5.0 s at most
  put back what was changed for it
"""
    )


def test_dry_run_of_one_that_is_gone(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    host.add(BDF, SM951, driver="vfio-pci", faults=Fault.CONFIG_FROZEN)
    first, second, *more = dry(host, capsys).splitlines()[1:]
    assert first == "  give up: configuration space reads 0xffff"
    assert second == "    not controller: it does not answer"
    assert len(more) == 3


def test_dry_run_of_one_that_is_pristine(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    host.add(BDF, SM951, driver=None, pristine=True)
    assert dry(host, capsys) == "0000:01:00.0: would:\n  nothing\n"


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        pytest.param("vfio-pci", "have its registers answer (asleep in D3hot); then", id="vfio"),
        pytest.param(None, "give up: registers not read (mapping resource0: ", id="no driver"),
    ],
)
def test_dry_run_under_lockdown(
    driver: str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    host = SimHost(lockdown=True)
    host.add(BDF, SM951, driver=driver)
    monkeypatch.setattr(cli, "this_machine", lambda: host)
    assert dry(host, capsys).splitlines()[1].startswith(f"  {said}")


def test_dry_run_refuses_as_the_real_thing_does(
    host: SimHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host.add(BDF, SM951)
    said = []
    for option in ("--dry-run", "--yes"):
        assert cli.main(["reset", option, "01:00.0"]) == 1
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]


MODELS = (A80C, ORDINARY, P3700, PM1725, QEMU_7_2, SM951, SM961, SM2262)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "with a neighbour"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: str(model.label))
def test_what_is_rehearsed_is_what_is_done(
    host: SimHost, model: Model, beside: bool, caplog: pytest.LogCaptureFixture
) -> None:
    host.add(BDF, model, driver=None, beside=["0000:01:00.1"] if beside else [])
    operation = Operation.patient(host, policy.load(host), [BDF])
    *told_before, last = rehearsed(operation, BDF, Goal.PRISTINE)
    assert last == "put back what was changed for it"
    caplog.set_level(logging.INFO, "libvirt_hooks.engine")
    reset.reset(host, BDF)
    logged = [
        each.message.removeprefix(f"{BDF}: ")
        for each in caplog.records
        if each.name == "libvirt_hooks.engine" and each.levelno == logging.INFO
    ]
    assert [each for each in logged if " -> " not in each] == told_before


def test_what_is_waited_for_is_said_on_a_terminal(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host.add(BDF, SM951, driver=None)
    err = Terminal()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setenv("COLUMNS", "60")
    assert cli.main(["reset", "-y", "01:00.0"]) == 0
    assert capsys.readouterr().out.startswith("0000:01:00.0: pristine: ")
    drawn = err.getvalue().split("\r")
    assert "0000:01:00.0: reset by flr; given up in 150 s\x1b[K" in drawn
    assert drawn[-1] == "\x1b[K"
    assert max(len(each.removesuffix("\x1b[K")) for each in drawn) == 59


def test_nothing_of_that_is_said_to_a_file(
    host: SimHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host.add(BDF, SM951, driver=None)
    assert cli.main(["reset", "-y", "01:00.0"]) == 0
    assert capsys.readouterr().err == ""


def test_the_line_is_gone_before_a_result_is_printed(
    host: SimHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    err = Terminal()
    monkeypatch.setattr(sys, "stderr", err)

    def results() -> Iterator[str]:
        for word in ("one", "two"):
            assert host._workers.tell is not None
            host._workers.tell(BDF, word, 3.0, 7.0)
            yield word

    for word in each_told(host, results()):
        assert host._workers.tell is None
        line = f"\r0000:01:00.0: {word} for 3 s; given up in 7 s\x1b[K\r\x1b[K"
        assert err.getvalue().endswith(line)


def test_a_terminal_that_is_gone_is_no_reason_to_stop(
    host: SimHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())
    with told(host):
        assert host._workers.tell is not None
        host._workers.tell(BDF, "reset by flr", 0.0, 7.0)
