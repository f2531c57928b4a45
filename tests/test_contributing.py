# SPDX-License-Identifier: LGPL-2.1-or-later
"""CONTRIBUTING.md says what is there: the modules, the commands, the files that it names."""

import re
from pathlib import Path

import pytest

from tools import code_map

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_map_is_that_of_the_code() -> None:
    assert code_map.drawn(TEXT) == TEXT, "run: python -m tools.code_map"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, re.M))))
def test_make_knows_it(target: str) -> None:
    assert target in re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)


NAMED = re.findall(r"`((?:tests|tools|libvirt_hooks|packaging|hooks|bin|LICENSES)/[\w./-]*)`", TEXT)


@pytest.mark.parametrize("path", sorted(set(NAMED)))
def test_the_file_is_there(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m (tools\.\w+)", TEXT))))
def test_the_tool_is_there(module: str) -> None:
    assert (ROOT / f"{module.replace('.', '/')}.py").exists()


def test_the_mutant_still_is_one() -> None:
    line, module = re.findall(r"sed -i 's/(.*?)/.*?/' (\S+)", TEXT)[0]
    assert line in (ROOT / module).read_text()
