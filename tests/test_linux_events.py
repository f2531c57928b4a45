# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where events are found: a journalctl that says what it is told to, and a real one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from libvirt_hooks.errors import BadName, SysfsError
from libvirt_hooks.linux import events, logfile, tools

from .lives import BDF, SECOND

ROOT = Path(__file__).parent.parent
JOURNALD = "/lib/systemd/systemd-journald"


def line(message: str, bdf: str = "", when: int = 1764244800) -> str:
    fields = {"__REALTIME_TIMESTAMP": f"{when}000000", "PRIORITY": "6", "MESSAGE": message}
    return json.dumps({**fields, "PCI_BDF": bdf} if bdf else fields)


class Program:
    """Stands for journalctl and dmesg."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, own: Path) -> None:
        self.said: tools.Said | None = tools.Said("", "", 0)
        self.calls: list[list[str]] = []
        monkeypatch.setattr(tools, "find", lambda paths: paths[0])
        monkeypatch.setattr(tools, "run", self._run)
        monkeypatch.setattr(logfile, "PATH", str(own))

    def says(self, *lines: str, error: str = "", status: int = 0) -> None:
        self.said = tools.Said("".join(f"{line}\n" for line in lines), error, status)

    def _run(self, command: list[str]) -> tools.Said | None:
        self.calls.append(command)
        return self.said


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "own.log"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, own: Path) -> Program:
    return Program(monkeypatch, own)


def messages(found: events.Found) -> list[str]:
    return [event.message for event in found.events]


def test_the_journal_is_asked_for_root_s_lines_and_no_more_than_wanted(program: Program) -> None:
    program.says(line("one"), "nonsense", line("two"))
    found = events.find(7)
    assert (found.source, messages(found)) == ("journal", ["one", "two"])
    (command,) = program.calls
    assert command[0] == "/usr/bin/journalctl"
    assert "-n7" in command
    assert command[command.index("-t") + 1] == "virt-nvme-reset"
    assert "_UID=0" in command


def test_a_time_is_one_argument(program: Program) -> None:
    program.says(line("one"))
    events.find(7, "--rotate")
    assert "--since=--rotate" in program.calls[0]


def test_of_one_controller_the_last_few(program: Program) -> None:
    said = [line(f"{number}", str(BDF if number % 2 else SECOND)) for number in range(20)]
    program.says(*said, line(f"prepare failed: {BDF}: may not go"))
    assert messages(events.find(3, bdf=BDF)) == ["17", "19", f"prepare failed: {BDF}: may not go"]
    assert f"-n{events.LOOK_BACK}" in program.calls[0]


def test_a_time_that_is_none(program: Program) -> None:
    program.says(error="Failed to parse timestamp: zorg\n", status=1)
    with pytest.raises(BadName, match="^--since: Failed to parse timestamp: zorg$"):
        events.find(7, "zorg")


@pytest.mark.parametrize("broken", ["empty", "failed", "absent"])
def test_where_the_journal_has_nothing_it_is_the_log_of_our_own(
    program: Program, own: Path, broken: str
) -> None:
    if broken == "absent":
        program.said = None
    elif broken == "failed":
        program.says(error="No journal files were found.", status=1)
    own.write_text("".join(f"{line(str(number), when=number)}\n" for number in range(10)))
    found = events.find(3)
    assert (found.source, messages(found)) == (str(own), ["7", "8", "9"])
    assert messages(events.find(9, "1970-01-01 00:00:08+00:00")) == ["8", "9"]
    with pytest.raises(BadName, match="--since: 'yesterday': without a journal, expected a time"):
        events.find(9, "yesterday")


def test_nothing_anywhere(program: Program) -> None:
    assert events.find(3) == events.Found(None, ())
    assert events.find(3, "yesterday") == events.Found(None, ())


def test_a_log_that_may_not_be_read(program: Program, own: Path) -> None:
    own.mkdir()
    with pytest.raises(SysfsError, match=f"^{own}: reading: Is a directory"):
        events.find(3)


def test_the_kernel_s_lines(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program.says("[    1.0] tower kernel: x", "[    2.0] y")
    assert events.kernel() == ["[    1.0] x", "[    2.0] y"]
    program.says()
    assert events.kernel() == []
    assert [command[0] for command in program.calls] == [
        *("/usr/bin/journalctl", "/usr/bin/journalctl", "/usr/bin/dmesg")
    ]
    monkeypatch.setattr(tools, "find", lambda paths: None)
    assert events.kernel() == []


@pytest.mark.parametrize(
    "command", [["/none"], ["/bin/sleep", "10"]], ids=["not there", "takes too long"]
)
def test_a_program_that_says_nothing(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "PATIENCE", 0.1)
    assert tools.run(command) is None
    assert tools.find(["/none", "/bin/sh"]) == "/bin/sh"
    assert tools.find(["/none"]) is None


SCRIPT = f"""
mount -t tmpfs none /run && mount -t tmpfs none /var/log || exit 77
mkdir -p /run/systemd/journal /run/log/journal
{JOURNALD} & trap "kill $!" EXIT
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -S /run/systemd/journal/socket ] && break; sleep 0.1; done
{sys.executable} -c "$1" || exit 77
"""
ASK = """
import logging, time
from libvirt_hooks.linux import events, journald, logfile
handler = journald.JournalHandler({"OPERATION": "start"})
log = logging.Logger("x")
log.addHandler(handler)
log.error("0000:01:00.0: \\x1b one\\ntwo", extra={"fields": {"PCI_BDF": "0000:01:00.0"}})
log.info("y" * 9000)
for _ in range(50):
    found = events.find(5)
    if len(found.events) == 2:
        break
    time.sleep(0.1)
one, two = found.events
assert found.source == "journal"
assert (one.message, one.priority) == ("0000:01:00.0: \\\\x1b one\\ntwo", 3), one
assert (one.operation, one.bdf) == ("start", "0000:01:00.0")
assert two.message == "(too long to be shown)"
print("good")
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not Path(JOURNALD).exists() or shutil.which("unshare") is None,
    reason="needs root and systemd-journald",
)
def test_a_real_journal() -> None:
    """In a mount namespace of its own, so that nothing of it stays."""
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", SCRIPT, "sh", ASK],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if result.returncode == 77 and "Error" not in result.stderr:
        pytest.skip(result.stderr)
    assert result.stdout == "good\n", result.stderr
