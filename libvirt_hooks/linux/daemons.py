# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's daemons: which of root's run, since when, and when systemd last had one reload.

Sources: proc(5); systemctl(1); systemd src/core/unit.c, unit_notify, v252: StateChangeTimestamp is
set when a unit goes to `reloading` and comes back, ActiveEnterTimestamp is not.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from ..doctor.facts import Daemon
from ..errors import HookError
from . import processes
from .reads import text

NAMES = ("libvirtd", "virtqemud")
"""The monolithic one, and the one of QEMU's driver."""
TIMES = ("ExecMainStartTimestamp", "ActiveEnterTimestamp", "StateChangeTimestamp")
FORMATS = ("%a %Y-%m-%d %H:%M:%S.%f UTC", "%a %Y-%m-%d %H:%M:%S UTC")
"""What --timestamp=us+utc prints; and without it, where `show` does not know it, with TZ=UTC."""
TIMEOUT = 10.0

Runner = Callable[[Sequence[str]], str]
"""Run a program and return what it prints; nothing if it is not there, or fails."""


def ask(command: Sequence[str]) -> str:
    """Be the Runner of this machine."""
    environment = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return result.stdout if result.returncode == 0 else ""


def running(root: str = "", run: Runner = ask) -> tuple[Daemon, ...]:
    """Return root's daemons, by pid. A user has one for qemu:///session: none of ours."""
    proc = f"{root}/proc"
    found = []
    for pid in processes.pids(proc):
        name = text(f"{proc}/{pid}/comm")
        if name in NAMES and _is_roots(proc, pid):
            ticks = processes.start_time(pid, proc)
            if ticks is not None:
                found.append(_daemon(proc, name, pid, ticks, run))
    return tuple(found)


def installed(root: str = "") -> tuple[str, ...]:
    """Return the names of those whose programs are there."""
    return tuple(name for name in NAMES if os.path.exists(f"{root}/usr/sbin/{name}"))


def reload(daemon: Daemon) -> None:
    """Have it look for hooks again, and go on as before.

    :raises HookError: systemd did not do it.
    :raises OSError: it is gone.
    """
    if not daemon.supervised:
        os.kill(daemon.pid, signal.SIGHUP)
        return
    command = ("systemctl", "reload", f"{daemon.name}.service")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        said = result.stderr.strip().partition("\n")[0]
        raise HookError(f"{daemon.name}: {' '.join(command)}: {said}", "reload it by hand")


def _daemon(proc: str, name: str, pid: int, ticks: int, run: Runner) -> Daemon:
    profile = text(f"{proc}/{pid}/attr/current").rstrip("\0\n")
    times = _times(name, pid, run)
    if times is None:
        return Daemon(name, pid, ticks, _started(proc, ticks), 0.0, False, profile)
    started, active, changed = times
    # A second start between the two is another process: its pid would not be this one.
    return Daemon(name, pid, ticks, started, changed if changed > active else 0.0, True, profile)


def _times(name: str, pid: int, run: Runner) -> tuple[float, float, float] | None:
    """The unit's TIMES; None if systemd has not started this process, or does not say."""
    wanted = ",".join(("MainPID", *TIMES))
    command = ("systemctl", "show", "--timestamp=us+utc", f"--property={wanted}", f"{name}.service")
    lines = (line.partition("=") for line in run(command).splitlines())
    said = {key: value for key, _, value in lines}
    if said.get("MainPID") != str(pid):
        return None
    try:
        started, active, changed = (_epoch(said[key]) for key in TIMES)
    except (KeyError, ValueError):
        return None
    return started, active, changed


def _epoch(printed: str) -> float:
    style = FORMATS[0] if "." in printed else FORMATS[1]
    return datetime.strptime(printed, style).replace(tzinfo=UTC).timestamp()


def _started(proc: str, ticks: int) -> float:
    """By the kernel's own time of boot, which is whole seconds: rounded down, to be sure."""
    boot = next(
        (line.split()[1] for line in text(f"{proc}/stat").splitlines() if line.startswith("btime")),
        "0",
    )
    return int(boot) + ticks // os.sysconf("SC_CLK_TCK")


def _is_roots(proc: str, pid: int) -> bool:
    lines = text(f"{proc}/{pid}/status").splitlines()
    return any(line.split()[:2] == ["Uid:", "0"] for line in lines)
