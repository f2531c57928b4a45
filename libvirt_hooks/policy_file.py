# SPDX-License-Identifier: LGPL-2.1-or-later
"""/etc/virt-nvme-reset.toml: its text to a Policy, and every mistake with its line and column.

    mode = "enforce"
    deny = ["144d:a802", "0000:03:00.0"]
    failed_disable = "refuse-lethal"
    deadline = 20
    deadline_cap = 150
    [drive."144d:a80c"]
    guard = "bus"
    close = "holder"
    settle_after_reset = 0.5
    [metrics]
    textfile = "/var/lib/prometheus/node-exporter"

Pure. tomllib is imported only to read a text: it takes three times as long as the interpreter.
"""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, TypeGuard

from .address import quoted
from .errors import BadPolicy
from .places import Path, Place, places
from .policy import (
    MOST_PAUSE,
    MOST_SECONDS,
    PATH,
    Close,
    Drive,
    FailedDisable,
    GuardChoice,
    Metrics,
    Mode,
    Policy,
    canonical,
    either,
    nearest,
)

Reader = Callable[[object], Any]
"""A value of TOML to one of ours; raises _Wrong."""


_FOLDER = re.compile(r"/[^\"\\]{1,200}")


class _Wrong(Exception):
    """What is wrong, and with which key; the path grows on the way up."""

    def __init__(self, why: str, *path: str) -> None:
        super().__init__(why)
        self.why = why
        self.path: Path = path


def parse(text: str) -> Policy:
    """Read a policy.

    :raises BadPolicy: not TOML, an unknown key, or a value of another shape or size.
    """
    content = _toml(text)
    try:
        policy = Policy(**_table(content, _FILE))
        if policy.deadline > policy.deadline_cap:
            raise _deadlines(content, policy)
        return policy
    except _Wrong as wrong:
        raise bad(wrong.why, _find(places(text), wrong.path)) from None


def bad(why: str, place: Place | None = None) -> BadPolicy:
    """Return the error about the file; *place* is where in it."""
    where = "" if place is None else f" line {place.line}, column {place.column}:"
    return BadPolicy(f"{PATH}:{where} {why}", hint=f"correct or remove {PATH}")


def _toml(text: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _not_toml(text, str(error)) from None
    except ValueError:
        raise bad("not TOML: a number of more digits than Python takes") from None
    except RecursionError:
        raise bad("not TOML: brackets in brackets, deeper than Python takes") from None


def _not_toml(text: str, message: str) -> BadPolicy:
    """tomllib's word, with the place in front; it may quote a key, however long."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.S)
    if found is None:
        return bad(f"not TOML: {message[:80]}")
    why, line, column = found.groups()
    end = Place(text.count("\n") + 1, len(text) - text.rfind("\n"))
    place = Place(int(line), int(column)) if line else end
    return bad(f"not TOML: {why[:1].lower()}{why[1:80]}", place)


def _find(known: Mapping[Path, Place], path: Path) -> Place:
    """The place of a key, or of the nearest table around it."""
    return next(known[path[:end]] for end in range(len(path), -1, -1) if path[:end] in known)


def _table(table: Mapping[str, object], readers: Mapping[str, Reader]) -> dict[str, Any]:
    """Read a table whose keys are all known; return the fields by name."""
    fields = {}
    for key, value in table.items():
        reader = readers.get(key)
        if reader is None:
            raise _Wrong(f"unknown key {quoted(key)}, {_meant(key, readers)}", key)
        try:
            fields[_FIELDS.get(key, key)] = reader(value)
        except _Wrong as wrong:
            why = wrong.why if wrong.path else f"{key}: {wrong.why}"
            raise _Wrong(why, key, *wrong.path) from None
    return fields


def _meant(key: str, readers: Mapping[str, Reader]) -> str:
    # What stands below a [table] belongs to it, to everybody's surprise.
    if key in _FILE and readers is not _FILE:
        return "which belongs above the first table"
    return nearest(key, readers)


def _deadlines(content: Mapping[str, object], policy: Policy) -> _Wrong:
    key = "deadline" if "deadline" in content else "deadline_cap"
    return _Wrong(
        f"{key}: a deadline of {policy.deadline:g} s,"
        f" expected at most deadline_cap, {policy.deadline_cap:g} s",
        key,
    )


def _one_of(kind: type[StrEnum]) -> Reader:
    def read(value: object) -> StrEnum:
        if not isinstance(value, str) or value not in list(kind):
            raise _Wrong(f"{_shown(value)}, expected {either(kind)}")
        return kind(value)

    return read


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Wrong(f"{_shown(value)}, expected true or false")
    return value


def _seconds(value: object) -> float:
    """A deadline; nan is in no range."""
    if not _is_number(value) or not 0 < value <= MOST_SECONDS:
        expected = f"seconds, more than 0 and at most {MOST_SECONDS:g}"
        raise _Wrong(f"{_shown(value)}, expected {expected}")
    return float(value)


def _pause(value: object) -> float:
    if not _is_number(value) or not 0 <= value <= MOST_PAUSE:
        raise _Wrong(f"{_shown(value)}, expected seconds, 0 to {MOST_PAUSE:g}")
    return float(value)


def _deny(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _Wrong(f'{_shown(value)}, expected a list such as ["0000:03:00.0"]')
    denied: dict[str, str] = {}
    for text in value:
        if not isinstance(text, str):
            raise _Wrong(f'{_shown(text)} in the list, expected text such as "0000:03:00.0"')
        name = _controller(text)
        if name in denied:
            raise _Wrong(f"{quoted(text)} is named before, as {quoted(denied[name])}")
        denied[name] = text
    return tuple(denied)


def _drives(value: object) -> dict[str, Drive]:
    if not isinstance(value, dict):
        raise _Wrong(f'{_shown(value)}, expected tables such as [drive."144d:a802"]')
    drives: dict[str, Drive] = {}
    named: dict[str, str] = {}
    for key, row in value.items():
        try:
            name = _controller(key)
            if name in named:
                raise _Wrong(f"{quoted(key)} is named before, as {quoted(named[name])}")
            if not isinstance(row, dict):
                raise _Wrong(f"{quoted(key)}: {_shown(row)}, expected a table")
            named[name] = key
            drives[name] = Drive(**_table(row, _DRIVE))
        except _Wrong as wrong:
            why = wrong.why if wrong.path else f"drive: {wrong.why}"
            raise _Wrong(why, key, *wrong.path) from None
    return drives


def _metrics(value: object) -> Metrics:
    if not isinstance(value, dict):
        raise _Wrong(f"{_shown(value)}, expected a table")
    return Metrics(**_table(value, _METRICS))


def _folder(value: object) -> str:
    # As plain as that: `config` prints it without an escape, and a journal line on one line.
    if not isinstance(value, str) or _FOLDER.fullmatch(value) is None or not value.isprintable():
        expected = "a directory such as /var/lib/prometheus/node-exporter"
        raise _Wrong(f"{_shown(value)}, expected {expected}")
    return value


def _controller(text: str) -> str:
    try:
        return canonical(text)
    except ValueError as error:
        raise _Wrong(f"{quoted(text)}: {error}") from None


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """A value as a message may show it: a table may be too deep for repr(), a number too long."""
    match value:
        case str():
            return quoted(value)
        case bool():
            return str(value).lower()
        case int() if value.bit_length() > 64:
            return "a huge number"
        case int() | float():
            return str(value)
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


_FILE: Mapping[str, Reader] = {
    "mode": _one_of(Mode),
    "deny": _deny,
    "failed_disable": _one_of(FailedDisable),
    "deadline": _seconds,
    "deadline_cap": _seconds,
    "drive": _drives,
    "metrics": _metrics,
}
_DRIVE: Mapping[str, Reader] = {
    "guard": _one_of(GuardChoice),
    "close": _one_of(Close),
    "flr_lethal_while_enabled": _flag,
    "settle_after_reset": _pause,
    "ready_check_delay": _pause,
    "prefer_bus": _flag,
}
_METRICS: Mapping[str, Reader] = {"textfile": _folder}
_FIELDS = {"drive": "drives"}
"""The field of a Policy that a key becomes, where it is called otherwise."""
