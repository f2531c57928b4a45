# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset report`: all that helps, and nothing that is nobody else's business."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import pytest

from libvirt_hooks import cli, journal, redaction, report
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import SysfsError
from libvirt_hooks.history import Event
from libvirt_hooks.host import Identity
from libvirt_hooks.linux import events, policy_file, tools, versions
from libvirt_hooks.policy import Policy
from libvirt_hooks.redaction import Redaction
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.models import SM951

from .lives import BDF, SECOND

UUID = "0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11"
DSN = bytes.fromhex("110cb0715b382500")
KERNEL = [
    "[    0.000000] Command line: root=UUID=x nvme_core.secret=hunter2 pci=0000:01:00.0",
    "[    1.000000] pci 0000:01:00.0: [144d:a802] type 00 class 0x010802",
    "[    1.100000] nvme nvme0: pci function 0000:01:00.0",
    "[    1.200000] nvme nvme9: new ctrl: NQN hunter2, addr 10.0.0.5:4420",
    "[    1.300000] e1000e 0000:00:19.0 eth0: 52:54:00:12:34:56",
    "[    1.400000] BTRFS: device label hunter2 devid 1 /dev/nvme0n1p2",
    "[    1.500000] vfio-pci 0000:01:00.0: tower.example.org 52:54:00:12:34:57 10.0.0.5",
    f"[    1.600000] nvme0n1: eui.0025385b71b00c11 {UUID} on Tower",
    "[    1.700000] audit: type=1400 comm=hunter2 0000:01:00.0",
]
EVENTS = (
    Event(
        1764244800.0,
        3,
        f"prepare failed: {BDF}: not the drive that this guest expects: serial is 'S2GLNX0HB00077',"
        " expected 'S2GLNX0HB00088'",
        "prepare",
        UUID,
    ),
    Event(
        1764244801.0,
        6,
        f"{BDF}: flr: disabled -> pristine",
        "start",
        UUID,
        str(BDF),
        "flr",
        "0x00464060",
        "0x00000000",
        elapsed_ms=100.2,
    ),
    Event(1764244802.0, 3, f"{BDF}: in use by the host: mount@nvme0n1p1:/home/alice", "prepare"),
)
NAMES = (UUID, "tower", "Tower", "52:54:00:12:34:57", "10.0.0.5", "alice")
NEVER = ("hunter2", "52:54:00:12:34:56")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimHost:
    """What the command takes for this machine."""
    machine = SimHost()
    machine.add(BDF, SM951)
    machine.add(SECOND)
    config = machine.function(BDF).config
    config[0x148:0x154] = (1 << 16 | 0x0003).to_bytes(4, "little") + DSN
    config[0x100:0x104] = (0x148 << 20 | 1 << 16 | 0x0001).to_bytes(4, "little")
    journal.claim(machine, UUID, [BDF])
    uname = os.uname_result(("Linux", "tower.example.org", "6.1.0-41-amd64", "#1 SMP", "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: uname)
    monkeypatch.setattr(cli, "this_machine", lambda: machine)
    monkeypatch.setattr(events, "find", lambda most, bdf: events.Found("journal", EVENTS))
    monkeypatch.setattr(events, "kernel", lambda: KERNEL)
    monkeypatch.setattr(policy_file, "examine", lambda: policy_file.Found("deadline = 30\n"))
    monkeypatch.setattr(tools, "find", lambda paths: paths[0])
    monkeypatch.setattr(tools, "run", lambda command: tools.Said(f"{command[0]} 1.2\nx\n", "", 0))
    monkeypatch.chdir(tmp_path)
    return machine


def secrets(host: SimHost) -> Sequence[str]:
    """What the drive calls itself, in every spelling that the report could have."""
    identity = host.identity(BDF)
    assert identity is not None
    assert len(identity.serial) > 4
    known = (identity.serial, *identity.euis, "S2GLNX0HB00077", "S2GLNX0HB00088")
    return (*known, "0025385b71b00c11", "11 0c b0 71", "5b 38 25 00")


def sections(text: str) -> dict[str, str]:
    parts = text.split("\n== ")
    return dict(part.split(" ==\n", 1) for part in parts[1:])


FILE = "virt-nvme-reset-report-pci_0000_01_00_0.txt"


def test_what_is_in_it(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "nvme0"]) == 0
    assert capsys.readouterr().out == f"{FILE}: read it, then attach it\n"
    text = Path(FILE).read_text()
    assert text.startswith("virt-nvme-reset report on 0000:01:00.0\nmade ")
    found = sections(text)
    assert list(found) == [
        *("versions", "controller", "configuration space", "policy", "history", "kernel")
    ]
    assert "kernel: 6.1.0-41-amd64 #1 SMP x86_64\n" in found["versions"]
    assert "libvirt: /usr/sbin/libvirtd 1.2\n" in found["versions"]
    assert f"python: {platform.python_version()}\n" in found["versions"]
    assert "0000:01:00.0  144d:a802\n" in found["controller"]
    assert "quirk         sm951" in found["controller"]
    space = found["configuration space"]
    assert space.startswith("capabilities: PM(01)@0x40, ")
    assert "DSN(0003)@0x148\n00: 4d 14 02 a8 " in space
    assert "\n140: " in space
    assert "deadline = 30" in found["policy"]
    assert f"{BDF}: flr: disabled -> pristine, 100.2 ms" in found["history"]
    assert "CC 0x00464060 -> 0x00000000" in found["history"]
    assert [line[:14] for line in found["kernel"].splitlines()] == [
        f"[    {at}00000]" for at in ("1.0", "1.1", "1.5", "1.6")
    ]
    assert host.violations == []


def test_nothing_leaks(host: SimHost) -> None:
    assert cli.main(["report", "nvme0"]) == 0
    text = Path(FILE).read_text()
    for secret in (*NAMES, *NEVER, *secrets(host)):
        assert secret.lower() not in text.lower(), secret


def test_what_the_host_knows_of_a_drive_is_masked_in_whatever_form(
    host: SimHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    nguid = "eui-of-no-known-form"
    identity = Identity("S2GL NX77", "Samsung", (nguid,))
    monkeypatch.setattr(host, "identity", lambda bdf: identity)
    monkeypatch.setattr(events, "kernel", lambda: [f"nvme nvme0: S2GL NX77 {nguid}"])
    assert cli.main(["report", "nvme0", "--with-names"]) == 0
    text = Path(FILE).read_text()
    assert "NX77" not in text
    assert nguid not in text


@pytest.mark.parametrize("driver", ["vfio-pci", None])
def test_nothing_leaks_of_a_drive_that_the_host_has_not(host: SimHost, driver: str | None) -> None:
    known = secrets(host)
    host.add(BDF, SM951, driver)
    host.function(BDF).config[0x100:0x10C] = (1 << 16 | 3).to_bytes(4, "little") + DSN
    assert cli.main(["report", str(BDF)]) == 0
    text = Path(FILE).read_text()
    assert "DSN(0003)@0x100" in text
    for secret in (*NAMES, *NEVER, *known[2:]):
        assert secret.lower() not in text.lower(), secret


def test_what_is_asked_for_is_in_it(host: SimHost) -> None:
    assert cli.main(["report", "nvme0", "--with-names", "-f", "names"]) == 0
    names = Path("names").read_text()
    assert all(secret in names for secret in NAMES)
    assert not any(secret in names for secret in (*NEVER, *secrets(host)))
    assert cli.main(["report", "nvme0", "--serial", "-f", "serial"]) == 0
    serial = Path("serial").read_text()
    assert "S2GLNX0HB00077" in serial
    assert "5b 38 25 00" in serial
    assert not any(secret in serial for secret in (*NAMES, *NEVER))


def test_to_stdout(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "nvme0", "-f", "-"]) == 0
    assert capsys.readouterr().out.startswith("virt-nvme-reset report on 0000:01:00.0\n")
    assert os.listdir() == []


@pytest.mark.parametrize("kind", ["file", "link"])
def test_nothing_is_overwritten(
    host: SimHost,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(events, "kernel", lambda: asked)
    monkeypatch.setattr(tools, "run", lambda command: asked.append(command[0]))
    other = Path("other")
    if kind == "file":
        Path(FILE).write_text("mine")
    else:
        Path(FILE).symlink_to(other)
    assert cli.main(["report", "nvme0"]) == 1
    assert capsys.readouterr().err == (
        f"virt-nvme-reset: {FILE}: writing: it is there already\n  hint: name another one with -f\n"
    )
    assert asked == []  # it is said at once
    assert not other.exists()
    assert kind == "link" or Path(FILE).read_text() == "mine"


def test_nor_what_comes_meanwhile(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(events, "kernel", lambda: [f"{Path(FILE).write_text('mine')}"])
    assert cli.main(["report", "nvme0"]) == 1
    assert "it is there already" in capsys.readouterr().err
    assert Path(FILE).read_text() == "mine"


def test_no_such_directory(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "nvme0", "-f", "none/x"]) == 1
    assert capsys.readouterr().err == (
        "virt-nvme-reset: none/x: writing: No such file or directory\n"
    )


def test_of_nobody(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "05:00.0"]) == 1
    assert "may not be shown: there is no such PCI function" in capsys.readouterr().err
    assert os.listdir() == []


def test_what_cannot_be_found_out_is_said(host: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(most: int, bdf: Bdf) -> events.Found:
        raise SysfsError("own.log", "reading", 13)

    monkeypatch.setattr(events, "find", unreadable)
    monkeypatch.setattr(events, "kernel", list)
    monkeypatch.setattr(policy_file, "examine", lambda: policy_file.Found("mode ="))
    monkeypatch.setattr(tools, "run", lambda command: None)
    host.occupy(BDF, 1e6)
    assert cli.main(["report", str(BDF)]) == 0
    found = sections(Path(FILE).read_text())
    assert found["history"] == "own.log: reading: Permission denied\n"
    assert found["kernel"] == "nothing\n"
    assert found["policy"].startswith("/etc/virt-nvme-reset.toml: line 1, column 7: not TOML")
    assert found["configuration space"].startswith("not read: lock: still taken after ")
    assert "libvirt: not found\n" in found["versions"]


def test_of_one_that_is_gone_no_more_is_read_than_that_it_is(host: SimHost) -> None:
    host.function(BDF).frozen = True
    lines = report.configuration(host, Policy(), BDF)
    assert lines[0] == "capabilities: none"
    assert len(lines) == 1 + 64 // 16


def test_versions_of_this_machine() -> None:
    found = dict(versions.versions())
    assert found["kernel"].startswith(os.uname().release)
    assert os.uname().nodename not in found["kernel"].split()
    assert set(found) == {"virt-nvme-reset", "kernel", "libvirt", "QEMU", "python", "lxml"}
    masked = Redaction()
    masked.recognise(redaction.NAMES)
    assert masked.apply(found["lxml"]) == found["lxml"]
