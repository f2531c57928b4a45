# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs inside the rig: carries out the commands that arrive on a virtio-serial port.

One JSON object a line, both ways; the fields of a request are those of ``rig.Request``. Each
request runs in its own thread, so that a test can look at the machine while a command hangs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from typing import IO, Any

PORT = "/dev/virtio-ports/rig.agent"
# A command killed for its time-out may be stuck in the kernel: then answer without it.
GRACE = 2.0


class Port:
    """The line to the host: whole lines only, whoever writes."""

    def __init__(self, path: str) -> None:
        self._file: IO[bytes] = open(path, "r+b", buffering=0)
        self._lock = threading.Lock()

    def read(self) -> bytes:
        """Return what has arrived; wait while nothing has (the port polls as closed at times)."""
        while not (data := self._file.read(1 << 16)):
            time.sleep(0.05)
        return data

    def send(self, message: dict[str, Any]) -> None:
        data = memoryview(json.dumps(message).encode() + b"\n")
        with self._lock:
            while data:
                data = data[self._file.write(data) :]


def carry_out(port: Port, request: dict[str, Any]) -> None:
    began = time.monotonic()
    try:
        answer = execute(request)
    except OSError as error:
        answer = {"returncode": 127, "stdout": "", "stderr": f"{error}\n", "timed_out": False}
    seconds = time.monotonic() - began
    port.send({"id": request["id"], "seconds": seconds, **answer})


def execute(request: dict[str, Any]) -> dict[str, Any]:
    """Run one command to its end or its time-out.

    Output goes to files: a pipe would make us wait for every descendant that holds it.
    """
    command = request["command"]
    with (
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
    ):
        stdin.write(request["stdin"].encode())
        stdin.seek(0)
        process = subprocess.Popen(
            command,
            shell=isinstance(command, str),
            env={**os.environ, **request["env"]},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        returncode = wait(process, request["timeout"])
        return {
            "returncode": returncode,
            "stdout": text(stdout),
            "stderr": text(stderr),
            "timed_out": returncode is None,
        }


def wait(process: subprocess.Popen[bytes], timeout: float) -> int | None:
    """Return the exit status, or None (and kill the process group) after the time-out."""
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        pass
    return None


def text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="backslashreplace")


def main() -> None:
    port = Port(PORT)
    with open("/proc/uptime") as uptime:
        port.send({"id": 0, "uptime": float(uptime.read().split()[0])})
    pending = b""
    while True:
        *lines, pending = (pending + port.read()).split(b"\n")
        for line in lines:
            if line:
                threading.Thread(target=carry_out, args=(port, json.loads(line))).start()


if __name__ == "__main__":
    main()
