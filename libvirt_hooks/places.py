# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a TOML text says what: line and column of every key, which tomllib does not keep. Pure.

Only for texts that tomllib has taken: nothing is checked here. Source: TOML v1.0.0, toml.io.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

DEPTH = 3
"""Longer paths are cut: our deepest is ``drive."144d:a802".guard``."""

_TOKEN = re.compile(
    r"""
      (?P<space>   [ \t]+ | \#[^\n]* )
    | (?P<quoted>  \"{3} (?: \\. | [^\\] )*? \"{3,5} (?!\") | '{3} .*? '{3,5} (?!')
                 | \" (?: \\. | [^\\"] )* \" | ' [^']* ' )
    | (?P<bare>    [A-Za-z0-9_-]+ )
    | (?P<mark>    . )
    """,
    re.S | re.X,
)


class Place(NamedTuple):
    """Where something begins, both counted from 1."""

    line: int
    column: int


Path = tuple[str, ...]


class _Token(NamedTuple):
    kind: str
    text: str
    place: Place


def places(text: str) -> dict[Path, Place]:
    """Return where each key is first named, tables and dotted prefixes too; () is the start."""
    found: dict[Path, Place] = {(): Place(1, 1)}
    tokens = _tokens(text)
    table: Path = ()
    for token in tokens:
        if token.text == "[":
            table = _key(tokens, token, (), found)
        elif token.text != "\n":
            _value(tokens, _key(tokens, token, table, found), found)
    return found


def _key(tokens: Iterator[_Token], first: _Token, base: Path, found: dict[Path, Place]) -> Path:
    """Read a key, or a table's header, to its end; note it and what it is made of."""
    path = base
    token = first
    while token.text != "=" and (first.text != "[" or token.text != "]"):
        if token.kind in ("bare", "quoted") and len(path) < DEPTH:
            path = (*path, _name(token))
            found.setdefault(path, first.place)
        token = next(tokens)
    if first.text == "[":
        # To the end of the line: [[an array of tables]] has one more bracket.
        for token in tokens:
            if token.text == "\n":
                break
    return path


def _value(tokens: Iterator[_Token], path: Path, found: dict[Path, Place]) -> None:
    """Read a value to the end of its line; note the keys of inline tables."""
    nest: list[tuple[str, Path]] = []
    key_next = False
    for token in tokens:
        if token.text in ("{", "["):
            nest.append((token.text, path))
            key_next = token.text == "{"
        elif token.text in ("}", "]"):
            path = nest.pop()[1]
        elif token.text == ",":
            bracket, path = nest[-1]
            key_next = bracket == "{"
        elif token.text == "\n":
            if not nest:
                return
        elif key_next:
            path = _key(tokens, token, nest[-1][1], found)
            key_next = False


def _name(token: _Token) -> str:
    if token.kind == "bare":
        return token.text
    import tomllib  # slow to import, and loaded already: it has taken the text

    return str(tomllib.loads(f"name = {token.text}")["name"])


def _tokens(text: str) -> Iterator[_Token]:
    # tomllib, too, takes away the carriage returns first.
    line, begins = 1, 0
    for match in _TOKEN.finditer(text.replace("\r\n", "\n")):
        if match.lastgroup != "space":
            yield _Token(str(match.lastgroup), match[0], Place(line, match.start() - begins + 1))
        if "\n" in match[0]:
            line += match[0].count("\n")
            begins = match.start() + match[0].rindex("\n") + 1
