# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``virt-nvme-reset config`` prints, word by word; and that it can be the file itself."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.config import describe, document
from libvirt_hooks.errors import BadPolicy
from libvirt_hooks.identity import Expected
from libvirt_hooks.policy import (
    SILENT,
    Drive,
    FailedDisable,
    GuestPolicy,
    Mode,
    canonical,
    resolve,
)

FILE = """\
# Ours.
mode = "observe"
deny = [
    "144D:A804",
    "04:00.0",
]
deadline = 30

[drive."144D:A802"]
guard = "keep"
close = "guard"
settle_after_reset = 0.50

[drive]
"03:00.0" = {flr_lethal_while_enabled = true, ready_check_delay = 2}

[metrics]
textfile = "/var/lib/node-exporter"
"""
GUEST = GuestPolicy(
    mode=Mode.ENFORCE,
    failed_disable=FailedDisable.GO_ON,
    deadline_cap=60.5,
    expected={
        Bdf(0, 3, 0, 0): Expected("S2GLNX0HB00000", "0025385b71b00c11"),
        Bdf(0, 4, 0, 0): Expected('a"\\'),
    },
)


def test_no_file() -> None:
    assert (
        "\n".join(describe(None))
        == """\
mode = "enforce"                  # default
deny = []                         # default
failed_disable = "refuse-lethal"  # default
deadline = 20                     # default
deadline_cap = 150                # default"""
    )


def test_a_file_that_is_not_trusted() -> None:
    assert describe(None, untrusted="owner is uid 1000 (expected 0)") == [
        "# /etc/virt-nvme-reset.toml: owner is uid 1000 (expected 0): ignored, defaults are used",
        *describe(None),
    ]


def test_a_file() -> None:
    assert (
        "\n".join(describe(FILE))
        == """\
mode = "observe"                                      # /etc/virt-nvme-reset.toml:2
deny = ["144d:a804", "0000:04:00.0"]                  # /etc/virt-nvme-reset.toml:3
failed_disable = "refuse-lethal"                      # default
deadline = 30                                         # /etc/virt-nvme-reset.toml:7
deadline_cap = 150                                    # default
drive."144d:a802".guard = "keep"                      # /etc/virt-nvme-reset.toml:10
drive."144d:a802".close = "guard"                     # /etc/virt-nvme-reset.toml:11
drive."144d:a802".settle_after_reset = 0.5            # /etc/virt-nvme-reset.toml:12
drive."0000:03:00.0".flr_lethal_while_enabled = true  # /etc/virt-nvme-reset.toml:15
drive."0000:03:00.0".ready_check_delay = 2            # /etc/virt-nvme-reset.toml:15
metrics.textfile = "/var/lib/node-exporter"           # /etc/virt-nvme-reset.toml:18"""
    )


def test_a_guest_over_a_file() -> None:
    assert (
        "\n".join(describe(FILE, GUEST)[:5] + describe(FILE, GUEST)[-2:])
        == """\
mode = "enforce"                                      # domain metadata
deny = ["144d:a804", "0000:04:00.0"]                  # /etc/virt-nvme-reset.toml:3
failed_disable = "go-on"                              # domain metadata
deadline = 30                                         # /etc/virt-nvme-reset.toml:7
deadline_cap = 60.5                                   # domain metadata
# 0000:03:00.0: serial = "S2GLNX0HB00000", eui = "0025385b71b00c11"  # domain metadata
# 0000:04:00.0: serial = "a"\\"                        # domain metadata"""
    )


def test_a_guest_over_a_file_for_programs() -> None:
    def at(line: int) -> str:
        return f"/etc/virt-nvme-reset.toml:{line}"

    assert json.loads(json.dumps(document(FILE, GUEST))) == {
        "file": "/etc/virt-nvme-reset.toml",
        "ignored": None,
        "policy": {
            "mode": {"value": "enforce", "source": "domain metadata"},
            "deny": {"value": ["144d:a804", "0000:04:00.0"], "source": at(3)},
            "failed_disable": {"value": "go-on", "source": "domain metadata"},
            "deadline": {"value": 30.0, "source": at(7)},
            "deadline_cap": {"value": 60.5, "source": "domain metadata"},
            "drive": {
                "144d:a802": {
                    "guard": {"value": "keep", "source": at(10)},
                    "close": {"value": "guard", "source": at(11)},
                    "settle_after_reset": {"value": 0.5, "source": at(12)},
                },
                "0000:03:00.0": {
                    "flr_lethal_while_enabled": {"value": True, "source": at(15)},
                    "ready_check_delay": {"value": 2.0, "source": at(15)},
                },
            },
            "metrics": {"textfile": {"value": "/var/lib/node-exporter", "source": at(18)}},
        },
        "expected": {
            "0000:03:00.0": {"serial": "S2GLNX0HB00000", "eui": "0025385b71b00c11"},
            "0000:04:00.0": {"serial": 'a"\\', "eui": None},
        },
    }


def test_no_file_for_programs() -> None:
    found = document(None, untrusted="owner is uid 1000 (expected 0)")
    assert found["ignored"] == "owner is uid 1000 (expected 0)"
    assert found["policy"]["drive"] == {}
    assert found["policy"]["deadline"] == {"value": 20.0, "source": "default"}


def test_a_long_list_does_not_push_all_sources_away() -> None:
    lines = describe(f"deny = {[f'{bus:02x}:00.0' for bus in range(40)]}")
    assert lines[0] == 'mode = "enforce"                  # default'
    assert lines[1].endswith('"0000:27:00.0"]  # /etc/virt-nvme-reset.toml:1')


@pytest.mark.parametrize("guest", [SILENT, GUEST])
def test_all_of_it_makes_a_file(guest: GuestPolicy) -> None:
    assert resolve("\n".join(describe(FILE, guest))) == resolve(FILE, guest)


def test_a_broken_file_is_not_described() -> None:
    with pytest.raises(BadPolicy, match="line 1, column 1: unknown key 'denny'"):
        describe("denny = []")
    with pytest.raises(BadPolicy, match="domain metadata: deadline: 30 s"):
        describe(FILE, GuestPolicy(deadline_cap=29.0))


SECONDS = st.floats(0, 60, exclude_min=True) | st.integers(1, 60)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "guard": st.sampled_from(["auto", "keep", "bus", "none"]),
        "close": st.sampled_from(["holder", "guard"]),
        "settle_after_reset": SECONDS,
        "prefer_bus": st.booleans(),
    },
)
ROWS = st.dictionaries(st.sampled_from(["144d:a802", "144D:A804", "03:00.0"]), CHANGES)


def literal(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


@given(ROWS, SECONDS, st.booleans())
def test_every_value_of_a_file_has_its_line(
    rows: dict[str, dict[str, object]], deadline: float, dotted: bool
) -> None:
    lines = [f"deadline = {deadline}"]
    expected = {"deadline": 1}
    for name, changes in rows.items():
        lines += [] if dotted else [f"[drive.'{name}']"]
        for key, value in changes.items():
            above = f"drive.'{name}'." if dotted else ""
            lines.append(f"{above}{key} = {literal(value)}")
            expected[f'drive."{canonical(name)}".{key}'] = len(lines)
    text = "\n".join(lines)
    described = describe(text)
    sources = {line.split(" = ")[0]: line.rpartition("  # ")[2] for line in described}
    assert {key: source for key, source in sources.items() if source != "default"} == {
        key: f"/etc/virt-nvme-reset.toml:{line}" for key, line in expected.items()
    }
    drives = {name: row for name, row in resolve(text).drives.items() if row != Drive()}
    assert resolve("\n".join(described)) == resolve(text)._replace(drives=drives)
