# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every source file says its licence, and the text of each is in LICENSES/."""

import re
from pathlib import Path

import pytest

from .test_linters import ROOT, tracked

SPDX = re.compile(r"SPDX-License-Identifier: ([\w.-]+)\s*(?:\*/|-#\})?\s*$", re.M)
NEAR_THE_TOP = 5
"""Lines: a #! or a #compdef has to be the first."""

TEXTS = {".md", ".svg", ".xml", ".json", ".txt", ".example"}
"""What is read, drawn or copied, and data of tests; the licence of the package is theirs, too."""
PLAIN = {
    ".gitignore",
    "packaging/debian/changelog",
    "packaging/debian/copyright",
    "packaging/debian/source/format",
    "packaging/debian/virt-nvme-reset.lintian-overrides",
}
"""Formats that have no room for it, or that say it in another way."""


def sources() -> list[Path]:
    names = ((path, str(path.relative_to(ROOT))) for path in tracked())
    return [path for path, name in names if path.suffix not in TEXTS and name not in PLAIN]


def licence(path: Path) -> str:
    found = SPDX.search("\n".join(path.read_text().splitlines()[:NEAR_THE_TOP]))
    assert found, "no SPDX-License-Identifier"
    return found[1]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_it_says_its_licence(path: Path) -> None:
    expected = "LGPL-2.1-or-later"
    if path.parts[-2] == "double":
        expected = "GPL-2.0-only"  # a kernel module
    elif path.parts[-2] == "completions":
        expected = "Apache-2.0"  # shtab's own functions are in it
    assert licence(path) == expected


def test_the_text_of_every_licence_is_there() -> None:
    named = {licence(path) for path in sources()}
    assert {path.stem for path in (ROOT / "LICENSES").iterdir()} == named
