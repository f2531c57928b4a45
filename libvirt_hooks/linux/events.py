# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where events are found: in the journal, else in the log of our own; and the kernel's lines.

Source: journalctl(1). What a match names is asked of root's lines only: anybody may log under our
name.
"""

import re
from collections import deque
from datetime import datetime
from typing import NamedTuple

from ..bdf import Bdf
from ..errors import BadName, SysfsError
from ..history import FIELDS, Event, parse
from . import logfile, tools
from .journald import IDENTIFIER

JOURNALCTL = ("/usr/bin/journalctl", "/bin/journalctl")
DMESG = ("/usr/bin/dmesg", "/bin/dmesg")
LOOK_BACK = 5000
"""Lines to look through for those about one controller."""
JOURNAL = "journal"

_HOST = re.compile(r"^(\[[^]]*\] )\S+ kernel: ")
"""What journalctl puts before a line of the kernel: as dmesg has it, there is no name in it."""
_FIELDS = ("MESSAGE", "PRIORITY", "ELAPSED_MS", *FIELDS.values())


class Found(NamedTuple):
    """Events, the oldest first, and where they were."""

    source: str | None
    """``journal``, a path, or None: nothing was anywhere."""
    events: tuple[Event, ...]


def find(most: int, since: str | None = None, bdf: Bdf | None = None) -> Found:
    """Return the last events, *most* of them at most.

    :param bdf: only those about this controller, of the last LOOK_BACK.
    :raises BadName: *since* is no time.
    :raises SysfsError: the log of our own may not be read.
    """
    sources = ((JOURNAL, _journal), (logfile.PATH, _own))
    for source, read in sources:
        wanted: deque[Event] = deque(maxlen=most)
        for line in read(LOOK_BACK if bdf is not None else most, since):
            event = parse(line)
            if event is not None and (bdf is None or event.concerns(bdf)):
                wanted.append(event)
        if wanted:
            return Found(source, tuple(wanted))
    return Found(None, ())


def kernel() -> list[str]:
    """Return the kernel's lines of this boot, the last LOOK_BACK; empty if nobody tells."""
    said = _journalctl("-k", "-b", "-o", "short-monotonic", "-n", str(LOOK_BACK))
    if said is not None and said.out:
        return [_HOST.sub(r"\1", line) for line in said.out.splitlines()]
    program = tools.find(DMESG)
    said = tools.run([program]) if program else None
    return said.out.splitlines()[-LOOK_BACK:] if said else []


def _journal(most: int, since: str | None) -> list[str]:
    asked = ["-t", IDENTIFIER, "-o", "json", f"--output-fields={','.join(_FIELDS)}", f"-n{most}"]
    said = _journalctl(*asked, *([f"--since={since}"] if since else []), "_UID=0")
    if said is None:
        return []
    if said.status and since and "parse timestamp" in said.error:
        raise BadName(f"--since: {said.error.strip()}", "man systemd.time says how to write it")
    return said.out.splitlines()


def _journalctl(*arguments: str) -> tools.Said | None:
    program = tools.find(JOURNALCTL)
    return tools.run([program, "--no-pager", "-q", *arguments]) if program else None


def _own(most: int, since: str | None) -> list[str]:
    try:
        found = deque(logfile.lines(logfile.PATH))
    except OSError as error:
        raise SysfsError(logfile.PATH, "reading", error.errno or 0) from error
    if since is None or not found:
        return list(found)[-most:]
    begin = _timestamp(since)
    return [line for line in found if (event := parse(line)) and event.time >= begin][-most:]


def _timestamp(since: str) -> float:
    try:
        return datetime.fromisoformat(since).timestamp()
    except ValueError:
        why = "without a journal, expected a time such as 2025-03-01 or '2025-03-01 10:00'"
        raise BadName(f"--since: {since!r}: {why}") from None
