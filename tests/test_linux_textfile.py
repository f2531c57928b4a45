# SPDX-License-Identifier: LGPL-2.1-or-later
"""The file for node_exporter on a real disk: whole, readable, and in nobody's way."""

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from libvirt_hooks.errors import HookError, SysfsError
from libvirt_hooks.linux import textfile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.prom"


def test_it_is_replaced_and_everybody_may_read_it(path: Path) -> None:
    before = os.umask(0o077)
    try:
        for text in ("long" * 1000, "é 1\n"):
            textfile.publish(str(path), text)
            assert path.read_text() == text
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == ["x.prom"]


def test_what_is_half_written_has_no_name_that_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], bool]] = []
    rename = os.rename

    def spy(old: str, new: str) -> None:
        seen.append((os.listdir(path.parent), Path(old).read_text() == "text"))
        rename(old, new)

    monkeypatch.setattr(os, "rename", spy)
    textfile.write(str(path), "text")
    assert seen == [(["x.tmp"], True)]


def test_no_directory(path: Path) -> None:
    with pytest.raises(HookError) as caught:
        textfile.publish(str(path.parent / "none" / "x.prom"), "")
    assert caught.value.message == f"{path.parent}/none/x.prom: writing: No such file or directory"
    assert os.listdir(path.parent) == []


def test_a_full_disk_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, mode: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    textfile.write(str(path), "old")
    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(SysfsError, match="No space left"):
        textfile.write(str(path), "new")
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["x.prom"]


@pytest.mark.parametrize("kind", ["link", "fifo", "hard link", "left over"])
def test_nothing_that_lies_there_is_opened(path: Path, kind: str) -> None:
    other = path.parent / "other"
    other.write_text("not ours")
    for name in (path, path.with_suffix(".tmp")):
        match kind:
            case "link":
                name.symlink_to(other)
            case "fifo":
                os.mkfifo(name)
            case "hard link":
                os.link(other, name)
            case _:
                name.write_text("x" * 100)
    textfile.publish(str(path), "text")
    assert path.read_text() == "text"
    assert not path.is_symlink()
    assert other.read_text() == "not ours"
    assert sorted(os.listdir(path.parent)) == ["other", "x.prom"]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_nor_what_somebody_puts_there_meanwhile(
    path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = path.parent / "other"
    other.write_text("not ours")

    def too_late(name: str) -> None:
        if not os.path.lexists(name):
            (os.symlink if kind == "link" else os.link)(other, name)

    monkeypatch.setattr(os, "unlink", too_late)
    with pytest.raises(SysfsError, match="File exists"):
        textfile.write(str(path), "text")
    assert other.read_text() == "not ours"


def test_a_disk_that_hangs_costs_a_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfile, "write", lambda path, text: time.sleep(60))
    monkeypatch.setattr(textfile, "PATIENCE", 0.2)
    began = time.monotonic()
    with pytest.raises(HookError, match=f"^{path}: starting: not done since .* left behind"):
        textfile.publish(str(path), "")
    assert time.monotonic() - began < 2
