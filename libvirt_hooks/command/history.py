# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset history`: what the hook did."""

import os
from argparse import Namespace
from collections.abc import Iterator

from .. import history
from ..host import Host
from ..linux import events, logfile
from .names import find
from .output import BAD, TITLE, WARN, emit, paint
from .terminal import width


def run(arguments: Namespace, host: Host) -> int:
    """Print it.

    :raises HookError: what was typed names nothing, or the log may not be read.
    """
    bdf = None if arguments.bdf is None else find(host, arguments.bdf)
    found = events.find(arguments.lines, arguments.since, bdf)
    document = {"source": found.source, "events": [each.document for each in found.events]}
    emit(arguments, document, _lines(found))
    return 0


def _lines(found: events.Found) -> Iterator[str]:
    if not found.events:
        # journalctl shows a user what root did only where that user is of its group.
        why = "" if os.geteuid() == 0 else " that a user may see: run it as root"
        yield f"nothing in the journal, nor in {logfile.PATH}{why}"
        return
    # As systemctl does: whoever greps gets all of a line.
    for text, priority in history.lines(found.events, width()):
        yield _painted(text, priority)


def _painted(text: str, priority: int | None) -> str:
    if priority is None:
        return paint(text, TITLE)
    if priority <= history.ERROR:
        return paint(text, BAD)
    return paint(text, WARN) if priority <= history.WARNING else text
