# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command's verbs on simulated machines, and how they end."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from libvirt_hooks import __version__, cli, journal, policy
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.linux import host as linux_host
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.models import ORDINARY, SM951

UUID = "0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11"
ROOT = Path(__file__).parent.parent


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> SimHost:
    """What the command takes for this machine."""
    machine = SimHost()
    monkeypatch.setattr(cli, "LinuxHost", lambda: machine)
    return machine


def test_list(host: SimHost, capsys: pytest.CaptureFixture[str]) -> None:
    host.add("0000:01:00.0", SM951, driver="vfio-pci")
    host.add("0000:02:00.0", ORDINARY)
    host.add("0000:03:00.0", SM951, driver=None)
    journal.claim(host, UUID, [host.device("0000:01:00.0").bdf])
    host.device("0000:03:00.0").reset_methods.clear()
    assert cli.main(["list"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["0000:01:00.0", "144d:a802", "vfio-pci", UUID, "flr,bus", "sm951"],
        ["0000:02:00.0", "1b36:0010", "nvme", "live", "flr,bus", "-"],
        ["0000:03:00.0", "144d:a802", "-", "idle", "none", "sm951"],
    ]
    assert host.violations == []


@pytest.mark.parametrize("name", ["01:00.0", "0000:01:00.0", "pci_0000_01_00_0"])
def test_reset(host: SimHost, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    host.add("0000:01:00.0", SM951, driver="vfio-pci")
    assert cli.main(["reset", name]) == 0
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


@pytest.mark.parametrize(
    "arguments", [[], ["rest"], ["reset"], ["reset", "nonsense"], ["list", "--nonsense"]]
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: virt-nvme-reset")


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
