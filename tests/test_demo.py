# SPDX-License-Identifier: LGPL-2.1-or-later
"""The demo: its verdict, its colours, and its picture in the README."""

import io
import re
from pathlib import Path

import pytest

from libvirt_hooks import demo, hook
from tools.picture import PICTURES, draw

README = Path(__file__).parent.parent / "README.md"


def played(*, colour: bool = False) -> tuple[int, str]:
    out = io.StringIO()
    status = demo.demo(out, colour)
    return status, out.getvalue()


def test_the_verdict_has_two_rows() -> None:
    status, text = played()
    assert status == 0
    assert [re.split(r" {2,}", line) for line in text.splitlines()[-2:]] == [
        ["without the hook", "DEAD until a reboot", "alive, back on nvme", "1"],
        ["with the hook", "alive, back on nvme", "alive, back on nvme", "0"],
    ]


def test_a_hook_that_does_nothing_fails_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "main", lambda *_: 0)
    status, text = played()
    assert status == 1
    assert text.count("DEAD until a reboot") == 2


def test_the_hook_really_runs_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, bytes]] = []
    real = hook.main

    def spy(argv: list[str], xml: bytes, host: object) -> int:
        calls.append((argv[2], xml))
        return real(argv, xml, host)  # type: ignore[arg-type]

    monkeypatch.setattr(hook, "main", spy)
    played()
    assert [name for name, _ in calls] == ["prepare", "start", "started", "stopped", "release"]
    assert all(b"<hostdev mode='subsystem' type='pci' managed='yes'>" in xml for _, xml in calls)


def test_colour_is_for_terminals() -> None:
    assert "\x1b[" not in played()[1]
    plain = re.sub(r"\x1b\[\d+m", "", played(colour=True)[1])
    assert plain == played()[1]


def test_every_saying_is_said() -> None:
    """A pattern that fits nothing has lost its event."""
    silent = {"gives QEMU up", r"\1"}
    text = played()[1]
    for words in demo.SAYINGS:
        literal = re.split(r"\\1", words.said)[0]
        assert literal in text or words.said in silent, words


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: str(path.name))
def test_the_pictures_are_of_what_is_printed(path: Path) -> None:
    drawn = draw(PICTURES[path]())
    assert path.read_text() == drawn, "draw it again: python -m tools.picture"


def test_the_readme_shows_each_picture() -> None:
    shown = re.findall(r"!\[.*?\]\(docs/(.*?)\)", README.read_text())
    assert shown == ["commands.svg", "demo.svg"]
