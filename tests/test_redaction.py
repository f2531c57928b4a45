# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is masked, and what is not."""

import pytest

from libvirt_hooks.redaction import NAMES, SERIALS, Redaction

UUID = "0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11"


def masked(text: str, **known: str) -> str:
    found = Redaction()
    for name, value in known.items():
        found.hide(name, [value])
    found.recognise((*SERIALS, *NAMES))
    return found.apply(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"guest {UUID}, {UUID.upper()}", "guest <uuid-1>, <uuid-1>"),
        ("52:54:00:12:34:56 to 52:54:00:12:34:57", "<mac-1> to <mac-2>"),
        ("at 192.168.1.10:4420", "at <address-1>:4420"),
        ("NQN nqn.2014-08.org:x", "NQN <nqn-1>"),
        ("open, by 4211 (qemu:payroll)", "open, by 4211 (qemu:<guest-1>)"),
        (
            "mount@nvme0n1p2:/home/Al, x hint: umount /home/Al; /home/Albert",
            "mount@nvme0n1p2:<path-1>, x hint: umount <path-1>; /home/Albert",
        ),
        ("Samsung, serial S2GLNX0H", "Samsung, serial <serial-1>"),
        (
            "drive    Samsung, serial\n       S2GLNX0H",
            "drive    Samsung, serial\n       <serial-1>",
        ),
        ("Serial Number: S2GLNX0H", "Serial Number: <serial-1>"),
        ("serial is 'S2', expected 'S3'", "serial is <serial-1>, expected <expected-1>"),
        ("serial is not known, expected 'S3'", "serial is not known, expected <expected-1>"),
        (
            "EUI is '0025385b71b00c11' and 'b', expected 'c'",
            "EUI is <eui-1> and <eui-2>, expected <expected-1>",
        ),
        ("eui.0025385b71b00c11", "eui.<eui-1>"),
        ("0025385b71b00c11 0025385b71b00c110025385b71b00c11", "<eui-1> <eui-2>"),
        ("00-25-38-5b-71-b0-0c-11", "<eui-1>"),
        ("nvme.144d-5332474c-0001", "nvme.<wwid-1>"),
    ],
)
def test_forms(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "0000:01:00.0  144d:a802  nvme live",
        "00: 4d 14 02 a8 06 04 10 00 01 02 08 01 00 00 00 00",
        "CC 0x00464061 -> 0x00464060, CSTS 0x00000009",
        "[mem 0xf7c00000-0xf7c03fff 64bit]  0xffffffffffffffff",
        "kernel: 6.1.0-41-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.158-1 (2025-11-09) x86_64",
        "QEMU emulator version 7.2.17 (Debian 1:7.2+dfsg-7+deb12u16)",
        "2025-11-27 12:00:00  start",
        "open, by 4211 (qemu-system-x86)",
        "/var/log/virt-nvme-reset.log",
    ],
)
def test_what_a_bug_report_is_for_stays(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    ("value", "text", "expected"),
    [
        ("tower", "tower Tower tower-vg my--tower", "<x-1> <x-1> <x-1>-vg my--<x-1>"),
        ("tower", "towers", "towers"),
        ("S2 GL", "S2\n      GL", "<x-1>"),
        ("a.b", "axb a.b", "axb <x-1>"),
        ("  ", "a   b", "a   b"),
    ],
)
def test_values(value: str, text: str, expected: str) -> None:
    assert masked(text, x=value) == expected


def test_a_short_value_is_not_cut_out_of_a_longer_one() -> None:
    found = Redaction()
    found.hide("x", ["tower", "tower.example.org"])
    assert found.apply("tower.example.org") == "<x-1>"
