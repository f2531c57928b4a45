# SPDX-License-Identifier: LGPL-2.1-or-later
"""A worker's own life: fds 0 to 2 let go, its jobs done, and their words said over a pipe.

Each is a line of JSON about one controller: ``doing`` or ``extend``, at last ``done`` or
``failed``. Source: libvirt src/util/vircommand.c, which waits for the end of file on a hook's
stdout *and* stderr, so a worker that never returns from the kernel must not hold them.
"""

import fcntl
import gc
import os
import threading
from collections.abc import Iterable, Sequence
from typing import NoReturn

from ..bdf import Bdf
from ..errors import HookError, Stuck
from ..host import Job


def doing(what: str) -> None:
    """In a worker: tell what comes next. Elsewhere: nothing.

    :raises Stuck: whoever waited for this worker is dead. Said once, to let go in good order.
    """
    if voice := _voice():
        voice.say(doing=what)


def extend(seconds: float) -> None:
    """In a worker: tell that it ends within *seconds* from now, and not sooner.

    :raises Stuck: as ``doing``.
    """
    if voice := _voice():
        voice.say(extend=seconds)


class _Voice:
    # A job's end of the pipe. Its worker's other jobs have the same one.

    def __init__(self, bdf: Bdf, fd: int, turn: threading.Lock) -> None:
        self.bdf = bdf
        self.fd = fd
        self.turn = turn

    def say(self, **words: object) -> None:
        import json  # who started this worker has loaded it

        line = json.dumps({"bdf": str(self.bdf), **words}).encode() + b"\n"
        try:
            with self.turn:  # a line that is longer than PIPE_BUF goes in pieces
                os.write(self.fd, line)
        except BrokenPipeError as error:
            # Nobody would end us if we got stuck now. Only once: the clean-up that the exception
            # sets off speaks as well, and has to come through.
            _own.voice = None
            raise Stuck(f"{self.bdf}: the hook that started this worker is gone") from error


_own = threading.local()


def _voice() -> _Voice | None:
    voice: _Voice | None = getattr(_own, "voice", None)
    return voice


def work(bdfs: Sequence[Bdf], job: Job, out: int, others: Iterable[int]) -> NoReturn:
    """Do all of a worker's life, and end the process: it must never return into the hook.

    :param bdfs: mostly one; more get a thread each.
    :param out: the pipe's writing end.
    :param others: descriptors that belong to the parent alone.
    """
    status = 1
    # A collection would write to every object, and so copy every page of the parent: of 64
    # workers each took 12 ms for that, and 2 ms without.
    gc.disable()
    try:
        # A sibling's reading end kept open here would hide the parent's death from that sibling.
        for fd in others:
            os.close(fd)
        out = fcntl.fcntl(out, fcntl.F_DUPFD_CLOEXEC, 3)  # clear of 0, 1 and 2, were they closed
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        turn = threading.Lock()
        first, *more = (_Voice(bdf, out, turn) for bdf in bdfs)
        threads = [threading.Thread(target=_speak, args=(each, job)) for each in more]
        for thread in threads:
            thread.start()
        _speak(first, job)
        for thread in threads:
            thread.join()
        status = 0
    finally:
        os._exit(status)


def _speak(voice: _Voice, job: Job) -> None:
    _own.voice = voice
    words = _outcome(voice.bdf, job)
    if _voice() is not None:
        voice.say(**words)


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
