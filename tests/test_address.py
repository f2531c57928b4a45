# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's <address> grammar, against a table, a model of strtoull, and the C library's own.

The model and the table of maxima are written from the C standard and libvirt's documentation,
without a look at the regular expression that they check.
"""

import ctypes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from libvirt_hooks.address import parse_address, parse_number, quoted
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import BadDomain

UINT_MAX = 4294967295

ACCEPTED = [
    pytest.param("0", 0, id="zero"),
    pytest.param("00", 0, id="zero in octal"),
    pytest.param("10", 10, id="decimal"),
    pytest.param("0x10", 16, id="hexadecimal"),
    pytest.param("0X1f", 31, id="hexadecimal with a capital X"),
    pytest.param("0xAb", 171, id="hexadecimal in mixed case"),
    pytest.param("010", 8, id="a leading zero means octal"),
    pytest.param("0000010", 8, id="many leading zeros mean octal too"),
    pytest.param("0x" + "0" * 5000 + "7", 7, id="zeros do not add up, in hexadecimal"),
    pytest.param("0" * 5000 + "7", 7, id="zeros do not add up, in octal"),
    pytest.param(" 7", 7, id="a space in front"),
    pytest.param(" \t\n\v\f\r7", 7, id="every white space of C in front"),
    pytest.param("+7", 7, id="a plus sign"),
    pytest.param(" +0x7", 7, id="space, plus sign, hexadecimal"),
    pytest.param("0xffffffff", UINT_MAX, id="the largest, in hexadecimal"),
    pytest.param("4294967295", UINT_MAX, id="the largest, in decimal"),
    pytest.param("037777777777", UINT_MAX, id="the largest, in octal"),
]

REFUSED = [
    pytest.param("", id="nothing"),
    pytest.param(" ", id="only space"),
    pytest.param("+", id="only a sign"),
    pytest.param("08", id="an 8 in octal"),
    pytest.param("7 ", id="space behind"),
    pytest.param("7\n", id="a newline behind"),
    pytest.param("-1", id="a negative number"),
    pytest.param("-0", id="a negative zero"),
    pytest.param("+-1", id="two signs"),
    pytest.param("+ 1", id="space after the sign"),
    pytest.param("1_0", id="an underscore, as in Python"),
    pytest.param("0x", id="0x alone"),
    pytest.param("0xg", id="0x and no digit"),
    pytest.param("0x 1", id="space after 0x"),
    pytest.param("0o10", id="0o, as in Python"),
    pytest.param("0b10", id="0b, as in Python and C23"),
    pytest.param("ff", id="hexadecimal without 0x"),
    pytest.param("1.0", id="a fraction"),
    pytest.param("\N{ARABIC-INDIC DIGIT THREE}", id="an Arabic digit"),
    pytest.param("\N{FULLWIDTH DIGIT THREE}", id="a full-width digit"),
    pytest.param("\N{NO-BREAK SPACE}3", id="a space that C does not know"),
    pytest.param("\x1c3", id="a separator that Python calls space"),
]

TOO_LARGE = [
    pytest.param("0x100000000", id="one above, in hexadecimal"),
    pytest.param("4294967296", id="one above, in decimal"),
    pytest.param("040000000000", id="one above, in octal"),
    pytest.param("0x10000000000000003", id="3 after a wrap at 64 bits"),
    pytest.param("9" * 5000, id="more digits than int() converts"),
]


@pytest.mark.parametrize("text, expected", ACCEPTED)
def test_number(text: str, expected: int) -> None:
    assert parse_number(text, "domain", UINT_MAX) == expected


@pytest.mark.parametrize("text", REFUSED)
def test_not_a_number(text: str) -> None:
    with pytest.raises(BadDomain, match=r"^address slot: not a number: "):
        parse_number(text, "slot", UINT_MAX)


@pytest.mark.parametrize("text", TOO_LARGE)
def test_too_large(text: str) -> None:
    with pytest.raises(BadDomain, match=r"^address domain: too large: .* at most 0xffffffff$"):
        parse_number(text, "domain", UINT_MAX)


# strtoull with base 0 as an automaton: state, class of the next character → next state.
MODEL = {
    ("start", "space"): "start",
    ("start", "plus"): "signed",
    ("start", "zero"): "zero",
    ("start", "octal"): "decimal",
    ("start", "nine"): "decimal",
    ("signed", "zero"): "zero",
    ("signed", "octal"): "decimal",
    ("signed", "nine"): "decimal",
    ("zero", "zero"): "octal",
    ("zero", "octal"): "octal",
    ("zero", "x"): "prefix",
    ("octal", "zero"): "octal",
    ("octal", "octal"): "octal",
    ("decimal", "zero"): "decimal",
    ("decimal", "octal"): "decimal",
    ("decimal", "nine"): "decimal",
    **{
        (state, digit): "hexadecimal"
        for state in ("prefix", "hexadecimal")
        for digit in ("zero", "octal", "nine", "letter")
    },
}
CLASSES = {
    "space": " \t\n\v\f\r",
    "plus": "+",
    "zero": "0",
    "octal": "1234567",
    "nine": "89",
    "letter": "abcdefABCDEF",
    "x": "xX",
}
BASE = {"zero": 8, "octal": 8, "decimal": 10, "hexadecimal": 16}


def by_model(text: str) -> int | None:
    """What libvirt reads, one character at a time; None for an error."""
    state, digits = "start", ""
    for character in text:
        kind = next((name for name, members in CLASSES.items() if character in members), "other")
        if (state, kind) not in MODEL:
            return None
        state = MODEL[state, kind]
        digits = digits + character if state in BASE else ""
    if state not in BASE:
        return None
    value = 0
    for digit in digits:
        value = value * BASE[state] + "0123456789abcdef".index(digit.lower())
    return value if value <= UINT_MAX else None


_STRTOULL = ctypes.CDLL(None, use_errno=True).strtoull
_STRTOULL.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int]
_STRTOULL.restype = ctypes.c_ulonglong


def by_libc(text: str) -> int | None:
    """What virStrToLong_uip makes of the C library's strtoull; None for an error."""
    buffer = ctypes.create_string_buffer(text.encode())
    end = ctypes.c_void_p()
    ctypes.set_errno(0)
    value = int(_STRTOULL(ctypes.addressof(buffer), ctypes.byref(end), 0))
    read = (end.value or 0) - ctypes.addressof(buffer)
    bad = ctypes.get_errno() or read == 0 or buffer.raw[read] or b"-" in buffer.raw[:read]
    return None if bad or value > UINT_MAX else value


def by_us(text: str) -> int | None:
    try:
        return parse_number(text, "domain", UINT_MAX)
    except BadDomain:
        return None


# Every character that means something to one of the grammars in question, and some that look so.
# No NUL: XML has none, and C would stop there.
ANYTHING = st.text(alphabet=" \t\v+-_.0123456789abcdefgxXoOb\u0663\uff13\xa0\x1c", max_size=14)
NEARLY = st.tuples(
    st.sampled_from(["", " ", "\t ", "+", "-", " +", "++", "\xa0"]),
    st.sampled_from(["", "0", "00", "0x", "0X", "0o", "0b"]),
    st.text(alphabet="0123456789abcdefABCDEF", max_size=24),
    st.sampled_from(["", "", "", " ", "\n", "x", "_", "L"]),
).map("".join)


@given(ANYTHING | NEARLY)
@example("0x")
@example("08")
def test_number_is_what_strtoull_reads(text: str) -> None:
    assert by_us(text) == by_model(text)
    assert by_us(text) == by_libc(text)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_number_is_what_strtoull_reads_in_any_script(text: str) -> None:
    assert by_us(text) == by_model(text) == by_libc(text)


@given(st.integers(0, UINT_MAX), st.integers(0, 0xFF), st.integers(0, 0x1F), st.integers(0, 7))
def test_address_as_libvirt_prints_it(domain: int, bus: int, slot: int, function: int) -> None:
    printed = {
        "domain": f"0x{domain:04x}",
        "bus": f"0x{bus:02x}",
        "slot": f"0x{slot:02x}",
        "function": f"0x{function}",
    }
    assert parse_address(printed) == Bdf(domain, bus, slot, function)


@pytest.mark.parametrize(
    "attributes, expected",
    [
        pytest.param({}, Bdf(0, 0, 0, 0), id="everything defaults to 0"),
        pytest.param({"bus": "3"}, Bdf(0, 3, 0, 0), id="the rest defaults to 0"),
        pytest.param(
            {"bus": "222", "slot": "31", "function": "07"}, Bdf(0, 222, 31, 7), id="decimal"
        ),
        pytest.param({"domain": "0x10000", "bus": "1"}, Bdf(0x10000, 1, 0, 0), id="a VMD domain"),
        pytest.param(
            {"bus": "3", "multifunction": "on", "type": "pci"}, Bdf(0, 3, 0, 0), id="others ignored"
        ),
    ],
)
def test_address(attributes: dict[str, str], expected: Bdf) -> None:
    assert parse_address(attributes) == expected


@pytest.mark.parametrize(
    "attributes, message",
    [
        pytest.param(
            {"domain": "0x100000000"},
            "address domain: too large: '0x100000000' against at most 0xffffffff",
            id="a domain of 33 bits",
        ),
        pytest.param(
            {"bus": "0x100"}, "address bus: too large: '0x100' against at most 0xff", id="a bus"
        ),
        pytest.param(
            {"slot": "32"}, "address slot: too large: '32' against at most 0x1f", id="a slot"
        ),
        pytest.param(
            {"bus": "3", "function": "8"},
            "address function: too large: '8' against at most 0x7",
            id="a function",
        ),
        pytest.param(
            {"function": "8"},
            "address function: too large: '8' against at most 0x7",
            id="a function that libvirt lets through, as the rest is 0",
        ),
        pytest.param(
            {"bus": "3", "slot": "08"},
            "address slot: not a number: '08' against 10, 0xa or 012 (octal)",
            id="an 8 in octal",
        ),
    ],
)
def test_address_refused(attributes: dict[str, str], message: str) -> None:
    with pytest.raises(BadDomain) as caught:
        parse_address(attributes)
    assert caught.value.message == message


@given(st.text())
@example("x" * 39)
@example("\n" * 39)
def test_quoted_is_short_and_on_one_line(text: str) -> None:
    assert len(quoted(text)) <= 40
    assert quoted(text).isprintable()
