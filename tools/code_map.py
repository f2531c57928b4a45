# SPDX-License-Identifier: LGPL-2.1-or-later
"""CONTRIBUTING.md's map of the code, of the modules' own first words.

Run: python -m tools.code_map. The order is that of tests/test_layers.py, from the leaves up; what
is in a folder comes below it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.test_layers import LAYERS, PACKAGE

GUIDE = PACKAGE.parent / "CONTRIBUTING.md"
BEGIN, END = "<!-- made by tools/code_map.py -->", "<!-- made until here -->"


def drawn(guide: str) -> str:
    """Return the guide with the map of now."""
    before, rest = guide.split(BEGIN)
    _, after = rest.split(END)
    return "\n".join([f"{before}{BEGIN}", "", *_rows(), "", f"{END}{after}"])


def _rows() -> Iterator[str]:
    yield "| module | what it owns |"
    yield "|---|---|"
    for layer in LAYERS:
        for name in layer:
            folder = PACKAGE / name
            if folder.is_dir():
                yield _row(f"**{name}/**", folder / "__init__.py")
                inside = sorted(path for path in folder.glob("*.py") if path.stem != "__init__")
                yield from (_row(f"{name}/{path.stem}", path) for path in inside)
            elif name != "__init__":
                yield _row(name, PACKAGE / f"{name}.py")


def _row(name: str, path: Path) -> str:
    words = ast.get_docstring(ast.parse(path.read_text())) or ""
    first = re.split(r"\n\n|(?<=[.?]) (?=[A-Z])|(?<=[.?])\n", words)[0]
    return f"| {name} | {_safe(' '.join(first.split()).replace('``', '`'))} |"


def _safe(text: str) -> str:
    """Markdown takes <words> for HTML, except in code."""
    parts = text.replace("|", "/").split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


if __name__ == "__main__":
    GUIDE.write_text(drawn(GUIDE.read_text()))
