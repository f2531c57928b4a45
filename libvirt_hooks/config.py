# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``virt-nvme-reset config`` prints: the policy that holds, and where each value is from.

Each line is one of the policy file, with the source as its comment: all of it makes a file. For
programs it is one document. Pure.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .identity import Expected
from .places import Path, Place, places
from .policy import PATH, SILENT, GuestPolicy, Policy, canonical, resolve

_WIDEST = 56
"""Columns before the sources, unless a line is longer: a long list must not push all of them."""
_METADATA = "domain metadata"


class Value(NamedTuple):
    """One value that holds, and where it is from: a line of the file, the domain, the default."""

    path: Path
    value: object
    source: str


def describe(text: str | None, guest: GuestPolicy = SILENT, untrusted: str = "") -> list[str]:
    """Return the lines.

    :param text: the policy file; None: there is none, or it is not trusted.
    :param guest: what the metadata of the guest that is asked about says.
    :param untrusted: why the file is not trusted.
    :raises BadPolicy: see ``policy.load``.
    """
    lines = [
        (_key(each.path) + f" = {_toml(each.value)}", each.source) for each in values(text, guest)
    ]
    # No keys of the file, which speaks for all guests.
    lines += [
        (f"# {bdf}: {_words(expected)}", _METADATA) for bdf, expected in guest.expected.items()
    ]
    width = max(len(left) for left, _ in lines if len(left) <= _WIDEST)
    first = [f"# {PATH}: {untrusted}: ignored, defaults are used"] if untrusted else []
    return first + [f"{left:{width}}  # {source}" for left, source in lines]


def document(text: str | None, guest: GuestPolicy = SILENT, untrusted: str = "") -> dict[str, Any]:
    """Return the same for programs; arguments and errors are those of ``describe``."""
    found: dict[str, Any] = {"drive": {}}
    for path, value, source in values(text, guest):
        table = found
        for name in path[:-1]:
            table = table.setdefault(name, {})
        table[path[-1]] = {"value": value, "source": source}
    expected = {str(bdf): each._asdict() for bdf, each in guest.expected.items()}
    return {"file": PATH, "ignored": untrusted or None, "policy": found, "expected": expected}


def values(text: str | None, guest: GuestPolicy = SILENT) -> list[Value]:
    """Return what holds, in the order of the file's description.

    :raises BadPolicy: see ``policy.load``.
    """
    return list(_values(resolve(text, guest), guest, _named(text)))


def _values(policy: Policy, guest: GuestPolicy, named: Mapping[Path, Place]) -> Iterator[Value]:
    for key, value in policy._asdict().items():
        if key in ("drives", "metrics"):
            continue
        source = _file(named, key) or "default"
        if getattr(guest, key, None) is not None:
            source = _METADATA
        yield Value((key,), value, source)
    for name, drive in policy.drives.items():
        for key, value in drive._asdict().items():
            if value is not None:
                path = ("drive", name, key)
                yield Value(path, value, _file(named, *path))
    if policy.metrics.textfile is not None:
        key = "textfile"
        yield Value(("metrics", key), policy.metrics.textfile, _file(named, "metrics", key))


def _key(path: Path) -> str:
    match path:
        case ("drive", name, key):
            return f'drive."{name}".{key}'
    return ".".join(path)


def _words(expected: Expected) -> str:
    said = expected._asdict().items()
    return ", ".join(f'{name} = "{value}"' for name, value in said if value is not None)


def _named(text: str | None) -> dict[Path, Place]:
    """Where the file names what, drives as ``canonical`` spells them."""
    if text is None:
        return {}
    return {_canonical(path): place for path, place in places(text).items()}


def _canonical(path: Path) -> Path:
    match path:
        case ("drive", name, *rest):
            return ("drive", canonical(name), *rest)
    return path


def _file(named: Mapping[Path, Place], *path: str) -> str:
    place = named.get(path)
    return f"{PATH}:{place.line}" if place else ""


def _toml(value: object) -> str:
    """Our values as TOML; none of our texts needs an escape."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case _:
            return str(value).removesuffix(".0")
