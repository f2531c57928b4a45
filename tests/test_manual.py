# SPDX-License-Identifier: LGPL-2.1-or-later
"""The man pages: made of what the code says now, nothing forgotten, and mdoc that is clean."""

import shutil
import subprocess
from pathlib import Path

import pytest

from libvirt_hooks import journal, keepers, lifecycle, marks, policy, policy_file
from libvirt_hooks.command.parser import VERBS
from libvirt_hooks.errors import BadPolicy
from tools import manual

PAGES = ("virt-nvme-reset-hook.7", "virt-nvme-reset.8", "virt-nvme-reset.toml.5")
HOOK, COMMAND, POLICY = PAGES
MADE = manual.pages()

needs_mandoc = pytest.mark.skipif(shutil.which("mandoc") is None, reason="no mandoc")


def path(name: str) -> Path:
    return manual.FOLDER / name


def shown(name: str) -> str:
    """A page as a terminal shows it, in bare letters and on one line."""
    command = ["mandoc", "-T", "ascii", "-O", "width=400", str(path(name))]
    page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    letters: list[str] = []
    for letter in page:
        if letter == "\b":  # a letter printed twice is a bold one
            letters.pop()
        else:
            letters.append(letter)
    return " ".join("".join(letters).split())


def test_every_page_has_its_template() -> None:
    assert tuple(sorted(MADE)) == PAGES


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_that_of_the_code(name: str) -> None:
    assert path(name).read_text() == MADE[name], "run: python -m tools.manual"


@pytest.mark.parametrize("name", PAGES)
def test_no_part_is_left_to_be_made(name: str) -> None:
    assert "@" not in MADE[name]


@needs_mandoc
@pytest.mark.parametrize("name", PAGES)
def test_mandoc_has_nothing_to_say(name: str) -> None:
    command = ["mandoc", "-T", "lint", "-W", "warning", str(path(name))]
    linted = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (linted.stdout, linted.returncode) == ("", 0)


@needs_mandoc
def test_every_verb_and_option_is_shown() -> None:
    page = shown(COMMAND)
    for verb in VERBS:
        assert f"virt-nvme-reset {verb.name}" in page
        for argument in verb.arguments:
            name = argument.names[-1]
            assert name in page or str(argument.settings.get("metavar")) in page


@needs_mandoc
def test_every_key_is_shown() -> None:
    page = shown(POLICY)
    for key in (*policy_file._FILE, *policy_file._DRIVE):
        assert key in page
    for key in policy_file._DRIVE:
        assert f" {key} = " in page
    assert f'mode = "{policy.Mode.ENFORCE}" | "{policy.Mode.OBSERVE}" | "{policy.Mode.OFF}"' in page
    assert 'deny = ["144d:a802", "0000:03:00.0"]' in page


@pytest.mark.parametrize(
    "text, most",
    [
        pytest.param("deadline_cap = {}", manual.LIMITS["Policy"][1], id="a deadline"),
        pytest.param(
            '[drive."144d:a802"]\nsettle_after_reset = {}', manual.LIMITS["Drive"][1], id="a pause"
        ),
    ],
)
def test_the_limits_are_those_that_hold(text: str, most: float) -> None:
    policy_file.parse(text.format(most))
    with pytest.raises(BadPolicy):
        policy_file.parse(text.format(most + 1))


def test_the_example_is_a_policy() -> None:
    source = path(POLICY).read_text().split(".Sh EXAMPLES")[1]
    example = source.split(".Bd -literal -offset indent\n")[1].split(".Ed")[0]
    found = policy_file.parse(example)
    assert (found.deadline, list(found.drives)) == (30, ["1234:5678"])


def test_every_operation_and_record_is_in_the_page_of_the_hook() -> None:
    page = path(HOOK).read_text()
    for operation, suboperation in lifecycle.HANDLERS:
        assert f".It Cm {operation} {suboperation}\n" in page
    folders = (journal.OWNERS, journal.JOURNAL, keepers.KEEPERS, marks.DEAD, marks.STUCK, "locks")
    for folder in folders:
        assert f".It Pa {folder}/" in page


def test_every_field_of_the_journal_is_in_the_page_of_the_hook() -> None:
    page = path(HOOK).read_text()
    package = Path(lifecycle.__file__).parent
    sources = "".join(each.read_text() for each in package.glob("*.py"))
    for field in ("DOMAIN_UUID", "OPERATION", "PCI_BDF", "METHOD", "ELAPSED_MS"):
        assert field in sources and field in page
    for register in ("CC", "CSTS"):
        assert f'f"{register}_{{when}}"' in sources
        assert f"{register}_BEFORE" in page and f"{register}_AFTER" in page
