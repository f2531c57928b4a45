# SPDX-License-Identifier: LGPL-2.1-or-later
"""A plugin for pytest: each message that the package says while tests run, a line of $SAYING.

An error counts where the package makes it, a line of the journal from warnings up. What tests and
the simulator word is not the package's.
"""

import fcntl
import json
import logging
import os
import sys
from types import FrameType

from libvirt_hooks import errors
from libvirt_hooks.errors import HookError

FILE = "SAYING"
"""The variable of the environment."""
FAR = 900
"""A descriptor that no test gets for its own."""

_files: list[int] = []
_KERNEL = {"write": os.write}  # where pyfakefs does not find it
_init, _handle = HookError.__init__, logging.Logger.handle


def _handling(self: logging.Logger, record: logging.LogRecord) -> None:
    if record.levelno >= logging.WARNING and record.name.split(".")[0] == "libvirt_hooks":
        _say(record.getMessage())
    _handle(self, record)


def _listening(self: HookError, message: str, hint: str = "") -> None:
    if _is_the_package(sys._getframe(1)):
        _say(message)
    _init(self, message, hint)


def _is_the_package(frame: FrameType) -> bool:
    while frame.f_globals["__name__"] == errors.__name__ and frame.f_back is not None:
        frame = frame.f_back  # a subclass's own
    name = str(frame.f_globals["__name__"])
    return name.startswith("libvirt_hooks.") and ".simulator" not in name


def _say(message: str) -> None:
    # At once: a worker that a test has forked says something, too, and ends without a word.
    for fd in _files:
        _KERNEL["write"](fd, f"{json.dumps(message)}\n".encode())


def pytest_configure() -> None:
    file = os.open(os.environ[FILE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    _files.append(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, FAR))
    os.close(file)
    HookError.__init__ = _listening  # type: ignore[method-assign]
    logging.Logger.handle = _handling  # type: ignore[method-assign]
