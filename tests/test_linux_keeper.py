# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keeper as a process: real pids and pidfds; what QEMU has open is the fake's."""

import ast
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from libvirt_hooks import keepers, store
from libvirt_hooks.deadline import Deadline
from libvirt_hooks.errors import HookError
from libvirt_hooks.linux import detached, keeper, processes
from libvirt_hooks.linux.host import LinuxHost
from libvirt_hooks.linux.vfio import Device

from .qemu_process import NVME, UUID, Guest

SECONDS = 20.0
RECORD = f"keepers/{UUID}"
PACKAGE = Path(detached.KEEP).parent


@pytest.fixture
def host(tmp_path: Path) -> LinuxHost:
    (tmp_path / "devices").mkdir()
    return LinuxHost(devices=str(tmp_path / "devices"), run=str(tmp_path / "run"))


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(tmp_path / "vfio")
    yield guest
    guest.kill()


def await_record(run: Path) -> dict[str, object]:
    until = time.monotonic() + SECONDS
    while not (run / RECORD).exists():
        assert time.monotonic() < until, "no record"
        time.sleep(0.01)
    content: dict[str, object] = json.loads((run / RECORD).read_text())
    return content


def test_it_lives_as_long_as_its_guest(host: LinuxHost, guest: Guest, tmp_path: Path) -> None:
    ready = threading.Event()
    thread = threading.Thread(target=keeper.keep, args=(host, UUID, ready.set))
    thread.start()
    content = await_record(tmp_path / "run")
    assert content["process"] == [os.getpid(), processes.start_time(os.getpid())]
    assert content["qemu"] == [guest.child.pid, processes.start_time(guest.child.pid)]
    assert content["bdfs"] == []
    assert ready.wait(SECONDS)
    (found,) = keepers.find_all(host)
    assert found.uuid == UUID
    assert thread.is_alive()
    guest.kill()
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert not (tmp_path / "run" / RECORD).exists()


def test_the_program_runs_on_the_distributions_python_alone() -> None:
    """What it says goes to the journal; its status is for nobody."""
    command = [detached.PYTHON, "-IS", detached.KEEP, "no-such-guest"]
    ended = subprocess.run(command, capture_output=True, timeout=SECONDS)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, b"", b"")


def test_it_imports_nothing_heavy() -> None:
    """lxml is the hook's; none of these is worth its memory for as long as a guest lives."""
    root = os.path.dirname(os.path.dirname(detached.KEEP))
    program = (
        f"import sys; sys.path.insert(0, {root!r}); import libvirt_hooks.linux.keeper;"
        "print(*sorted(sys.modules))"
    )
    command = [detached.PYTHON, "-IS", "-c", program]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not {"lxml", "subprocess", "tomllib", "argparse", "asyncio"} & set(loaded)
    assert not [name for name in loaded if name.startswith("libvirt_hooks.simulator")]


def test_it_is_no_sooner_a_victim_than_its_qemu(host: LinuxHost, guest: Guest) -> None:
    Path(f"/proc/{guest.child.pid}/oom_score_adj").write_text("7")
    before = Path("/proc/self/oom_score_adj").read_text()
    try:
        keeper._live_as_long_as(guest.child.pid)
        assert Path("/proc/self/oom_score_adj").read_text() == "7\n"
    finally:
        Path("/proc/self/oom_score_adj").write_text(before)


def test_a_qemu_that_is_gone_has_no_score() -> None:
    before = Path("/proc/self/oom_score_adj").read_text()
    keeper._live_as_long_as(1 << 22)  # beyond pid_max
    assert Path("/proc/self/oom_score_adj").read_text() == before


def test_one_that_hangs_is_killed(host: LinuxHost, guest: Guest) -> None:
    hanging = subprocess.Popen(["/bin/sleep", str(SECONDS)])
    started = processes.start_time(hanging.pid)
    guest.kill()
    record: dict[str, object] = {
        "process": [hanging.pid, started],
        "qemu": [guest.child.pid, 1],
        "bdfs": [],
    }
    record["seconds"] = 0.0
    _save(host, record)
    keepers.await_end(host, UUID, Deadline(host.monotonic, 5.0), 0.1)
    assert hanging.wait(SECONDS) == -9
    assert host.records.names("keepers") == []


def test_a_number_that_came_round_again_is_not_killed(host: LinuxHost) -> None:
    other = subprocess.Popen(["/bin/sleep", str(SECONDS)])
    try:
        started = processes.start_time(other.pid)
        assert started is not None
        host.kill(other.pid, started + 1)
        host.kill(1 << 22, 0)
        time.sleep(0.05)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def _save(host: LinuxHost, content: dict[str, object]) -> None:
    store.save(host, "keepers", UUID, content)


def test_start_says_what_failed(host: LinuxHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached, "PYTHON", "/nowhere/python3")
    expected = f"guest {UUID}: starting /nowhere/python3 -IS {detached.KEEP} {UUID}: No such file"
    with pytest.raises(HookError) as caught:
        host.start_keeper(UUID)
    assert caught.value.message.startswith(expected)


def test_what_is_lent_is_reached_through_its_descriptor(
    host: LinuxHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "device"
    file.write_bytes(bytes(8192))
    device = Device(os.open(file, os.O_RDWR), NVME)
    device._regions = {0: (0, 4096), 7: (4096, 256)}
    assert not host.holds(NVME)
    with host.lend(NVME, device):
        assert host.holds(NVME)
        with host.registers(NVME) as registers:
            registers.write32(0x14, 0x00460060)
        host.write_config(NVME, 0x04, b"\x02\x00")
    assert not host.holds(NVME)
    device.close()
    data = file.read_bytes()
    assert data[0x14:0x18] == bytes.fromhex("60004600")
    assert data[4096 + 4 : 4096 + 6] == b"\x02\x00"


def _imported_late(path: Path) -> Iterator[str]:
    """What functions of a module import, by full names."""
    package = [*path.relative_to(PACKAGE.parent).parts[:-1]]
    tree = ast.parse(path.read_text())
    inside = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    for node in [each for function in inside for each in ast.walk(function)]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            if node.module:
                yield ".".join([*above, node.module])
            else:
                yield from (".".join([*above, alias.name]) for alias in node.names)


READY = """
import sys
sys.path.insert(0, {root!r})
from libvirt_hooks.errors import HookError
from libvirt_hooks.linux import keeper
from libvirt_hooks.linux.host import LinuxHost
try:
    keeper.keep(LinuxHost(), "no such guest", print)
except HookError:
    print(*sorted(sys.modules))
"""
FIRST = {"libvirt_hooks.policy_file", "difflib"}
"""Of who reads the policy, which a keeper does once, before it is ready."""


def test_what_its_modules_import_late_is_there_before_it_is_ready() -> None:
    """An upgrade takes the files away under a keeper that runs."""
    command = [detached.PYTHON, "-IS", "-c", READY.format(root=str(PACKAGE.parent))]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    ours = [name for name in loaded if name.split(".")[0] == PACKAGE.name]
    paths = [PACKAGE.parent / f"{name.replace('.', '/')}.py" for name in ours]
    late = {name for path in paths if path.exists() for name in _imported_late(path)}
    assert {"json", "ctypes", "libvirt_hooks.linux.workers"} <= late
    assert late - set(loaded) == FIRST
    assert set(keeper.LATER) <= set(loaded)


UPGRADED = """
import sys
from pathlib import Path
from libvirt_hooks import closing
from libvirt_hooks.linux import journald, keeper, logfile, whose
from libvirt_hooks.linux.host import LinuxHost
from tests.qemu_process import NVME, UUID

class Upgraded:
    # Finds nothing, and tells what was looked for.
    def find_spec(self, name, *_):
        print("imports", name, flush=True)

def upgrade():
    sys.meta_path[:] = [Upgraded()]
    print("ready", flush=True)

here = Path(sys.argv[1])
whose.is_vfio_device = lambda target: "/vfio/" in target
whose.open_controllers = lambda _: ()
whose.may_be = lambda *_: (NVME,)
closing.is_wanted = lambda *_: True
journald.JOURNAL = str(here / "nowhere")
handler = journald.JournalHandler({}, str(here / "no"), str(here / "no"), str(here / "log"))
keeper.log.addHandler(handler)
keeper.log.setLevel("INFO")
(here / "policy").write_text(f'[metrics]\\ntextfile = "{here}"\\n')
keeper.keep(LinuxHost(*(str(here / each) for each in ("devices", "run", "policy"))), UUID, upgrade)
print("ended")
"""


def test_it_does_its_work_when_the_package_is_gone(guest: Guest, tmp_path: Path) -> None:
    """A drive comes, goes, and comes again to be held to the end: all of that imports nothing."""
    (tmp_path / "devices").mkdir()
    child = subprocess.Popen(
        [sys.executable, "-c", UPGRADED, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=PACKAGE.parent, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    guest.plug(30, "1", NVME)
    _await(tmp_path / "log", "holding", 1)
    guest.do("close 30")
    _await(tmp_path / "log", "unplugged", 1)
    guest.plug(31, "2", NVME)
    _await(tmp_path / "log", "holding", 2)
    guest.kill()
    assert child.communicate(timeout=SECONDS)[0] == "ended\n"
    assert "internal error" not in (tmp_path / "log").read_text()
    assert "virt_nvme_reset_held 0" in (tmp_path / "virt_nvme_reset.prom").read_text()


def _await(log: Path, word: str, times: int) -> None:
    until = time.monotonic() + SECONDS
    while not log.exists() or log.read_text().count(word) < times:
        assert time.monotonic() < until, f"no {word}"
        time.sleep(0.05)
