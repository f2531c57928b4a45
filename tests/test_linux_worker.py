# SPDX-License-Identifier: LGPL-2.1-or-later
"""Workers of a hook that is killed, seen from outside, as libvirtd sees them: through pipes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])

HOOK = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.deadline import Deadline
from libvirt_hooks.errors import Stuck
from libvirt_hooks.linux import worker, workers

def job(bdf):
    print("never seen", flush=True)
    out = Path(sys.argv[2])
    (out / f"new{bdf.bus}").write_text(str(os.getpid()))
    (out / f"new{bdf.bus}").rename(out / f"pid{bdf.bus}")
    if sys.argv[3] == "blocked":
        time.sleep(60)
    try:
        while True:
            time.sleep(0.01)
            worker.doing("work")
    except Stuck:
        worker.doing("clean up")
        (out / f"clean{bdf.bus}").touch()
    return ""

workers.each([Bdf(0, 1, 0, 0), Bdf(0, 2, 0, 0)], job, Deadline(time.monotonic, 30))
"""


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def hook(tmp_path: Path, how: str) -> tuple["subprocess.Popen[bytes]", list[int]]:
    """Start a hook as libvirtd does, with pipes, and wait for the pids of its two workers."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", HOOK, ROOT, str(tmp_path), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    files = [tmp_path / "pid1", tmp_path / "pid2"]
    assert until(lambda: all(file.exists() for file in files))
    return process, [int(file.read_text()) for file in files]


def test_a_blocked_worker_does_not_keep_libvirt_waiting(tmp_path: Path) -> None:
    process, pids = hook(tmp_path, "blocked")
    try:
        process.kill()
        out, err = process.communicate(timeout=2)  # libvirt's poll for EOF on both
        assert (out, err) == (b"", b"")
        assert all(running(pid) for pid in pids)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


CLOSED = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.deadline import Deadline
from libvirt_hooks.linux import workers

os.closerange(0, 3)
outcome = workers.each([Bdf(0, 1, 0, 0)], lambda bdf: "fine", Deadline(time.monotonic, 5))
os._exit(0 if list(outcome.values()) == ["fine"] else 1)
"""


def test_a_hook_without_stdio_hears_its_workers() -> None:
    assert subprocess.run([sys.executable, "-I", "-c", CLOSED, ROOT], timeout=5).returncode == 0


def test_workers_whose_hook_is_dead_clean_up_and_go(tmp_path: Path) -> None:
    process, pids = hook(tmp_path, "talking")
    process.kill()
    process.communicate(timeout=2)
    try:
        assert until(lambda: not any(map(running, pids)), 2.0)
    finally:
        for pid in filter(running, pids):
            os.kill(pid, signal.SIGKILL)
    assert (tmp_path / "clean1").exists()
    assert (tmp_path / "clean2").exists()
