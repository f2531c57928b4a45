# SPDX-License-Identifier: LGPL-2.1-or-later
"""virt-nvme-reset, the command. Exit status: 0 done, 1 refused or failed, 2 wrong usage."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from .command import output, parser
from .errors import HookError

if TYPE_CHECKING:
    from .host import Host


def this_machine() -> "Host":
    """Return the machine that the verbs are about."""
    from .linux.host import LinuxHost  # --help needs none

    return LinuxHost()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit status."""
    _open_what_is_closed()
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except HookError as error:
        output.complain(error)
        return error.exit_status
    except KeyboardInterrupt:
        return 130  # as a shell calls a death by SIGINT
    except BrokenPipeError:
        _say_no_more()  # the reader has seen enough
        return 0
    except OSError as error:
        if error.filename is None:
            _say_no_more()
        who = error.filename or "standard output: writing"
        output.complain(HookError(f"{who}: {error.strerror or error}"))
        return 1


def _run(argv: Sequence[str]) -> int:
    try:
        arguments = parser.parse(argv)
        verb = import_module(f".command.{parser.module(arguments.verb)}", __package__)
        status: int = verb.run(arguments, this_machine())
        return status
    finally:
        sys.stdout.flush()  # also of --help; here an error is told, at Python's end it is not


def _open_what_is_closed() -> None:
    """No file of ours may be one of the first three descriptors: workers let go of those."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def _say_no_more() -> None:
    """Keep Python from complaining at exit of what it could not write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
