# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a TOML text says what, with tomllib for the judge of what it says."""

import time
import tomllib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_hooks.places import DEPTH, Path, Place, places


@pytest.mark.parametrize(
    ("text", "path", "place"),
    [
        pytest.param("", (), (1, 1), id="the file"),
        pytest.param("a = 1\n  b = 2", ("b",), (2, 3), id="indented"),
        pytest.param("a = 1\r\nb = 2", ("b",), (2, 1), id="carriage returns"),
        pytest.param("a = 1\r\n\r\nb = 2", ("b",), (3, 1), id="and an empty line of them"),
        pytest.param("a = 1 # b = 1\nb = 2", ("b",), (2, 1), id="a comment"),
        pytest.param("x = 'é' \nb = 2", ("b",), (2, 1), id="other scripts"),
        pytest.param("\n[a]\nb = 1", ("a",), (2, 1), id="a table"),
        pytest.param("\n[a]\nb = 1", ("a", "b"), (3, 1), id="a key of it"),
        pytest.param("[a . 'b.c' ]\nd = 1", ("a", "b.c", "d"), (2, 1), id="a quoted table"),
        pytest.param('["\\u0061"]\nb=1', ("a", "b"), (2, 1), id="an escape"),
        pytest.param("[a.b]\n[a]", ("a",), (1, 1), id="a table that is named by its child first"),
        pytest.param("[[a]]\n[[a]]", ("a",), (1, 1), id="an array of tables"),
        pytest.param("[[a]]\nb=1\n[c]\nd=1", ("c", "d"), (4, 1), id="after one"),
        pytest.param(" a.b = 1\na.c = 2", ("a",), (1, 2), id="a dotted key names its table"),
        pytest.param("a.b = 1\na.c = 2", ("a", "c"), (2, 1), id="another below it"),
        pytest.param("a = {b = 1, c = 2}", ("a", "c"), (1, 13), id="an inline table"),
        pytest.param("a = {b = {c = 1}, d = 2}", ("a", "d"), (1, 19), id="one in another"),
        pytest.param("a = {}\nb = 1", ("b",), (2, 1), id="an empty one"),
        pytest.param("a = {b = [1, 2], c = 2}", ("a", "c"), (1, 18), id="one with a list"),
        pytest.param("a = [\n'b = 1', # c = 1\n]\nd = 1", ("d",), (4, 1), id="a list of lines"),
        pytest.param("a = [{b = 1}, {c = 2}]", ("a", "c"), (1, 16), id="tables in a list"),
        pytest.param('a = """\nb = 1\n"""\nc = 1', ("c",), (4, 1), id="a long text"),
        pytest.param('a = """"b""""\nc = "d"', ("c",), (2, 1), id="one with quotes at its ends"),
        pytest.param("a = '''b''''\nc = 'd'", ("c",), (2, 1), id="a literal with one at its end"),
        pytest.param("a = '''\n[b]'\n'''''\nc = 1", ("c",), (4, 1), id="a long literal"),
        pytest.param('a = "\\"[" # "\nc = 1', ("c",), (2, 1), id="an escaped quote"),
        pytest.param('a = """\\""""\nc = 1', ("c",), (2, 1), id="an escaped one in a long text"),
        pytest.param("''.b = 1", ("",), (1, 1), id="an empty key"),
        pytest.param("'=' = 1\n'[' = 2\n'\\' = 3", ("\\",), (3, 1), id="keys that look like marks"),
        pytest.param("a = 1979-05-27 07:32:00.5\nb = 1", ("b",), (2, 1), id="a date"),
        pytest.param("a = -1.5e+3\nb = 1", ("b",), (2, 1), id="a float"),
        pytest.param("-1 = 2\n1.5 = 3", ("1", "5"), (2, 1), id="keys that look like numbers"),
    ],
)
def test_places(text: str, path: Path, place: tuple[int, int]) -> None:
    tomllib.loads(text)
    assert places(text)[path] == Place(*place)


KEYS = ["a", "b", "'a'", '"b"', "'='", '"\\""', "''", '""', "'#'"]
VALUES = ["1", "-2.5", "true", "1979-05-27", '"""', "'''", '"""x"""', "'''\n'y'''"]
MARKS = ["\n", "\n", "\n", "\r\n", " ", "=", "=", "=", ".", ",", "[", "]", "[[", "]]", "{", "}"]
LINES = ["a = 1\n", "[b]\n", "[[c]]\n", "#'\n", "x = [{", "}]"]
PIECES = st.sampled_from(KEYS + VALUES + MARKS + LINES)


def named(table: dict[str, object], above: Path = ()) -> Iterator[Path]:
    """Every key of *table* and of the tables in it."""
    for key, value in table.items():
        yield (*above, key)
        if isinstance(value, dict) and len(above) + 1 < DEPTH:
            yield from named(value, (*above, key))


@given(st.lists(PIECES, max_size=25).map("".join))
def test_every_key_of_a_text_that_tomllib_takes_has_a_place(text: str) -> None:
    try:
        content = tomllib.loads(text)
    except ValueError:
        return
    found = places(text)
    assert set(named(content)) <= found.keys()
    lines = text.split("\n")
    assert all(0 < place.column <= len(lines[place.line - 1]) + 1 for place in found.values())


TABLES = st.recursive(
    st.sampled_from(
        ["1", "'[x]'", '"]\\"}"', '"""\n"q" = 1\n"""', "'''\n'''''", "[1,\n[2]]", "{}"]
    ),
    lambda inner: st.lists(st.tuples(st.sampled_from(["k", "'l.m'", '"n"', "a.b"]), inner)).map(
        lambda pairs: (
            "{" + ", ".join(f"{key} = {value}" for key, value in dict(pairs).items()) + "}"
        )
    ),
    max_leaves=6,
)


@given(st.lists(TABLES, max_size=5))
def test_keys_are_found_among_any_values(values: list[str]) -> None:
    text = "".join(f"key{number} = {value}\n" for number, value in enumerate(values))
    content = tomllib.loads(text)
    found = places(text)
    assert set(named(content)) <= found.keys()
    assert {path[0] for path in found if path} == content.keys()
    for number in range(len(values)):
        place = found[(f"key{number}",)]
        assert text.splitlines()[place.line - 1].startswith(f"key{number} = ")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("".join(f"k{number} = 1\n" for number in range(80000)), id="many keys"),
        pytest.param("a" + ".a" * 400000 + " = 1", id="a long dotted key"),
        pytest.param("a = '''" + "\n" * 900000 + "'''", id="a long text"),
        pytest.param('a = """' + "\\n" * 400000 + '"""', id="a long text of escapes"),
        pytest.param("a = [" + "1," * 400000 + "]", id="a long list"),
    ],
)
def test_a_large_file_takes_no_longer_than_its_size(text: str) -> None:
    began = time.process_time()
    places(text)
    assert time.process_time() - began < 10
