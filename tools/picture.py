# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/demo.svg: what `make demo` prints on a terminal, drawn. Run: python -m tools.picture."""

import io
import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

from libvirt_hooks.demo import demo

PICTURE = Path(__file__).parent.parent / "docs" / "demo.svg"
STYLES = {
    "1": "fill:#ffffff;font-weight:bold",
    "31": "fill:#ff6b6b;font-weight:bold",
    "32": "fill:#69db7c",
    "36": "fill:#66d9e8",
}
"""SGR parameter to CSS."""
WIDTH, LINE, MARGIN = 8.0, 17, 14
"""Pixels: a character of the 13 px monospace font, a line, the border."""

SGR = re.compile(r"\x1b\[(\d+)m(.*?)\x1b\[0m")


def draw() -> str:
    """Return the picture of a demo run now."""
    printed = io.StringIO()
    demo(printed, colour=True)
    lines = printed.getvalue().strip("\n").split("\n")
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
    PICTURE.write_text(draw())
    print(f"{PICTURE.name}: drawn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
