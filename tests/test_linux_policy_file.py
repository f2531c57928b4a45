# SPDX-License-Identifier: LGPL-2.1-or-later
"""The policy file on disk: whom it is believed from, what is read, what is an error."""

import errno
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from libvirt_hooks.errors import BadPolicy, SysfsError
from libvirt_hooks.linux.policy_file import LARGEST, Found, examine, read

ME = os.geteuid()


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that may be trusted, in a directory that may be."""
    tmp_path.chmod(0o755)
    path = tmp_path / "policy.toml"
    path.write_text("# é\n")
    path.chmod(0o644)
    return path


def test_a_file_of_the_owner_is_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(str(path), ME) == "# é\n"
    assert examine(str(path), ME) == Found("# é\n")
    assert not caplog.records


def test_no_file_is_none(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.unlink()
    assert read(str(path), ME) is None
    assert read(str(path.parent / "none" / "policy.toml"), ME) is None
    assert examine(str(path), ME) == Found()
    assert not caplog.records


def test_it_is_root_s_unless_told_otherwise(path: Path) -> None:
    os.chown(path, ME, -1)
    found = examine(str(path))
    assert found == (Found("# é\n") if ME == 0 else Found(None, f"owner is uid {ME} (expected 0)"))


def test_a_file_of_somebody_else_is_told_and_ignored(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        assert read(str(path), ME + 1) is None
    assert caplog.messages == [
        f"{path}: owner is uid {ME} (expected {ME + 1}): ignored, defaults are used"
    ]
    assert caplog.records[0].name == "libvirt_hooks.linux.policy_file"


@pytest.mark.parametrize(
    ("mode", "trusted"),
    [
        pytest.param(0o600, True, id="private"),
        pytest.param(0o755, True, id="executable"),
        pytest.param(0o664, False, id="the group may write"),
        pytest.param(0o646, False, id="others may write"),
    ],
)
def test_only_the_owner_may_write_the_file(path: Path, mode: int, trusted: bool) -> None:
    path.chmod(mode)
    why = f"mode is {mode:04o} (expected no write bit for group and others)"
    assert examine(str(path), ME) == (Found("# é\n") if trusted else Found(None, why))


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(0o775, id="the group may"),
        pytest.param(0o757, id="others may"),
        pytest.param(0o1777, id="others may, in a sticky one"),
    ],
)
def test_only_the_owner_may_put_a_file_there(path: Path, mode: int) -> None:
    path.parent.chmod(mode)
    why = f"its directory: mode is {mode:04o} (expected no write bit for group and others)"
    assert examine(str(path), ME) == Found(None, why)


@pytest.mark.skipif(ME != 0, reason="only root may give a directory away")
def test_a_directory_of_somebody_else(path: Path) -> None:
    os.chown(path.parent, 1000, -1)
    assert examine(str(path)) == Found(None, "its directory: owner is uid 1000 (expected 0)")


def test_a_link_is_followed_and_judged_by_what_it_leads_to(path: Path) -> None:
    link = path.parent / "link.toml"
    link.symlink_to(path)
    assert read(str(link), ME) == "# é\n"
    path.chmod(0o666)
    assert examine(str(link), ME).untrusted.startswith("mode is 0666")


def test_a_link_that_leads_nowhere_is_no_missing_file(path: Path) -> None:
    link = path.parent / "link.toml"
    link.symlink_to("none.toml")
    with pytest.raises(SysfsError, match="link.toml: reading: No such file or directory"):
        read(str(link), ME)


def test_a_link_to_itself(path: Path) -> None:
    link = path.parent / "link.toml"
    link.symlink_to(link)
    with pytest.raises(SysfsError, match="link.toml: reading: Too many levels"):
        read(str(link), ME)


def test_a_pipe_keeps_nobody_waiting(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o644)
    signal.alarm(10)
    try:
        assert examine(str(path), ME) == Found(None, "not a regular file")
    finally:
        signal.alarm(0)


def test_a_device_is_not_read() -> None:
    assert examine("/dev/null", os.stat("/dev").st_uid) == Found(None, "not a regular file")


def test_a_socket_cannot_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.unlink()
    monkeypatch.chdir(path.parent)  # the path of a socket is at most 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    with pytest.raises(SysfsError, match="reading: No such device or address"):
        read(str(path), ME)


def test_a_directory_cannot_be_read(path: Path) -> None:
    path.unlink()
    path.mkdir(0o755)
    with pytest.raises(SysfsError, match="policy.toml: reading: Is a directory"):
        read(str(path), ME)


def test_a_file_for_a_directory_cannot_be_read(path: Path) -> None:
    with pytest.raises(SysfsError, match="reading: Not a directory"):
        read(str(path / "policy.toml"), ME)


def test_a_bad_sector(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(SysfsError, match="policy.toml: reading: Input/output error") as caught:
        read(str(path), ME)
    assert caught.value.number == errno.EIO


def test_what_is_not_trusted_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise AssertionError

    monkeypatch.setattr(os, "read", fail)
    assert examine(str(path), ME + 1).untrusted


@pytest.mark.parametrize(
    ("size", "untrusted"),
    [
        pytest.param(LARGEST, "", id="the largest"),
        pytest.param(LARGEST + 1, "size is more than 1048576 bytes", id="a byte more"),
        pytest.param(1 << 40, "size is more than 1048576 bytes", id="a terabyte"),
    ],
)
def test_size(path: Path, size: int, untrusted: str) -> None:
    os.truncate(path, size)
    assert examine(str(path), ME).untrusted == untrusted


def test_short_reads_are_put_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.read
    monkeypatch.setattr(os, "read", lambda file, length: whole(file, min(length, 3)))
    path.write_text("mode = 'off'\n")
    assert read(str(path), ME) == "mode = 'off'\n"


@pytest.mark.parametrize(
    ("data", "place"),
    [
        pytest.param(b"deny\xff", "line 1, column 5: not UTF-8: byte 4", id="a first line"),
        pytest.param(
            "# é\n é".encode() + b"\xe9", "line 2, column 3: not UTF-8: byte 8", id="second"
        ),
        pytest.param(b"# \xed\xa0\x80", "line 1, column 3: not UTF-8: byte 2", id="a surrogate"),
        pytest.param(b"\xc3", "line 1, column 1: not UTF-8: byte 0", id="cut off"),
    ],
)
def test_not_utf_8(path: Path, data: bytes, place: str) -> None:
    path.write_bytes(data)
    with pytest.raises(BadPolicy) as caught:
        read(str(path), ME)
    assert caught.value.message == f"{path}: {place}"
    assert caught.value.hint == f"correct or remove {path}"


def test_a_path_without_a_directory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    assert read(path.name, ME) == "# é\n"
