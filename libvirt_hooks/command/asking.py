# SPDX-License-Identifier: LGPL-2.1-or-later
"""Asking a person before something is done."""

import sys

from ..errors import HookError

YES = ("y", "yes")


def confirmed(question: str, unasked: HookError) -> bool:
    """Ask; whatever is no yes is a no.

    :raises HookError: *unasked*, where stdin is no terminal.
    """
    if not sys.stdin.isatty():
        raise unasked
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in YES
