# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/troubleshooting.md has a row for every message, and no row for a message that nobody says.

What is said is found twice: heard while other tests run, on the simulator or by the functions that
say it; and read from the source, every HookError and every warning of the journal.
"""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import libvirt_hooks
from libvirt_hooks import errors
from libvirt_hooks.errors import HookError
from libvirt_hooks.ladder import Method

from . import saying

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs" / "troubleshooting.md"
README = TESTS.parent / "README.md"
PACKAGE = Path(libvirt_hooks.__file__).parent
SPEAKING = (
    "admission",
    "cli",
    "config",
    "domains",
    "files",
    "hook",
    "install",
    "keeper",
    "keepers",
    "lifecycle",
    "linux_checkup",
    "linux_detached",
    "linux_events",
    "linux_locks",
    "linux_policy_file",
    "linux_qemu",
    "linux_records",
    "linux_sysfs",
    "linux_whose",
    "linux_workers",
    "listing",
    "metrics",
    "modes",
    "planning",
    "races",
    "recovery",
    "reenumerate",
    "report",
    "reset",
    "uninstall",
)
"""The tests in which the package says all that the table has."""
MESSAGE = re.compile(r"`([^`]*)`")
PLACEHOLDERS = {
    "BDF": r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]",
    "UUID": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "METHOD": f"(?:{'|'.join(Method)})",
    "N": r"[0-9]+(?:\.[0-9]+)?",
    "…": r".*",
}
BDF, UUID, ANYTHING = "0000:01:00.0", "0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11", "7"
GUESSES = {"where": "", "root": "/run/virt-nvme-reset", "device.who": "QEMU 7: descriptor 7"}
"""What stands in a message that is read from the source, for what is not known there."""

NAMES = {error for error in vars(errors) if isinstance(vars(errors)[error], type)}
FAMILY = {name for name in NAMES if issubclass(vars(errors)[name], HookError)} - {"SysfsError"}
"""SysfsError makes its message itself: *who: what: the kernel's word*."""

INTERNAL = {
    "7": "what somebody else has worded: a message of another error, or of libvirt",
    "address 7: not a number: 7 against 10, 0xa or 012 (octal)": "behind 'domain XML: line N:'",
    "address 7: too large: 7 against at most 7": "behind 'domain XML: line N:'",
    "7: 7: 77": "behind 'registers cannot be read:'",
    "7: 7: 7": "behind 'registers cannot be read:'",
    "7: mapping resource0: BAR0 is below 4096 B": "behind 'registers cannot be read:'",
    "7: BAR0 is below 4096 B": "behind 'registers cannot be read:'",
    "7: reading BAR0 at 7: 7 B of 4": "behind 'registers cannot be read:'",
    "7: writing BAR0 at 7: 7 B of 4": "behind 'registers cannot be read:'",
    f"{BDF}: IOMMU group 7: not viable": "behind 'registers cannot be read:'",
    f"{BDF}: 7: 7": "behind 'registers cannot be read:'",
    f"{BDF}: the hook that started this worker is gone": "nobody is left to be told",
    f"{BDF}: may not 7: 7": "admission's: each of its rules has a row",
    "7: 7": "a file of metrics, behind 'no metrics:'",
}

APART = {
    "no keeper for this guest: reset_method alone guards its drives: …": PACKAGE / "linux/keeper.py"
}
"""Said by a process of its own, where nobody here hears it."""
OURS = re.compile(
    r"^address \w+: |the hook that started this worker is gone|^who: |^[^:]+$"
    r"|still taken after|not done after"
)
"""Said while tests run, and never to a user: internal, the simulator's, a test's."""
FIRST = (BDF, ANYTHING, "metrics", "QEMU 7: descriptor 7", "/etc/virt-nvme-reset.toml: 7")
"""What a line of the journal may begin with, where its format does not say."""
WORDED_ELSEWHERE = {"%s", "%s: %s", "%s: %s: %s", "%s failed: %s"}
"""Formats of the journal for what somebody else has worded; what they come to is said below."""


def rows() -> list[tuple[str, str, str]]:
    """Messages, meaning and advice of each row."""
    cells = [
        line.strip("|").split(" | ") for line in DOCS.read_text().splitlines() if line[:1] == "|"
    ]
    return [(row[0], row[1], row[2]) for row in cells if "`" in row[0]]


PATTERNS = [found for row in rows() for found in MESSAGE.findall(row[0])]


@cache
def pattern(message: str) -> re.Pattern[str]:
    parts = re.split(r"(\b(?:BDF|UUID|METHOD|N)\b|…)", message)
    return re.compile("".join(PLACEHOLDERS.get(part) or re.escape(part) for part in parts), re.S)


def is_covered(message: str) -> bool:
    return any(pattern(each).fullmatch(message) for each in PATTERNS)


def test_the_table_is_in_order() -> None:
    assert len(PATTERNS) == len(set(PATTERNS))
    assert all(meaning.strip() and advice.strip() for _, meaning, advice in rows())


def test_the_five_of_the_readme_are_rows() -> None:
    text = README.read_text().partition("\n## Troubleshooting\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    found = [MESSAGE.findall(line.strip("|").split(" | ")[0]) for line in lines]
    assert len(found) == 5
    assert {message for each in found for message in each} <= set(PATTERNS)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Every message that the package says while it is tested by SPEAKING."""
    path = tmp_path_factory.mktemp("said") / "messages"
    files = [str(TESTS / f"test_{name}.py") for name in SPEAKING]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.saying"]
    environment = {**os.environ, saying.FILE: str(path), "PYTHONPATH": str(TESTS.parent)}
    result = subprocess.run(
        [*command, "-o", "addopts=", *files],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    # One that fails, fails for itself as well.
    assert "passed" in result.stdout, result.stdout + result.stderr
    return sorted({json.loads(line) for line in path.read_text().splitlines()})


@pytest.mark.parametrize("message", PATTERNS)
def test_somebody_says_it(message: str, said: list[str]) -> None:
    if message in APART:
        assert APART[message].read_text().count(message.removesuffix(": …")) == 1
    else:
        assert any(pattern(message).fullmatch(each) for each in said)


def test_what_was_said_has_a_row(said: list[str]) -> None:
    """Behind the operation, and before the hint, where the journal has them."""
    messages = [re.sub(r"^\w+ failed: | \(hint: .*\)$", "", each) for each in said]
    assert [each for each in messages if not is_covered(each) and not OURS.search(each)] == []


class Source(ast.NodeVisitor):
    """Every message in a module, with what stands for what is not known."""

    def __init__(self, module: ModuleType, names: Callable[[ast.Call], ast.expr | None]) -> None:
        self._module = module
        self._names = names
        self._function: ast.AST = ast.Module([], [])
        self.found: list[str] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self._function = self._function, node
        self.generic_visit(node)
        self._function = outer

    def visit_Call(self, node: ast.Call) -> None:
        wanted = self._names(node)
        if wanted is not None:
            self.found.append(self._text(wanted))
        self.generic_visit(node)

    def _text(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(str(text)):
                return text
            case ast.JoinedStr(values):
                return "".join(map(self._text, values))
            case ast.FormattedValue(value):
                return self._text(value)
            case ast.Name(name) | ast.Attribute(attr=name) if name.isupper():
                return str(eval(ast.unparse(node), vars(self._module)))
            case ast.Name(name):
                return self._assigned(name)
            case _:
                return self._guess(ast.unparse(node))

    def _assigned(self, name: str) -> str:
        for each in ast.walk(self._function):
            match each:
                case ast.Assign([ast.Name(target)], ast.JoinedStr() as value) if target == name:
                    if f"{{{name}}}" not in ast.unparse(value):
                        return self._text(value)
        return self._guess(name)

    def _guess(self, source: str) -> str:
        name = source.rpartition(".")[2].lower()
        if name.endswith("bdf"):
            return BDF
        return UUID if name.endswith(("uuid", "owner")) else GUESSES.get(source, ANYTHING)


def error(node: ast.Call) -> ast.expr | None:
    """The message of an error that is made."""
    name = ast.unparse(node.func)
    return node.args[0] if name in FAMILY and node.args else None


def warning(node: ast.Call) -> ast.expr | None:
    """The message of a warning, or worse, that is logged."""
    match node.func:
        case ast.Attribute(ast.Name("log"), "warning" | "error"):
            return node.args[0]
        case ast.Attribute(ast.Call(), "warning" | "error"):
            return node.args[0]
        case ast.Name("_warn"):
            return node.args[0]
    return None


def modules() -> Iterator[tuple[ModuleType, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE).with_suffix("")
        if inside.parts[0] != "simulator" and inside.name not in ("__init__", "keep"):
            name = ".".join(("libvirt_hooks", *inside.parts))
            yield import_module(name), ast.parse(path.read_text())


def found(names: Callable[[ast.Call], ast.expr | None]) -> set[str]:
    texts: set[str] = set()
    for module, tree in modules():
        source = Source(module, names)
        source.visit(tree)
        texts.update(source.found)
    return texts


def test_every_error_has_a_row() -> None:
    uncovered = {text for text in found(error) if not is_covered(text)}
    assert uncovered - INTERNAL.keys() == set()
    assert INTERNAL.keys() - uncovered == set(), "no longer there"


def test_every_warning_has_a_row() -> None:
    uncovered = set()
    for text in found(warning) - WORDED_ELSEWHERE:
        rest = re.sub(r"(?<!^)%[sr]", ANYTHING, text)
        if not any(is_covered(re.sub(r"^%s", who, rest)) for who in FIRST):
            uncovered.add(text)
    assert uncovered == set()
