# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records for real, in a directory of their own."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from libvirt_hooks.errors import BadRecord
from libvirt_hooks.linux.records import RunRecords


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "virt-nvme-reset"


@pytest.fixture
def records(root: Path) -> RunRecords:
    return RunRecords(str(root))


@pytest.fixture
def harsh_umask() -> Iterator[None]:
    before = os.umask(0o777)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_record_comes_back(records: RunRecords) -> None:
    records.store("owners", "b", b"one")
    records.store("owners", "b", b"two")
    records.store("owners", "a", b"")
    assert records.load("owners", "b") == b"two"
    assert records.load("owners", "a") == b""
    assert records.names("owners") == ["a", "b"]


def test_nothing_is_made_by_looking(records: RunRecords, root: Path) -> None:
    assert records.names("owners") == []
    assert records.load("owners", "a") is None
    records.drop("owners", "a")
    assert not root.exists()


def test_absence_in_a_base_that_is_there(records: RunRecords) -> None:
    records.store("owners", "a", b"x")
    assert records.load("owners", "b") is None
    assert records.load("undo", "a") is None
    assert records.names("undo") == []


def test_drop_removes_one(records: RunRecords) -> None:
    records.store("owners", "a", b"x")
    records.store("owners", "b", b"x")
    records.drop("owners", "a")
    records.drop("owners", "a")
    assert records.names("owners") == ["b"]


@pytest.mark.usefixtures("harsh_umask")
def test_only_we_may_look_whatever_the_umask(records: RunRecords, root: Path) -> None:
    records.store("owners", "a", b"x")
    assert (mode(root), mode(root / "owners")) == (0o700, 0o700)
    os.umask(0)
    records.store("undo", "a", b"x")
    assert (mode(root / "undo"), mode(root / "undo" / "a")) == (0o700, 0o600)


def test_leftovers_are_not_listed_and_do_no_harm(records: RunRecords, root: Path) -> None:
    records.store("owners", "a", b"x")
    (root / "owners" / f".a.{os.getpid()}").write_bytes(b"longer than what comes")
    records.store("owners", "a", b"y")
    (root / "owners" / ".a.1").write_bytes(b"half")
    assert records.names("owners") == ["a"]
    assert records.load("owners", "a") == b"y"


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a/b", "/a", "a\0"])
def test_a_name_cannot_lead_elsewhere(records: RunRecords, name: str) -> None:
    for call in (
        lambda: records.store("owners", name, b""),
        lambda: records.store(name, "a", b""),
        lambda: records.load("owners", name),
        lambda: records.drop("owners", name),
        lambda: records.names(name),
    ):
        with pytest.raises(ValueError, match="not a plain file name"):
            call()


def refuses_all(records: RunRecords, why: str) -> None:
    for call in (
        lambda: records.store("owners", "a", b""),
        lambda: records.load("owners", "a"),
        lambda: records.drop("owners", "a"),
        lambda: records.names("owners"),
    ):
        with pytest.raises(BadRecord, match=why):
            call()


def test_a_base_that_is_a_link_is_refused(records: RunRecords, root: Path) -> None:
    (root.parent / "elsewhere").mkdir()
    root.symlink_to("elsewhere")
    refuses_all(records, "a symbolic link")


def test_a_base_that_is_a_file_is_refused(records: RunRecords, root: Path) -> None:
    root.touch()
    refuses_all(records, "no directory")


def test_a_base_that_others_write_to_is_refused(records: RunRecords, root: Path) -> None:
    root.mkdir()
    root.chmod(0o777)
    refuses_all(records, "mode 0o777")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_base_of_somebody_else_is_refused(records: RunRecords, root: Path) -> None:
    root.mkdir(0o700)
    os.chown(root, 65534, 65534)
    refuses_all(records, "owner is uid 65534")


@pytest.mark.skipif(os.geteuid() != 0, reason="the records are to be root's")
def test_who_is_not_root_may_believe_roots_records(
    records: RunRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`virt-nvme-reset list`, by anybody; that it may not read them is the kernel's to say."""
    records.store("owners", "a", b"x")
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert records.load("owners", "a") == b"x"


def test_a_record_that_is_a_link_is_not_followed(records: RunRecords, root: Path) -> None:
    records.store("owners", "a", b"x")
    (root / "owners" / "b").symlink_to("a")
    with pytest.raises(BadRecord, match="owners/b: reading: Too many levels"):
        records.load("owners", "b")


def test_a_full_disk_leaves_the_old_record(
    records: RunRecords, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    records.store("owners", "a", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadRecord, match="owners/a: writing: No space left on device"):
        records.store("owners", "a", b"new")
    assert records.load("owners", "a") == b"old"
    assert os.listdir(root / "owners") == ["a"]


def test_a_record_is_stable_before_it_is_seen(
    records: RunRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def spy_fsync(fd: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    def spy_rename(old: str, new: str) -> None:
        calls.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "rename", spy_rename)
    records.store("owners", "a", b"x")
    assert calls == ["file", "rename", "folder"]


@pytest.mark.parametrize("folder", ["owners", "locks"])
def test_a_folder_that_is_a_link_is_refused(
    records: RunRecords, root: Path, tmp_path: Path, folder: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a").write_bytes(b"not ours")
    root.mkdir(0o700)
    (root / folder).symlink_to(elsewhere)
    for access in (
        lambda: records.names(folder),
        lambda: records.load(folder, "a"),
        lambda: records.store(folder, "a", b"ours"),
        lambda: records.drop(folder, "a"),
    ):
        with pytest.raises(BadRecord, match="a symbolic link"):
            access()
    assert (elsewhere / "a").read_bytes() == b"not ours"
