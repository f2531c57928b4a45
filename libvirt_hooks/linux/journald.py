# SPDX-License-Identifier: LGPL-2.1-or-later
"""JournalHandler: log records with their fields to the journal's socket; else to /dev/log, and to
the log of our own.

stderr of a hook that succeeds is thrown away (libvirt src/util/virhook.c), so this is where
warnings live. It never raises and never waits long. Sources: systemd
docs/JOURNAL_NATIVE_PROTOCOL.md, systemd.journal-fields(7), RFC 3164.
"""

import errno
import logging
import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import logfile

if TYPE_CHECKING:
    import socket

JOURNAL = "/run/systemd/journal/socket"
SYSLOG = "/dev/log"
IDENTIFIER = "virt-nvme-reset"
DAEMON = 3 << 3
"""Facility of <syslog.h>, shifted as in a priority."""

PATIENCE = 0.1
"""Seconds to wait for a journal that reads nothing; after the first such wait none is made."""

LONGEST = 16384
"""Bytes of MESSAGE that are sent when the kernel refuses the datagram as too long."""

_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_FIELD = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
# journalctl shows a value with any of these as "[12B blob data]", a terminal obeys them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class JournalHandler(logging.Handler):
    """A logging handler for journald.

    A record's own fields come with ``log.info(…, extra={"fields": {"PCI_BDF": bdf}})``.

    :param fields: fields of every record, such as ``DOMAIN_UUID`` and ``OPERATION``.
    :param journal: its socket; see also SYSLOG.
    :param own: where the log of our own is.
    """

    def __init__(
        self,
        fields: Mapping[str, object] | None = None,
        journal: str = JOURNAL,
        syslog: str = SYSLOG,
        own: str = logfile.PATH,
    ) -> None:
        super().__init__()
        self.fields: dict[str, object] = dict(fields or {})
        self._journal = journal
        self._syslog = syslog
        self._own = own
        self._socket: socket.socket | None = None
        self._pid = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record. What goes wrong here is dropped: a log line decides over no guest."""
        try:
            message = _clean(self.format(record))
            if not self._to_journal(record, message):
                self._send(_syslog_line(record, message), self._syslog)
                logfile.append({"MESSAGE": message, **self._all_fields(record)}, self._own)
        except Exception:  # logging's own handleError() would print on the hook's stderr
            pass

    def close(self) -> None:
        """Close the socket; a later record opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        super().close()

    def _to_journal(self, record: logging.LogRecord, message: str) -> bool:
        fields = self._all_fields(record)
        try:
            return self._send(datagram({"MESSAGE": message, **fields}), self._journal)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
        short = message.encode()[:LONGEST].decode("utf-8", "ignore") + "…"
        return self._send(datagram({"MESSAGE": short, **fields}), self._journal)

    def _all_fields(self, record: logging.LogRecord) -> dict[str, str]:
        return {
            "PRIORITY": str(priority(record.levelno)),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            **_plain(self.fields),
            **_plain(getattr(record, "fields", {})),
        }

    def _send(self, data: bytes, path: str) -> bool:
        # False: nobody is there to read it. A reader that is too slow is not nobody.
        sock = self._own_socket()
        try:
            sock.sendto(data, path)
        except (TimeoutError, BlockingIOError):
            sock.settimeout(0)
        except (FileNotFoundError, ConnectionRefusedError, PermissionError, NotADirectoryError):
            return False
        return True

    def _own_socket(self) -> "socket.socket":
        # One a process: two that share it would also share its time-out.
        if self._socket is None or self._pid != os.getpid():
            import socket  # 2 ms that a hook with nothing to say need not pay

            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(PATIENCE)
            self._pid = os.getpid()
        return self._socket


def priority(level: int) -> int:
    """Turn a logging level into syslog's priority."""
    return next((number for least, number in _PRIORITIES if level >= least), 7)


def datagram(fields: Mapping[str, str]) -> bytes:
    """Put fields into the journal's native form; a value with a newline carries its length."""
    parts = []
    for name, value in fields.items():
        raw = value.encode("utf-8", "backslashreplace")
        if b"\n" in raw:
            parts.append(name.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw)
        else:
            parts.append(name.encode() + b"=" + raw)
    return b"\n".join(parts) + b"\n"


def _plain(fields: Mapping[str, object]) -> dict[str, str]:
    # Names as systemd.journal-fields(7) wants them; "_PID" and its like are journald's to set.
    return {name: _clean(str(value)) for name, value in fields.items() if _FIELD.fullmatch(name)}


def _clean(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _syslog_line(record: logging.LogRecord, message: str) -> bytes:
    when = time.strftime("%b %e %H:%M:%S", time.localtime(record.created))
    # One record is one line there: a newline would let a message forge the next.
    text = message.replace("\n", "\\n")
    head = f"<{DAEMON | priority(record.levelno)}>{when} {IDENTIFIER}[{os.getpid()}]: "
    return (head + text).encode("utf-8", "backslashreplace")
