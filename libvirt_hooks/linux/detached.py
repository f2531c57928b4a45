# SPDX-License-Identifier: LGPL-2.1-or-later
"""Start a process that outlives the hook and has nothing of libvirt's.

libvirt waits for the end of file on a hook's stdout and stderr (src/util/vircommand.c, 9.0), and
systemd kills nothing but the daemon itself (KillMode=process): so what is in a session of its own,
with no descriptor of libvirt's, is left alone.
"""

import os
import select
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from ..errors import HookError

PYTHON = "/usr/bin/python3"
"""As in the hook's own first line; AppArmor lets libvirtd's children run no other."""
ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
READY = 3
"""The descriptor to which the process writes AT_WORK when it is."""
AT_WORK = b"+"
READY_TIMEOUT = 5.0
KEEP = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "keep.py")


def start_keeper(uuid: str) -> None:
    """Start the keeper of a guest.

    :raises HookError: it could not be started.
    """
    start(f"guest {uuid}", (PYTHON, "-IS", KEEP, uuid))


def start(who: object, command: Sequence[str], timeout: float = READY_TIMEOUT) -> None:
    """Run *command*, by its full path; return when it is at its work.

    :param who: whom it is for, for messages.
    :raises HookError: it could not be run, or has ended; or it is not ready after *timeout*
        seconds, and goes on.
    """
    try:
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            child = os.fork()
            if child == 0:
                _detach(command, theirs)
        finally:
            os.close(theirs)
        os.waitpid(child, 0)
        with open(ours, "rb", buffering=0) as pipe:
            poll = select.poll()
            poll.register(pipe, select.POLLIN)
            if not poll.poll(timeout * 1000):
                late = f"not ready after {timeout:g} s, but may come"
                raise HookError(f"{who}: {_words(command)}: {late}")
            said = pipe.read(8)
    except OSError as error:
        raise _failed(who, command, error.errno or 0) from error
    if not said:
        why = "the journal says why"
        raise HookError(f"{who}: {_words(command)}: has ended before it was ready", why)
    if said != AT_WORK:
        raise _failed(who, command, int(said))


def tell_ready() -> None:
    """In the process: it is at its work. Nobody waits any more where nobody has started it."""
    with suppress(OSError):
        os.write(READY, AT_WORK)
        os.close(READY)


def _detach(command: Sequence[str], pipe: int) -> NoReturn:
    # A second fork: whoever leads no session gets no terminal either, and is init's to reap.
    try:
        os.setsid()
        if os.fork() == 0:
            _become(command, pipe)
    except OSError as error:
        os.write(pipe, str(error.errno).encode())
    finally:
        os._exit(0)


def _become(command: Sequence[str], pipe: int) -> NoReturn:
    try:
        if pipe != READY:
            os.dup2(pipe, READY)
        os.set_inheritable(READY, True)
        os.chdir("/")
        null = os.open("/dev/null", os.O_RDWR)
        for fd in range(READY):
            os.dup2(null, fd)
        os.closerange(READY + 1, os.sysconf("SC_OPEN_MAX"))
        os.execve(command[0], list(command), ENVIRONMENT)
    except OSError as error:
        os.write(READY, str(error.errno).encode())
    finally:
        os._exit(0)


def _failed(who: object, command: Sequence[str], number: int) -> HookError:
    return HookError(f"{who}: starting {_words(command)}: {os.strerror(number)}")


def _words(command: Sequence[str]) -> str:
    return " ".join(command)
