# SPDX-License-Identifier: LGPL-2.1-or-later
"""A worker's own life: fds 0 to 2 let go, one job done, and its words said over a pipe.

Each is a line of JSON: ``doing`` or ``extend``, at last ``done`` or ``failed``. Source:
libvirt src/util/vircommand.c, which waits for the end of file on a hook's stdout *and* stderr, so
a worker that never returns from the kernel must not hold them.
"""

import fcntl
import json
import os
from collections.abc import Iterable
from typing import NoReturn

from ..bdf import Bdf
from ..errors import HookError, Stuck
from ..host import Job


def doing(what: str) -> None:
    """In a worker: tell what comes next. Elsewhere: nothing.

    :raises Stuck: whoever waited for this worker is dead. Said once, to let go in good order.
    """
    if _voice is not None:
        _voice.say(doing=what)


def extend(seconds: float) -> None:
    """In a worker: tell that it ends within *seconds* from now, and not sooner.

    :raises Stuck: as ``doing``.
    """
    if _voice is not None:
        _voice.say(extend=seconds)


class _Voice:
    # A worker's end of the pipe.

    def __init__(self, bdf: Bdf, fd: int) -> None:
        self.bdf = bdf
        self.fd = fd

    def say(self, **words: object) -> None:
        global _voice
        try:
            os.write(self.fd, json.dumps(words).encode() + b"\n")
        except BrokenPipeError as error:
            # Nobody would end us if we got stuck now. Only once: the clean-up that the exception
            # sets off speaks as well, and has to come through.
            _voice = None
            raise Stuck(f"{self.bdf}: the hook that started this worker is gone") from error


_voice: _Voice | None = None


def work(bdf: Bdf, job: Job, out: int, others: Iterable[int]) -> NoReturn:
    """Do all of a worker's life, and end the process: it must never return into the hook.

    :param out: the pipe's writing end.
    :param others: descriptors that belong to the parent alone.
    """
    global _voice
    status = 1
    try:
        # A sibling's reading end kept open here would hide the parent's death from that sibling.
        for fd in others:
            os.close(fd)
        out = fcntl.fcntl(out, fcntl.F_DUPFD_CLOEXEC, 3)  # clear of 0, 1 and 2, were they closed
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        _voice = _Voice(bdf, out)
        words = _outcome(bdf, job)
        if _voice is not None:
            _voice.say(**words)
            status = 0
    finally:
        os._exit(status)


def _outcome(bdf: Bdf, job: Job) -> dict[str, object]:
    try:
        return {"done": job(bdf)}
    except HookError as error:
        plain = {k: v for k, v in vars(error).items() if isinstance(v, str | int | float | None)}
        return {"failed": type(error).__name__, "facts": plain}
    except BaseException as error:  # this process's entry point: a defect of ours ends here
        import logging  # only here: it costs more than all the rest

        logging.getLogger(__name__).error("%s: worker failed", bdf, exc_info=True)
        facts = {"message": f"{bdf}: {type(error).__name__}: {error}", "hint": ""}
        return {"failed": HookError.__name__, "facts": facts}
