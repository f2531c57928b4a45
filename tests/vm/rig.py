# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rig as a test sees it: a machine that runs commands.

``boot`` starts the outer machine (``outer``) on the cached image (``image``) and waits until
``agent`` answers from inside. What the commands are about is left to ``machine``.
"""

from __future__ import annotations

import json
import queue
import shlex
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import outer
from .image import Image
from .qmp import Monitor

BOOT_TIMEOUT = 120.0
COMMAND_TIMEOUT = 60.0
# What the agent may need beyond a command's own time-out, on a machine that is busy.
ANSWER_GRACE = 30.0


@dataclass(frozen=True)
class Request:
    """What goes to the agent; a command that is one string is for the shell."""

    id: int
    command: str | Sequence[str]
    stdin: str
    env: Mapping[str, str]
    timeout: float


@dataclass(frozen=True)
class Result:
    """How a command in the rig ended."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float


class CommandFailed(Exception):
    """A command in the rig failed or did not end; the message has all it said."""


class Rig:
    """The line to the agent, and the outer machine's monitor."""

    def __init__(self, files: outer.Files) -> None:
        self.files = files
        self.monitor = Monitor(files.qmp, files.trace)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(files.agent))
        self._lock = threading.Lock()
        self._waiting: dict[int, queue.SimpleQueue[dict[str, Any]]] = {0: queue.SimpleQueue()}
        self._last_id = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        self._socket.close()
        self.monitor.close()

    def wait_for_boot(self) -> None:
        self._answer(0, BOOT_TIMEOUT)

    def run(
        self,
        command: str | Sequence[str],
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        timeout: float = COMMAND_TIMEOUT,
        check: bool = True,
    ) -> Result:
        """Run *command* in the rig, to its end.

        :raises CommandFailed: it did not end in time or, with *check*, failed.
        """
        with self._lock:
            self._last_id += 1
            request = Request(self._last_id, command, stdin, env or {}, timeout)
            self._waiting[request.id] = queue.SimpleQueue()
            self._send(request)
        answer = self._answer(request.id, timeout + ANSWER_GRACE)
        if answer["timed_out"]:
            raise CommandFailed(_told(request, f"did not end in {timeout:g} s", answer))
        if check and answer["returncode"] != 0:
            raise CommandFailed(_told(request, f"status {answer['returncode']}", answer))
        return Result(answer["returncode"], answer["stdout"], answer["stderr"], answer["seconds"])

    def _send(self, request: Request) -> None:
        try:
            self._socket.sendall(json.dumps(asdict(request)).encode() + b"\n")
        except OSError as error:
            raise CommandFailed(
                f"the rig is gone ({error}); its console:\n{self._console()}"
            ) from None

    def _answer(self, request_id: int, timeout: float) -> dict[str, Any]:
        try:
            return self._waiting[request_id].get(timeout=timeout)
        except queue.Empty:
            raise CommandFailed(
                f"the rig does not answer; its console:\n{self._console()}"
            ) from None
        finally:
            del self._waiting[request_id]

    def _console(self) -> str:
        return self.files.console.read_text(errors="replace")[-3000:]

    def _listen(self) -> None:
        try:
            for line in self._socket.makefile("rb"):
                answer = json.loads(line)
                # Too late an answer has nobody waiting any more.
                if waiting := self._waiting.get(answer["id"]):
                    waiting.put(answer)
        except (OSError, ValueError):
            return  # closed


@contextmanager
def boot(image: Image, parts: Path) -> Iterator[Rig]:
    """Boot a rig; it and all it wrote are gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="virt-nvme-reset-rig-") as directory:
        files = outer.Files(Path(directory))
        with outer.running(image, parts, files):
            rig = Rig(files)
            try:
                rig.wait_for_boot()
                yield rig
            finally:
                rig.close()


def _told(request: Request, how: str, answer: dict[str, Any]) -> str:
    command = request.command
    words = command if isinstance(command, str) else shlex.join(command)
    return f"{words}: {how}\n{answer['stdout']}{answer['stderr']}"
