# SPDX-License-Identifier: LGPL-2.1-or-later
"""JournalHandler on real sockets. The datagrams are taken apart by hand, from systemd's words."""

import logging
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from libvirt_hooks.history import Event, parse
from libvirt_hooks.linux import logfile
from libvirt_hooks.linux.journald import JournalHandler


def listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    sock.settimeout(2)
    return sock


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with listen(tmp_path / "journal") as sock:
        yield sock


@pytest.fixture
def syslog(tmp_path: Path) -> Iterator[socket.socket]:
    with listen(tmp_path / "log") as sock:
        yield sock


@pytest.fixture
def handler(tmp_path: Path) -> Iterator[JournalHandler]:
    fields = {"DOMAIN_UUID": "1b4e28ba", "OPERATION": "start"}
    handler = JournalHandler(
        fields, *(str(tmp_path / name) for name in ("journal", "log", "own.log"))
    )
    yield handler
    handler.close()


@pytest.fixture
def log(handler: JournalHandler) -> logging.Logger:
    logger = logging.Logger("test")
    logger.addHandler(handler)
    return logger


def taken_apart(data: bytes) -> dict[str, str]:
    fields = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, is_text, value = line.partition(b"=")
        if not is_text:
            size = int.from_bytes(data[:8], "little")
            value, end, data = data[8 : 8 + size], data[8 + size : 9 + size], data[9 + size :]
            assert end == b"\n"
        fields[name.decode()] = value.decode()
    return fields


def received(sock: socket.socket) -> dict[str, str]:
    return taken_apart(sock.recv(1 << 20))


def test_fields_of_the_handler_and_of_the_record(
    log: logging.Logger, journal: socket.socket
) -> None:
    log.info("%s: reset", "0000:03:00.0", extra={"fields": {"PCI_BDF": "0000:03:00.0", "TRY": 2}})
    assert received(journal) == {
        "MESSAGE": "0000:03:00.0: reset",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "virt-nvme-reset",
        "DOMAIN_UUID": "1b4e28ba",
        "OPERATION": "start",
        "PCI_BDF": "0000:03:00.0",
        "TRY": "2",
    }


@pytest.mark.parametrize(
    ("level", "priority"),
    [("DEBUG", "7"), ("INFO", "6"), ("WARNING", "4"), ("ERROR", "3"), ("CRITICAL", "2")],
)
def test_priorities(log: logging.Logger, journal: socket.socket, level: str, priority: str) -> None:
    log.log(logging.getLevelNamesMapping()[level], "x")
    assert received(journal)["PRIORITY"] == priority


def test_a_line_break_forges_no_field(log: logging.Logger, journal: socket.socket) -> None:
    log.info("one\nPRIORITY=0", extra={"fields": {"METHOD": "flr\nMESSAGE=two"}})
    fields = received(journal)
    assert fields["MESSAGE"] == "one\nPRIORITY=0"
    assert fields["METHOD"] == "flr\nMESSAGE=two"
    assert fields["PRIORITY"] == "6"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("\x1b[31mred\r\0", "\\x1b[31mred\\x0d\\x00", id="terminal controls"),
        pytest.param("\x7f\x9b", "\\x7f\\x9b", id="and the high ones"),
        pytest.param("tab\té", "tab\té", id="text stays"),
        pytest.param("\udcff", "\\udcff", id="what no one can encode"),
    ],
)
def test_control_characters_are_shown(
    log: logging.Logger, journal: socket.socket, text: str, expected: str
) -> None:
    log.info("%s", text, extra={"fields": {"METHOD": text}})
    fields = received(journal)
    assert (fields["MESSAGE"], fields["METHOD"]) == (expected, expected)


@pytest.mark.parametrize("name", ["_PID", "lower", "A=B", "A\nB", "", "1A", "A" * 65, "É"])
def test_a_field_journald_would_not_take_is_left_out(
    log: logging.Logger, journal: socket.socket, name: str
) -> None:
    log.info("x", extra={"fields": {name: "y"}})
    assert len(received(journal)) == 5


def test_a_trace_is_part_of_the_message(log: logging.Logger, journal: socket.socket) -> None:
    try:
        raise KeyError("boom")
    except KeyError:
        log.exception("failed")
    assert re.match(r"failed\nTraceback .*boom", received(journal)["MESSAGE"], re.S)


def test_what_is_too_long_is_cut(log: logging.Logger, journal: socket.socket) -> None:
    log.info("é" * 1_000_000, extra={"fields": {"METHOD": "flr"}})
    fields = received(journal)
    assert fields["METHOD"] == "flr"
    assert re.fullmatch("é{1000,}…", fields["MESSAGE"])


def test_without_a_journal_it_is_syslog(log: logging.Logger, syslog: socket.socket) -> None:
    log.warning("one\n<0>two\x1b")
    line = syslog.recv(4096).decode()
    assert re.fullmatch(
        r"<28>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d virt-nvme-reset\[\d+\]: one\\n<0>two\\x1b", line
    )


def test_a_journal_that_is_dead_is_none(
    log: logging.Logger, journal: socket.socket, syslog: socket.socket
) -> None:
    journal.close()  # the path stays: ECONNREFUSED
    log.info("x")
    assert syslog.recv(4096)


@pytest.mark.usefixtures("syslog")
def test_the_journal_comes_first(log: logging.Logger, journal: socket.socket) -> None:
    log.info("x")
    assert received(journal)["MESSAGE"] == "x"


def test_with_neither_it_is_silent(log: logging.Logger, capfd: pytest.CaptureFixture[str]) -> None:
    log.error("x")
    assert capfd.readouterr() == ("", "")


def test_a_broken_call_raises_and_prints_nothing(
    log: logging.Logger, journal: socket.socket, capfd: pytest.CaptureFixture[str]
) -> None:
    log.info("%d", "no number")
    log.info("x", extra={"fields": 3})
    log.info("good")
    assert received(journal)["MESSAGE"] == "good"
    assert capfd.readouterr() == ("", "")


def test_a_journal_that_does_not_read_costs_little(
    log: logging.Logger, journal: socket.socket
) -> None:
    began = time.monotonic()
    for number in range(2000):
        log.info("%s", number)
    assert time.monotonic() - began < 5
    assert received(journal)["MESSAGE"] == "0"


def test_a_forked_worker_logs_on_its_own_socket(
    log: logging.Logger, handler: JournalHandler, journal: socket.socket
) -> None:
    log.info("parent")
    pid = os.fork()
    if pid == 0:
        before = handler._socket
        log.info("child")
        os._exit(handler._socket is before)
    assert os.waitpid(pid, 0)[1] == 0
    assert [received(journal)["MESSAGE"] for _ in range(2)] == ["parent", "child"]


def test_nothing_is_open_before_the_first_record_or_after_close(
    handler: JournalHandler, log: logging.Logger
) -> None:
    assert handler._socket is None
    log.info("x")
    assert handler._socket is not None
    handler.close()
    assert handler._socket is None


@pytest.mark.parametrize("module", ["socket"])
def test_what_is_not_needed_is_not_imported(module: str) -> None:
    root = Path(__file__).resolve().parents[1]
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r}); import libvirt_hooks.linux.journald; "
        f"sys.exit({module!r} in sys.modules)"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-I", "-S", "-c", code]) == 0


def own(tmp_path: Path) -> list[Event]:
    return [event for line in logfile.lines(str(tmp_path / "own.log")) if (event := parse(line))]


def test_without_a_journal_there_is_a_log_of_our_own(
    log: logging.Logger, syslog: socket.socket, tmp_path: Path
) -> None:
    log.warning("one\ntwo\x1b", extra={"fields": {"PCI_BDF": "0000:03:00.0", "METHOD": "flr"}})
    assert syslog.recv(4096)
    (event,) = own(tmp_path)
    assert time.time() - event.time < 10
    assert (event.message, event.priority) == ("one\ntwo\\x1b", 4)
    assert (event.operation, event.guest) == ("start", "1b4e28ba")
    assert (event.bdf, event.method) == ("0000:03:00.0", "flr")


def test_with_a_journal_there_is_none(
    log: logging.Logger, journal: socket.socket, tmp_path: Path
) -> None:
    log.info("x")
    assert received(journal)["MESSAGE"] == "x"
    assert not (tmp_path / "own.log").exists()
