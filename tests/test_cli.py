# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command's verbs on simulated machines, and how they end."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from libvirt_hooks import __version__, cli, journal, policy
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import BadRecord, SysfsError
from libvirt_hooks.linux import host as linux_host
from libvirt_hooks.linux import policy_file
from libvirt_hooks.simulator.domain_xml import Assigned, domain_xml
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.models import SM951

UUID = "0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11"
ROOT = Path(__file__).parent.parent


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> SimHost:
    """What the command takes for this machine."""
    machine = SimHost()
    monkeypatch.setattr(cli, "this_machine", lambda: machine)
    return machine


def test_show(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    host.policy_text = "mode ="
    host.add("0000:01:00.0", SM951)
    assert cli.main(["show", "01:00.0"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("0000:01:00.0  144d:a802\n  drive  ")
    assert captured.out.endswith("\n  close         flr, disabled by the keeper before: safe\n")
    assert captured.err.startswith("virt-nvme-reset: /etc/virt-nvme-reset.toml: line 1, column 7: ")


def test_show_of_nobody(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "01:00.0"]) == 1
    assert capsys.readouterr() == (
        "",
        "virt-nvme-reset: 0000:01:00.0: may not be shown: there is no such PCI function\n"
        "  hint: look for its address with: lspci -D -d ::0108\n",
    )


def test_recover_finds_nothing(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    host.add("0000:01:00.0", SM951)
    assert cli.main(["recover"]) == 0
    assert capsys.readouterr() == ("nothing is left over\n", "")


def test_recover_says_what_came_of_each(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    host.add("0000:01:00.0", SM951, driver="vfio-pci")
    host.add("0000:02:00.0", SM951, driver="vfio-pci", faults=Fault.CONFIG_FROZEN)
    journal.claim(host, UUID, [Bdf.parse("01:00.0"), Bdf.parse("02:00.0")])
    host.clock.advance(100.0)
    assert cli.main(["recover"]) == 1
    captured = capsys.readouterr()
    assert captured.out == (
        "0000:01:00.0: pristine: controller and flr, 112.0 ms; still on vfio-pci:"
        " virsh nodedev-reattach pci_0000_01_00_0\n"
        f"guest {UUID}: gone, and no hook came: forgotten\n"
    )
    assert captured.err.startswith(
        "virt-nvme-reset: 0000:02:00.0: not pristine after remove/rescan, remove/bus/rescan: there"
        " is no such PCI function any more; "
    )
    assert captured.err.endswith(
        "\n  hint: power the host off and on: nothing less brings such a drive back\n"
    )


def test_recover_by_name(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    host.add("0000:01:00.0", SM951, driver=None)
    assert cli.main(["recover", "01:00.0"]) == 0
    assert capsys.readouterr().out.startswith("0000:01:00.0: live: controller and probe, ")
    assert cli.main(["recover", "02:00.0"]) == 1
    assert capsys.readouterr().err == (
        "virt-nvme-reset: 0000:02:00.0: may not be recovered: there is no such PCI function\n"
        "  hint: look for its address with: lspci -D -d ::0108\n"
    )


FILE = 'deny = ["144d:a802"]\ndeadline = 30\n'


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_file, "examine", lambda: policy_file.Found(FILE))


def test_config(file: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config"]) == 0
    assert capsys.readouterr().out == (
        'mode = "enforce"                  # default\n'
        'deny = ["144d:a802"]              # /etc/virt-nvme-reset.toml:1\n'
        'failed_disable = "refuse-lethal"  # default\n'
        "deadline = 30                     # /etc/virt-nvme-reset.toml:2\n"
        "deadline_cap = 150                # default\n"
    )


def test_config_for_programs(file: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["version", "file", "ignored", "policy", "expected"]
    assert document["policy"]["deadline"] == {
        "value": 30.0,
        "source": "/etc/virt-nvme-reset.toml:2",
    }


def test_config_says_what_it_does_not_trust(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = policy_file.Found(None, "mode is 0666 (expected no write bit for group and others)")
    monkeypatch.setattr(policy_file, "examine", lambda: found)
    assert cli.main(["config"]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("# /etc/virt-nvme-reset.toml: mode is 0666 ")
    assert second.endswith("# default")


def test_config_of_a_guest(file: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    xml = domain_xml("guest", UUID, [Assigned(Bdf.parse("03:00.0"))]).replace(
        b"<devices>",
        b'<metadata><p:policy xmlns:p="urn:virt-nvme-reset:policy:1" mode="observe">'
        b'<p:expect bdf="03:00.0" serial="S2GLNX0H"/></p:policy></metadata><devices>',
    )
    (tmp_path / "xml").write_bytes(xml)
    assert cli.main(["config", "--xml", str(tmp_path / "xml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["mode", "=", '"observe"', "#", "domain", "metadata"]
    assert '# 0000:03:00.0: serial = "S2GLNX0H"' in lines[-1]


@pytest.mark.parametrize(
    ("xml", "said"),
    [
        pytest.param(None, "reading: No such file or directory", id="no file"),
        pytest.param(b"<domain", "domain XML: not well-formed", id="no XML"),
        pytest.param(
            domain_xml("guest", UUID, []).replace(
                b"<devices>",
                b'<metadata><p:policy xmlns:p="urn:virt-nvme-reset:policy:1" mod="off"/>'
                b"</metadata><devices>",
            ),
            "unknown attribute 'mod', did you mean mode?",
            id="a mistake in the metadata",
        ),
    ],
)
def test_config_of_what_is_no_guest(
    file: None, tmp_path: Path, xml: bytes | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if xml is not None:
        (tmp_path / "xml").write_bytes(xml)
    assert cli.main(["config", "--xml", str(tmp_path / "xml")]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["rest"], ["reset"], ["list", "--nonsense"], ["list", "-o", "xml"]]
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: virt-nvme-reset")


@pytest.mark.parametrize(
    "name", ["01:00.0", "0000:01:00.0", "pci_0000_01_00_0", "nvme0", "nvme0n1"]
)
def test_every_name_of_a_controller(
    host: SimHost, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    host.add("0000:01:00.0", SM951)
    assert cli.main(["show", name]) == 0
    assert capsys.readouterr().out.startswith("0000:01:00.0  ")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("nonsense", "'nonsense': not a PCI address such as 0000:03:00.0"),
        ("nvme7", "nvme7: no such controller on the host's nvme driver"),
    ],
)
def test_what_names_no_controller_is_wrong_usage(
    host: SimHost, name: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["reset", name]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"virt-nvme-reset: {complaint}",
        "  hint: virt-nvme-reset list shows every controller",
    ]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"virt-nvme-reset {__version__}\n"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    script = "import sys; from libvirt_hooks.cli import main; sys.exit(main(['demo']))"
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_the_policy_is_read_where_its_errors_say() -> None:
    assert linux_host.LinuxHost()._policy == policy.PATH


def test_the_script_of_the_checkout() -> None:
    script = ROOT / "bin" / "virt-nvme-reset"
    result = subprocess.run([script, "--version"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, f"virt-nvme-reset {__version__}\n")


def test_the_script_without_its_package(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    script = Path(shutil.copy(ROOT / "bin" / "virt-nvme-reset", tmp_path / "bin"))
    result = subprocess.run([script, "list"], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("virt-nvme-reset: cannot start: No module named")
    assert "Traceback" not in result.stderr


FULL = "virt-nvme-reset: standard output: writing: No space left on device\n"


@pytest.mark.parametrize(
    ("arguments", "where", "status", "said"),
    [
        pytest.param("demo", ">/dev/full", 1, FULL, id="no room"),
        pytest.param("config", ">/dev/full", 1, FULL, id="no room for the little there is"),
        pytest.param("config -o json", ">/dev/full", 1, FULL, id="no room for programs either"),
        pytest.param("--help", ">/dev/full", 1, FULL, id="no room for help"),
        pytest.param("demo", ">&-", 0, "", id="stdout is closed"),
        pytest.param("--help", ">&-", 0, "", id="help to nowhere"),
        pytest.param("nonsense", "2>&-", 2, "", id="stderr is closed"),
        pytest.param("show nonsense", "<&- >&- 2>&-", 2, "", id="all are closed"),
    ],
)
def test_whatever_its_descriptors_are(arguments: str, where: str, status: int, said: str) -> None:
    command = f"{sys.executable} -m libvirt_hooks.cli {arguments} {where}"
    ended = subprocess.run(
        command, shell=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert (ended.returncode, ended.stderr) == (status, said)


def test_help_that_nobody_reads_is_no_error() -> None:
    script = ROOT / "bin" / "virt-nvme-reset"
    with subprocess.Popen(
        [script, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)


def test_no_file_of_ours_is_one_of_the_first_three() -> None:
    """Workers let go of those, and a lock would be gone with them."""
    script = (
        "import sys, os; from libvirt_hooks import cli; cli._open_what_is_closed();"
        "print(os.open('/dev/null', 0), file=open(sys.argv[1], 'w'))"
    )
    command = f'{sys.executable} -c "{script}" /dev/fd/9 9>&1 0<&- 1>&- 2>&-'
    ended = subprocess.run(command, shell=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert int(ended.stdout) > 2


def test_who_may_not_read_the_policy_may_look(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(_: SimHost) -> str:
        raise SysfsError(policy.PATH, "reading", 13)

    host.add("0000:01:00.0", SM951)
    monkeypatch.setattr(SimHost, "policy", denied)
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert cli.main(["list"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].startswith("0000:01:00.0  ")
    assert captured.err == (
        f"virt-nvme-reset: {policy.PATH}: reading: Permission denied\n  hint: run it as root\n"
    )
    assert cli.main(["reset", "--yes", "01:00.0"]) == 1  # but not touch


def test_no_complaint_speaks_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--xml", "\x1b[31m\n"]) == 1
    assert capsys.readouterr().err == (
        "virt-nvme-reset: \\x1b[31m\\x0a: reading: No such file or directory\n"
    )


def test_asks_nobody_where_stdin_is_closed(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host.add("0000:01:00.0", SM951, driver=None)
    monkeypatch.setattr(sys, "stdin", None)
    assert cli.main(["reset", "01:00.0"]) == 1
    assert "nobody can be asked: standard input is no terminal" in capsys.readouterr().err


@pytest.mark.parametrize(("uid", "hints"), [(0, False), (65534, True)])
def test_who_is_not_root_is_told_to_be(
    host: SimHost,
    uid: int,
    hints: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def listing(_: SimHost) -> list[Bdf]:
        raise BadRecord("/run/virt-nvme-reset/owners: listing: Permission denied")

    monkeypatch.setattr(SimHost, "functions", listing)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert cli.main(["list"]) == 1
    assert ("  hint: run it as root" in capsys.readouterr().err) == hints
