# SPDX-License-Identifier: LGPL-2.1-or-later
"""The log of our own on a real disk: small, private, and in nobody's way."""

import json
import os
import stat
from pathlib import Path

import pytest

from libvirt_hooks.history import parse
from libvirt_hooks.linux import logfile

FIELDS = {"MESSAGE": "x", "PRIORITY": "6", "OPERATION": "start"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own.log"


def append(path: Path, **fields: str) -> None:
    logfile.append({**FIELDS, **fields}, str(path))


def messages(path: Path) -> list[str]:
    events = [parse(line) for line in logfile.lines(str(path))]
    return [event.message for event in events if event is not None]


def test_what_is_written_is_read_back(path: Path) -> None:
    append(path, MESSAGE="one\ntwo é \udcff")
    append(path, MESSAGE="three")
    assert messages(path) == ["one\ntwo é \\xff", "three"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes().splitlines()) == 2


def test_no_file_is_no_events(path: Path) -> None:
    assert messages(path) == []


def test_it_never_grows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "LARGEST", 1000)
    for number in range(100):
        append(path, MESSAGE=str(number))
    assert sorted(os.listdir(path.parent)) == ["own.log", "own.log.1"]
    assert all(each.stat().st_size <= 1000 for each in path.parent.iterdir())
    kept = messages(path)
    assert kept == [str(number) for number in range(100 - len(kept), 100)]
    assert len(kept) > 8


def test_a_value_has_an_end(path: Path) -> None:
    append(path, MESSAGE="x" * 100_000)
    assert path.stat().st_size < 5000


def test_hooks_side_by_side_lose_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "LARGEST", 20_000)  # less than all: it turns once
    children = []
    for at in range(8):
        pid = os.fork()
        if pid == 0:
            for number in range(30):
                append(path, MESSAGE=f"{at} {number}")
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 8
    assert len(set(messages(path))) == 8 * 30


def test_one_that_has_turned_it_already_is_not_turned_again(path: Path) -> None:
    append(path)
    fd = os.open(path, os.O_WRONLY)
    os.rename(path, logfile.old(str(path)))
    assert logfile._rotate(fd, str(path))
    append(path, MESSAGE="new")
    assert logfile._rotate(fd, str(path))
    os.close(fd)
    assert messages(path) == ["x", "new"]


def test_one_that_another_is_turning_is_written_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    append(path)
    monkeypatch.setattr(logfile, "LARGEST", 10)
    fd = os.open(path, os.O_WRONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    append(path, MESSAGE="y")
    os.close(fd)
    assert messages(path) == ["x", "y"]
    assert os.listdir(path.parent) == ["own.log"]


@pytest.mark.parametrize("kind", ["link", "fifo", "read fifo", "directory", "no directory"])
def test_what_is_no_log_is_left_alone(path: Path, kind: str) -> None:
    other = path.parent / "other"
    other.write_text("")
    reader = -1
    match kind:
        case "link":
            path.symlink_to(other)
        case "fifo" | "read fifo":
            os.mkfifo(path)
            if kind == "read fifo":
                reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        case "directory":
            path.mkdir()
        case _:
            path = path / "none"
    append(path)
    assert other.read_text() == ""
    if reader >= 0:
        assert os.read(reader, 10) == b""
        os.close(reader)


def test_a_line_that_is_torn_hides_no_other(path: Path) -> None:
    append(path, MESSAGE="one")
    with path.open("ab") as file:
        file.write(b'{"MESS\xff\n' + json.dumps([1]).encode() + b"\n")
    append(path, MESSAGE="two")
    assert messages(path) == ["one", "two"]
