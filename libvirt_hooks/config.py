# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``virt-nvme-reset config`` prints: the policy that holds, and where each value is from.

Each line is one of the policy file, with the source as its comment: all of it makes a file. Pure.
"""

from collections.abc import Iterator, Mapping

from .identity import Expected
from .places import Path, Place, places
from .policy import PATH, SILENT, GuestPolicy, Policy, canonical, resolve

_WIDEST = 56
"""Columns before the sources, unless a line is longer: a long list must not push all of them."""

Line = tuple[str, str]
"""A line of the file, and where its value is from."""


def describe(text: str | None, guest: GuestPolicy = SILENT, untrusted: str = "") -> list[str]:
    """Return the lines.

    :param text: the policy file; None: there is none, or it is not trusted.
    :param guest: what the metadata of the guest that is asked about says.
    :param untrusted: why the file is not trusted.
    :raises BadPolicy: see ``policy.load``.
    """
    policy = resolve(text, guest)
    lines = [*_values(policy, guest, _named(text)), *_expected(guest)]
    width = max(len(left) for left, _ in lines if len(left) <= _WIDEST)
    first = [f"# {PATH}: {untrusted}: ignored, defaults are used"] if untrusted else []
    return first + [f"{left:{width}}  # {source}" for left, source in lines]


def _values(policy: Policy, guest: GuestPolicy, named: Mapping[Path, Place]) -> Iterator[Line]:
    for key, value in vars(policy).items():
        if key in ("drives", "metrics"):
            continue
        source = _file(named, key) or "default"
        if getattr(guest, key, None) is not None:
            source = "domain metadata"
        yield f"{key} = {_toml(value)}", source
    for name, drive in policy.drives.items():
        for key, value in vars(drive).items():
            if value is not None:
                yield f'drive."{name}".{key} = {_toml(value)}', _file(named, "drive", name, key)
    if policy.metrics.textfile is not None:
        source = _file(named, "metrics", "textfile")
        yield f"metrics.textfile = {_toml(policy.metrics.textfile)}", source


def _expected(guest: GuestPolicy) -> Iterator[Line]:
    # No keys of the file, which speaks for all guests.
    for bdf, expected in guest.expected.items():
        yield f"# {bdf}: {_words(expected)}", "domain metadata"


def _words(expected: Expected) -> str:
    said = vars(expected).items()
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
