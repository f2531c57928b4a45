# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is printed on a terminal, drawn: docs/demo.svg and docs/commands.svg, for the README.

What they show is printed by the tool itself, on simulated machines. Run: python -m tools.picture.
"""

import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from html import escape
from pathlib import Path
from unittest.mock import patch

from libvirt_hooks import cli, hook
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.command import listing
from libvirt_hooks.command import plan as planned
from libvirt_hooks.demo import demo
from libvirt_hooks.domain import parse
from libvirt_hooks.keeper import Keeper
from libvirt_hooks.simulator.domain_xml import Assigned, domain_xml
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID, Life
from libvirt_hooks.simulator.models import ORDINARY, SM951, SM961

DOCS = Path(__file__).parent.parent / "docs"
STYLES = {
    "1": "fill:#ffffff;font-weight:bold",
    "31": "fill:#ff6b6b;font-weight:bold",
    "32": "fill:#69db7c",
    "33": "fill:#ffd43b",
    "36": "fill:#66d9e8",
}
"""SGR parameter to CSS."""
WIDTH, LINE, MARGIN = 8.0, 17, 14
"""Pixels: a character of the 13 px monospace font, a line, the border."""
COLUMNS = "112"
"""Of the terminal on which the commands are run: what they print of this machine is not cut."""

SGR = re.compile(r"\x1b\[(\d+)m(.*?)\x1b\[0m")
OTHER = "7c1d3b52-0f53-4a55-9a0e-5d0b6a1f9c21"
RUNNING, NEXT = Bdf.parse("0000:01:00.0"), Bdf.parse("0000:02:00.0")


class _Terminal(io.StringIO):
    """A stdout that takes colour."""

    def isatty(self) -> bool:
        return True


def life() -> str:
    """What `make demo` prints."""
    printed = io.StringIO()
    demo(printed, colour=True)
    return printed.getvalue()


def commands() -> str:
    """What `list` and `plan` print: a guest runs, and another one is about to."""
    host = _machine()
    domain = parse(domain_xml("vault", OTHER, [Assigned(NEXT)]))
    printed = _Terminal()
    with (
        patch.object(cli, "this_machine", lambda: host),
        patch.object(listing, "known_guests", lambda host: {UUID: "web01"}),
        patch.object(planned, "chosen", lambda arguments: domain),
        patch.dict(os.environ, {"COLUMNS": COLUMNS}),
        redirect_stdout(printed),
    ):
        os.environ.pop("NO_COLOR", None)
        for argv in (["list"], ["plan", domain.name]):
            print(f"\x1b[1m# virt-nvme-reset {' '.join(argv)}\x1b[0m")
            cli.main(argv)
            print()
    return printed.getvalue()


def _machine() -> SimHost:
    host = SimHost()
    for bdf in (RUNNING, NEXT):
        host.add(bdf, SM951)
    host.add("0000:03:00.0", SM961, driver="vfio-pci")
    host.add("0000:04:00.0", ORDINARY, mounted="/srv")
    host.keeper = Keeper
    Life(host, [(RUNNING, True)], hook.main).start()
    return host


PICTURES: dict[Path, Callable[[], str]] = {
    DOCS / "demo.svg": life,
    DOCS / "commands.svg": commands,
}


def draw(printed: str) -> str:
    """Return the picture of a terminal on which this was *printed*."""
    lines = printed.strip("\n").split("\n")
    longest = max(len(SGR.sub(r"\2", line)) for line in lines)
    width, height = longest * WIDTH + 2 * MARGIN, len(lines) * LINE + 2 * MARGIN
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve"'
        f' width="{width:.0f}" height="{height}"'
        ' font-family="ui-monospace,Menlo,Consolas,monospace" font-size="13">'
        "<style>text{fill:#ced4da}</style>"
        '<rect width="100%" height="100%" rx="6" fill="#16191d"/>'
    )
    texts = (
        f'<text x="{MARGIN}" y="{MARGIN + LINE * (at + 0.75):.0f}">{"".join(_spans(line))}</text>'
        for at, line in enumerate(lines)
        if line
    )
    return "\n".join([head, *texts, "</svg>", ""])


def _spans(line: str) -> Iterator[str]:
    at = 0
    for found in SGR.finditer(line):
        yield escape(line[at : found.start()])
        yield f'<tspan style="{STYLES[found[1]]}">{escape(found[2])}</tspan>'
        at = found.end()
    yield escape(line[at:])


def main() -> int:
    for path, printed in PICTURES.items():
        path.write_text(draw(printed()))
        print(f"{path.name}: drawn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
