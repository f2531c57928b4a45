# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs inside the rig: kills the next hook of one operation, or its worker, at a chosen moment.

    killer.py OPERATION WHOM after SECONDS     so long after the hook appeared
    killer.py OPERATION WHOM working SECONDS   so long after its first worker did
    killer.py OPERATION WHOM when PATH TEXT    once the file holds the text; with "=TEXT", only that

WHOM is ``hook`` (the process that libvirt waits for), ``worker`` (its children) or ``both``. A file
says that it looks; at its end it tells, as a JSON object, whom it killed and when. The hook shares
its process group with libvirtd, so single processes are killed and no group.

The kernel tells of each exec, since looking for it would take the only processor from it. Sources:
kernel Documentation/driver-api/connector.rst, include/uapi/linux/{connector,cn_proc}.h, v6.1.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SCRIPT = b"50-nvme-reset"
READY = Path("/run/rig/killer-ready")
APPEARS_SECONDS = 120.0
POLL = 0.005

NETLINK_CONNECTOR, NLMSG_DONE = 11, 3
CN_IDX_PROC, CN_VAL_PROC, PROC_CN_MCAST_LISTEN = 1, 1, 1
PROC_EVENT_EXEC = 2
# struct nlmsghdr, cn_msg, and of proc_event: what, cpu, timestamp_ns, process_pid, process_tgid.
NLMSGHDR, CN_MSG, EVENT = struct.Struct("IHHII"), struct.Struct("IIIIHH"), struct.Struct("IIQII")

Moment = Callable[[float, float], bool]
"""Seconds since the hook appeared, and since it has a worker (-1 before): is it time?"""


def command_line(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def is_hook(pid: int, operation: str) -> bool:
    """Script, guest, operation: the arguments that libvirt gives."""
    words = command_line(pid)
    for at, word in enumerate(words):
        if word.endswith(SCRIPT):
            return words[at + 2 : at + 3] == [operation.encode()]
    return False


def listener() -> socket.socket:
    """Return a socket on which the kernel tells of processes."""
    told = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_CONNECTOR)
    told.bind((os.getpid(), CN_IDX_PROC))
    words = struct.pack("I", PROC_CN_MCAST_LISTEN)
    message = CN_MSG.pack(CN_IDX_PROC, CN_VAL_PROC, 0, 0, len(words), 0) + words
    told.send(NLMSGHDR.pack(NLMSGHDR.size + len(message), NLMSG_DONE, 0, 0, os.getpid()) + message)
    return told


def execs(told: socket.socket, seconds: float) -> Iterator[int]:
    """Yield the pid of each process that execs something within so many seconds."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        told.settimeout(left)
        try:
            message = told.recv(4096)
        except TimeoutError:
            return
        what, _, _, pid, _ = EVENT.unpack_from(message, NLMSGHDR.size + CN_MSG.size)
        if what == PROC_EVENT_EXEC:
            yield pid


def children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def moment(words: list[str]) -> Moment:
    match words:
        case ["after", seconds]:
            return lambda elapsed, _: elapsed >= float(seconds)
        case ["working", seconds]:
            return lambda _, working: working >= float(seconds)
        case ["when", path, text]:
            return lambda *_: holds(Path(path), text)
    raise SystemExit(__doc__)


def holds(path: Path, text: str) -> bool:
    try:
        found = path.read_text()
    except OSError:
        return False
    return found.strip() == text[1:] if text.startswith("=") else text in found


def kill(hook: int, whom: str) -> list[int]:
    workers = [] if whom == "hook" else children(hook)
    killed = []
    for pid in workers if whom == "worker" else [hook, *workers]:
        try:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        except ProcessLookupError:
            continue
    return killed


def strike(hook: int, whom: str, ripe: Moment) -> dict[str, Any]:
    """Wait for the moment, then kill; a hook that ends before has escaped."""
    began, working_since = time.monotonic(), 0.0
    alive = os.pidfd_open(hook)
    while True:
        now = time.monotonic()
        if not working_since and children(hook):
            working_since = now
        working = now - working_since if working_since else -1.0
        if ripe(now - began, working) and (working >= 0 or whom != "worker"):
            return {"killed": kill(hook, whom), "elapsed": now - began, "escaped": ""}
        if select.select([alive], [], [], POLL)[0]:
            return {"killed": [], "elapsed": now - began, "escaped": "had ended"}


def main(operation: str, whom: str, *words: str) -> None:
    ripe = moment(list(words))
    os.nice(-20)
    with listener() as told:
        READY.touch()
        try:
            hooks = (pid for pid in execs(told, APPEARS_SECONDS) if is_hook(pid, operation))
            hook = next(hooks, None)
        finally:
            READY.unlink()
    if hook is None:
        print(json.dumps({"killed": [], "elapsed": 0.0, "escaped": "no hook came"}))
    else:
        print(json.dumps(strike(hook, whom, ripe)))


if __name__ == "__main__":
    main(*sys.argv[1:])
