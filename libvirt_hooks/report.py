# SPDX-License-Identifier: LGPL-2.1-or-later
"""A report about one controller: what is known of it, in one text to attach to a bug.

What it is made of comes from the command; here is what is asked of the host, and the form. Reads
only, as ``show`` does.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from . import config_space, pci
from .bdf import Bdf
from .deadline import Deadline
from .errors import HookError
from .host import Host
from .known import PATIENCE
from .policy import Policy
from .work import locked

SPACE = 4096

Sections = Mapping[str, Iterable[str]]
"""Lines by title."""

_DRIVERS = re.compile(r"(?:\[[^]]*\] )?(?:nvme|vfio)", re.A)
_NOT_FOR_US = re.compile(r"command line:|\baudit\b|\bnqn\b|\bt?r?addr\b", re.I)
"""A command line may have a key in it; fabrics name hosts."""


def configuration(host: Host, policy: Policy, bdf: Bdf, with_serial: bool = False) -> list[str]:
    """Return the lines about configuration space, or why there are none."""
    # By a worker: a drive that hangs may keep who reads it in the kernel.
    job = partial(_read, host, policy)
    result = host.each([bdf], job, Deadline(host.monotonic, PATIENCE))[bdf]
    if isinstance(result, HookError):
        return [f"not read: {result.message.removeprefix(f'{bdf}: ')}"]
    config = bytes.fromhex(result)
    found = ", ".join(map(str, config_space.capabilities(config))) or "none"
    hidden = () if with_serial else config_space.serial_number(config)
    return [f"capabilities: {found}", *config_space.dump(config, hidden)]


def _read(host: Host, policy: Policy, bdf: Bdf) -> str:
    with locked(host, bdf, policy, Deadline(host.monotonic, PATIENCE), ()):
        header = host.read_config(bdf, 0, 64)
        # Of one that is gone each word may take the kernel's time-out.
        rest = b"" if pci.word(header) == pci.NOBODY else host.read_config(bdf, 64, SPACE - 64)
        return (header + rest).hex()


def about(kernel: Iterable[str], bdf: Bdf) -> list[str]:
    """Return the kernel's lines that name the controller, and those of nvme and vfio."""
    return [
        line
        for line in kernel
        if (str(bdf) in line or _DRIVERS.match(line)) and not _NOT_FOR_US.search(line)
    ]


def compose(title: str, notes: Iterable[str], sections: Sections) -> str:
    """Return the text."""
    return "\n".join(_lines(title, notes, sections)) + "\n"


def _lines(title: str, notes: Iterable[str], sections: Sections) -> Iterator[str]:
    yield title
    yield from notes
    for name, lines in sections.items():
        yield from ("", f"== {name} ==")
        yield from list(lines) or ["nothing"]
