# SPDX-License-Identifier: LGPL-2.1-or-later
"""The administrator's file: what it says, and what is wrong with it, at which line and column."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_hooks.errors import BadPolicy
from libvirt_hooks.policy import Close, Drive, FailedDisable, GuardChoice, Metrics, Mode, Policy
from libvirt_hooks.policy_file import parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", Policy(), id="empty"),
        pytest.param("# a comment\r\n", Policy(), id="a comment"),
        pytest.param("deny = []", Policy(), id="nothing denied"),
        pytest.param(
            'deny = ["0000:03:00.0", "04:00.0", "144D:A802"]',
            Policy(deny=("0000:03:00.0", "0000:04:00.0", "144d:a802")),
            id="denied by address and by ids",
        ),
        pytest.param(
            'mode = "observe"\nfailed_disable = "go-on"\ndeadline = 30\ndeadline_cap = 30.0',
            Policy(Mode.OBSERVE, (), FailedDisable.GO_ON, 30.0, 30.0),
            id="all of the rest",
        ),
        pytest.param(
            'drive."03:00.0".guard = "none"\n[drive."144D:a802"]\nguard = "keep"\n'
            'close = "guard"\n'
            "flr_lethal_while_enabled = false\nsettle_after_reset = 0\n"
            "ready_check_delay = 60.0\nprefer_bus = true",
            Policy(
                drives={
                    "0000:03:00.0": Drive(GuardChoice.NONE),
                    "144d:a802": Drive(GuardChoice.KEEP, Close.GUARD, False, 0.0, 60.0, True),
                }
            ),
            id="drives",
        ),
        pytest.param(
            'drive = {"03:00.0" = {}}', Policy(drives={"0000:03:00.0": Drive()}), id="a row of none"
        ),
        pytest.param("[metrics]", Policy(), id="metrics of nothing"),
        pytest.param(
            '[metrics]\ntextfile = "/var/lib/node exporter/é"',
            Policy(metrics=Metrics("/var/lib/node exporter/é")),
            id="metrics",
        ),
        pytest.param("deadline = 1e-3", Policy(deadline=0.001), id="a short deadline"),
        pytest.param(
            "deadline = 600\ndeadline_cap = 0x258",
            Policy(deadline=600, deadline_cap=600),
            id="most",
        ),
    ],
)
def test_parse(text: str, expected: Policy) -> None:
    assert parse(text) == expected


NEITHER = "neither a PCI address such as 0000:03:00.0 nor ids such as 144d:a802"
DRIVE = '[drive."144d:a802"]\n'


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        pytest.param("deny = [", (1, 9), "not TOML: invalid value", id="cut off"),
        pytest.param("\ndeny == 3", (2, 7), "not TOML: invalid value", id="not TOML"),
        pytest.param("deny = 'a", (1, 10), 'not TOML: expected "\'"', id="cut off in a string"),
        pytest.param(
            '\na = """b\nc', (3, 2), "not TOML: unterminated", id="the end of a second line"
        ),
        pytest.param("[drive.144d:a802]", (1, 12), "not TOML: expected ']'", id="ids unquoted"),
        pytest.param("mode='off'\nmode='off'", (2, 11), "not TOML: cannot overwrite", id="twice"),
        pytest.param(
            "\ndenny = []", (2, 1), "unknown key 'denny', did you mean deny?", id="a slip"
        ),
        pytest.param(
            "  foo = 1",
            (1, 3),
            "unknown key 'foo', expected mode, deny, failed_disable, deadline, deadline_cap,"
            " drive or metrics",
            id="nothing like ours",
        ),
        pytest.param(
            "failed-disable = 1", (1, 1), "unknown key 'failed-disable', did you mean", id="dash"
        ),
        pytest.param('deny = "03:00.0"', (1, 1), "deny: '03:00.0', expected a list", id="no list"),
        pytest.param(
            "\n\ndeny = [\n3]", (3, 1), "deny: 3 in the list, expected text", id="no text in it"
        ),
        pytest.param("deny = [[]]", (1, 1), "deny: a list in the list", id="a list in it"),
        pytest.param('deny = ["nvme0"]', (1, 1), f"deny: 'nvme0': {NEITHER}", id="no controller"),
        pytest.param(
            'deny = ["03:00.0", "144d:a802", "0000:03:00.0"]',
            (1, 1),
            "deny: '0000:03:00.0' is named before, as '03:00.0'",
            id="an address in two spellings",
        ),
        pytest.param(
            'mode = "Off"', (1, 1), "mode: 'Off', expected enforce, observe or off", id="a"
        ),
        pytest.param("mode = false", (1, 1), "mode: false, expected", id="mode: a truth value"),
        pytest.param("mode = ['off']", (1, 1), "mode: a list, expected", id="mode: a list"),
        pytest.param("mode.a = 1", (1, 1), "mode: a table, expected", id="mode: a table"),
        pytest.param("mode = 1979-05-27", (1, 1), "mode: a date or time, expected", id="a date"),
        pytest.param(
            "failed_disable = 'lethal'",
            (1, 1),
            "failed_disable: 'lethal', expected refuse, refuse-lethal or go-on",
            id="failed_disable",
        ),
        *(
            pytest.param(
                f"deadline = {value}",
                (1, 1),
                f"deadline: {said}, expected seconds, more than 0 and at most 600",
                id=f"deadline {value[:10]}",
            )
            for value, said in [
                ("0", "0"),
                ("-0.0", "-0.0"),
                ("-1", "-1"),
                ("nan", "nan"),
                ("inf", "inf"),
                ("-inf", "-inf"),
                ("600.1", "600.1"),
                ("true", "true"),
                ("'20'", "'20'"),
                ("9" * 400, "a huge number"),
                ("0x" + "f" * 5000, "a huge number"),
            ]
        ),
        pytest.param("deadline_cap = 601", (1, 1), "deadline_cap: 601, expected", id="the cap"),
        pytest.param(
            "deadline_cap = 200\ndeadline = 201",
            (2, 1),
            "deadline: a deadline of 201 s, expected at most deadline_cap, 200 s",
            id="a deadline above the cap",
        ),
        pytest.param(
            "\ndeadline_cap = 10",
            (2, 1),
            "deadline_cap: a deadline of 20 s, expected at most deadline_cap, 10 s",
            id="a cap below the default deadline",
        ),
        pytest.param(
            "drive = 3", (1, 1), "drive: 3, expected tables such as", id="drive: no table"
        ),
        pytest.param("[[drive]]", (1, 1), "drive: a list, expected tables", id="drive: a list"),
        pytest.param(
            '\n[drive."03:00.0"]\n[drive."0000:03:00.0"]',
            (3, 1),
            "drive: '0000:03:00.0' is named before, as '03:00.0'",
            id="a drive in two spellings",
        ),
        pytest.param(
            '[drive."144d:a802"]\n[drive."144D:a802"]',
            (2, 1),
            "drive: '144D:a802' is named before, as '144d:a802'",
            id="ids in two spellings",
        ),
        pytest.param(
            "[drive.nvme0]", (1, 1), f"drive: 'nvme0': {NEITHER}", id="no controller's row"
        ),
        pytest.param(
            "[drive]\nguard='bus'", (2, 1), f"drive: 'guard': {NEITHER}", id="a key there"
        ),
        pytest.param(
            'drive = {a = 1, "03:00.0" = 3}', (1, 10), f"drive: 'a': {NEITHER}", id="in one line"
        ),
        pytest.param(
            '[drive]\n"03:00.0" = 3', (2, 1), "drive: '03:00.0': 3, expected a table", id="no row"
        ),
        pytest.param(
            f"{DRIVE}\n  gaurd = 'bus'", (3, 3), "unknown key 'gaurd', did you mean guard?", id="b"
        ),
        pytest.param(
            f"{DRIVE}deadline = 30",
            (2, 1),
            "unknown key 'deadline', which belongs above the first table",
            id="a key that is too far down",
        ),
        pytest.param(
            f"{DRIVE}guard = 'flr'",
            (2, 1),
            "guard: 'flr', expected auto, keep, bus or none",
            id="c",
        ),
        pytest.param(
            f"{DRIVE}close = 'keeper'", (2, 1), "close: 'keeper', expected holder or guard", id="d"
        ),
        pytest.param(f"{DRIVE}close = true", (2, 1), "close: true, expected holder", id="true"),
        pytest.param(
            f"{DRIVE} clsoe = 'guard'", (2, 2), "unknown key 'clsoe', did you mean close?", id="e"
        ),
        pytest.param(
            f"{DRIVE}prefer_bus = 1", (2, 1), "prefer_bus: 1, expected true or false", id="one"
        ),
        pytest.param("metrics = 3", (1, 1), "metrics: 3, expected a table", id="metrics: no table"),
        pytest.param(
            "[metrics]\ntextfil = '/x'",
            (2, 1),
            "unknown key 'textfil', did you mean textfile?",
            id="metrics: a slip",
        ),
        pytest.param(
            "[metrics]\n mode = 'off'",
            (2, 2),
            "unknown key 'mode', which belongs above the first table",
            id="metrics: too far down",
        ),
        *(
            pytest.param(
                f"[metrics]\ntextfile = {value}",
                (2, 1),
                f"textfile: {said}, expected a directory such as /var/lib/prometheus/node-exporter",
                id=f"textfile {id}",
            )
            for value, said, id in [
                ("true", "true", "a truth value"),
                ("''", "''", "empty"),
                ("'var/lib'", "'var/lib'", "relative"),
                ("'/'", "'/'", "the root"),
                ("'/a\"b'", "'/a\"b'", "a quote"),
                ("'/a\\b'", r"'/a\\b'", "a backslash"),
                ('"/a\\u2028b"', r"'/a\u2028b'", "what does not print"),
            ]
        ),
        *(
            pytest.param(
                f"{DRIVE}{key} = {value}",
                (2, 1),
                f"{key}: {value}, expected seconds, 0 to 60",
                id=id,
            )
            for key, value, id in [
                ("settle_after_reset", "-0.1", "below 0"),
                ("settle_after_reset", "nan", "not a number"),
                ("settle_after_reset", "true", "a truth value"),
                ("ready_check_delay", "2300", "milliseconds"),
                ("ready_check_delay", "60.5", "too long"),
            ]
        ),
    ],
)
def test_refused(text: str, place: tuple[int, int], said: str) -> None:
    with pytest.raises(BadPolicy) as caught:
        parse(text)
    line, column = place
    where = f"/etc/virt-nvme-reset.toml: line {line}, column {column}: "
    assert caught.value.message.startswith(where + said)
    assert caught.value.hint == "correct or remove /etc/virt-nvme-reset.toml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("a = " + "1" * 5000, "a number of more digits than Python takes", id="digits"),
        pytest.param("a = " + "[" * 50000, "brackets in brackets, deeper", id="brackets"),
    ],
)
def test_what_tomllib_cannot_say(text: str, said: str) -> None:
    with pytest.raises(BadPolicy, match=f"^/etc/virt-nvme-reset.toml: not TOML: {said}"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("mode" + ".a" * 2000 + " = 1", id="a table in a table in a table"),
        pytest.param(f"{'a' * 100000} = 1", id="a long key"),
        pytest.param(f"[{'a' * 100000}]\n[{'a' * 100000}]", id="a long key twice"),
        pytest.param(f"mode = '{'a' * 100000}'", id="a long text"),
        pytest.param('"\\u0007\\u2028" = 1', id="a key of control characters"),
        pytest.param("[drive.'a\u202e']", id="a name of control characters"),
    ],
)
def test_a_message_is_a_line(text: str) -> None:
    with pytest.raises(BadPolicy) as caught:
        parse(text)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


KEYS = ["mode", "deny", "failed_disable", "deadline", "deadline_cap", "drive", "metrics"]
ROWS = ["textfile", "guard", "close", "prefer_bus", "settle_after_reset", "ready_check_delay"]
NAMES = ['"144d:a802"', "'03:00.0'", '"enforce"', "'off'", '"bus"']
NUMBERS = ["true", "1", "-1", "20.5", "nan", "inf", "1979-05-27", "0x1f"]
MARKS = [
    " = ",
    ".",
    ",",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "\n",
    "\r\n",
    "#",
    '"""',
    "'''",
    "\\",
    " ",
]
WORDS = st.sampled_from(KEYS + ROWS + NAMES + NUMBERS + MARKS)


@given(st.text() | st.lists(WORDS | st.text(max_size=2), max_size=30).map("".join))
def test_whatever_the_text_only_bad_policy_is_raised(text: str) -> None:
    try:
        parse(text)
    except BadPolicy as error:
        assert error.message.isprintable()
        assert len(error.message) < 200
    else:
        tomllib.loads(text)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
)


def literal(value: object) -> str:
    """TOML in one line; None as a date."""
    match value:
        case None:
            return "1979-05-27"
        case bool():
            return str(value).lower()
        case str():
            escaped = "".join(f"\\U{ord(char):08x}" for char in value)
            return f'"{escaped}"'
        case list():
            return f"[{', '.join(map(literal, value))}]"
        case dict():
            pairs = (f"{literal(key)} = {literal(each)}" for key, each in value.items())
            return f"{{{', '.join(pairs)}}}"
        case _:
            return str(value)


@given(
    st.sampled_from(KEYS),
    VALUES | st.dictionaries(st.just("144d:a802"), st.dictionaries(st.sampled_from(ROWS), VALUES)),
)
def test_whatever_the_value_only_bad_policy_is_raised(key: str, value: object) -> None:
    try:
        parse(f"{key} = {literal(value)}")
    except BadPolicy as error:
        assert ": line 1, column " in error.message
