# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that outlives the hook: what it has of whoever started it is nothing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from libvirt_hooks.errors import HookError
from libvirt_hooks.linux import detached

TELL = """
import json, os, sys
fds = {name: os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")
       if os.path.exists(f"/proc/self/fd/{name}")}
told = {"pid": os.getpid(), "sid": os.getsid(0), "ppid": os.getppid(), "cwd": os.getcwd(),
        "fds": fds, "environment": dict(os.environ),
        "flags": [sys.flags.isolated, sys.flags.no_site]}
with open(sys.argv[1] + ".new", "w") as file:
    json.dump(told, file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
os.write(3, b"+")
"""
SECONDS = 20.0


def told_by(path: Path) -> dict[str, object]:
    until = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < until, "it never ran"
        time.sleep(0.01)
    told: dict[str, object] = json.loads(path.read_text())
    return told


def test_it_has_nothing_of_ours(tmp_path: Path) -> None:
    script, said = tmp_path / "tell.py", tmp_path / "said"
    script.write_text(TELL)
    with open(tmp_path / "inherited", "w") as file:
        os.set_inheritable(file.fileno(), True)
        detached.start("guest", (detached.PYTHON, "-IS", str(script), str(said)))
    told = told_by(said)
    assert told["sid"] not in (told["pid"], os.getsid(0))
    assert told["ppid"] != os.getpid()
    assert told["cwd"] == "/"
    fds = told["fds"]
    assert isinstance(fds, dict)
    assert fds.pop(str(detached.READY)).startswith("pipe:")
    assert fds == dict.fromkeys("012", "/dev/null")
    environment = told["environment"]
    assert isinstance(environment, dict)
    assert set(environment) - {"LC_CTYPE"} == {"LC_ALL", "PATH"}
    assert told["flags"] == [1, 1]


def test_whoever_waits_for_our_output_does_not_wait_for_it(tmp_path: Path) -> None:
    """libvirt waits for the end of file on a hook's stdout and stderr."""
    root = Path(detached.__file__).parents[2]
    sleep = f"printf + >&3; exec 3<&-; exec sleep {SECONDS}"
    start = f"detached.start('guest', ('/bin/sh', '-c', '{sleep}'))"
    program = f"from libvirt_hooks.linux import detached; {start}"
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, check=True)
    assert time.monotonic() - began < SECONDS / 2
    subprocess.run(["pkill", "-f", f"^sleep {SECONDS}$"], check=True)


def test_one_that_is_not_ready_in_time_goes_on(tmp_path: Path) -> None:
    done = tmp_path / "done"
    command = ("/bin/sh", "-c", f"sleep 0.3; touch {done}")
    with pytest.raises(
        HookError, match=r"^guest: /bin/sh .*: not ready after 0.05 s, but may come$"
    ):
        detached.start("guest", command, timeout=0.05)
    until = time.monotonic() + SECONDS
    while not done.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_it_is_waited_for_until_it_is_ready(tmp_path: Path) -> None:
    done = tmp_path / "done"
    detached.start(
        "guest", ("/bin/sh", "-c", f"sleep 0.2; touch {done}; printf + >&3; exec 3<&-; sleep 1")
    )
    assert done.exists()


def test_a_program_that_is_not_there_is_told() -> None:
    with pytest.raises(HookError, match=r"^guest 1: starting /nowhere 1: No such file or direc"):
        detached.start("guest 1", ("/nowhere", "1"))


@pytest.mark.parametrize("call", ["setsid", "chdir", "fork"])
def test_what_the_kernel_refuses_is_told(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(HookError, match=r"^guest: starting /bin/true: Cannot allocate memory$"):
        detached.start("guest", ("/bin/true",))


def test_no_child_stays_behind() -> None:
    with pytest.raises(HookError, match=r"^guest: /bin/true: has ended before it was ready$"):
        detached.start("guest", ("/bin/true",))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_the_keepers_program_is_there() -> None:
    assert Path(detached.KEEP).is_file()
    assert Path(detached.KEEP).name == "keep.py"
