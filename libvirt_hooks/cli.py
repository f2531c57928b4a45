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
    arguments = parser.parse(sys.argv[1:] if argv is None else argv)
    verb = import_module(f".command.{parser.module(arguments.verb)}", __package__)
    try:
        status: int = verb.run(arguments, this_machine())
        sys.stdout.flush()
        return status
    except HookError as error:
        output.complain(error)
        return error.exit_status
    except KeyboardInterrupt:
        return 130  # as a shell calls a death by SIGINT
    except BrokenPipeError:
        # The reader has seen enough; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
