# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which drive it is: as sysfs prints it, as people copy it."""

import pytest

from libvirt_hooks.identity import Expected, parse_eui, parse_serial

EUI = "0025385b71b00c11"
NGUID = "36483331545014550025384100000001"


@pytest.mark.parametrize(
    "serial",
    [
        pytest.param("S2GLNX0HB00000", id="the same"),
        pytest.param("S2GLNX0HB00000      ", id="padded, as the kernel prints it"),
        pytest.param("s2glnx0hb00000", id="in lower case"),
        pytest.param("S2GL NX0H B00000", id="with spaces"),
    ],
)
def test_a_serial_that_matches(serial: str) -> None:
    assert Expected("S2GLNX0HB00000").mismatch(serial, ()) is None
    assert Expected(serial).mismatch("S2GLNX0HB00000", None) is None


@pytest.mark.parametrize(
    "eui",
    [
        pytest.param("00 25 38 5b 71 b0 0c 11", id="eui"),
        pytest.param("eui.0025385b71b00c11", id="wwid"),
        pytest.param("nvme-eui.0025385b71b00c11", id="a link of /dev/disk/by-id"),
        pytest.param("0x0025385B71B00C11", id="nvme-cli"),
        pytest.param("00:25:38:5b:71:b0:0c:11", id="colons"),
        pytest.param("0025385b-71b00c11\n", id="dashes"),
    ],
)
def test_an_eui_that_matches(eui: str) -> None:
    assert Expected(eui=EUI).mismatch(None, [NGUID, eui]) is None
    assert Expected(eui=eui).mismatch(None, [EUI]) is None
    assert parse_eui(eui) == EUI


def test_an_nguid_matches() -> None:
    assert parse_eui("36483331-5450-1455-0025-384100000001") == NGUID
    assert Expected(eui=NGUID).mismatch(None, ["36483331-5450-1455-0025-384100000001"]) is None


WWID = "nvme.144d-533247-53414d53554e47-00000001"


@pytest.mark.parametrize(
    ("expected", "serial", "euis", "said"),
    [
        pytest.param(Expected(), None, None, None, id="nothing is expected"),
        pytest.param(Expected("A"), "B ", (), "serial is 'B', expected 'A'", id="another serial"),
        pytest.param(Expected("A-1"), "A1", (), "serial is 'A1', expected 'A-1'", id="a dash"),
        pytest.param(Expected("A"), "", (), "serial is '', expected 'A'", id="an empty serial"),
        pytest.param(Expected("A"), None, (), "serial is not known, expected 'A'", id="no serial"),
        pytest.param(
            Expected(eui=EUI), "A", [NGUID], f"EUI is '{NGUID}', expected '{EUI}'", id="another EUI"
        ),
        pytest.param(Expected(eui=EUI), "A", (), f"EUI is none, expected '{EUI}'", id="no EUI"),
        pytest.param(
            Expected(eui=EUI), "A", [WWID, ""], f"EUI is none, expected '{EUI}'", id="wwid"
        ),
        pytest.param(
            Expected(eui=EUI), None, None, f"EUI is not known, expected '{EUI}'", id="unknown EUI"
        ),
        pytest.param(
            Expected("A", EUI),
            "B",
            [EUI],
            "serial is 'B', expected 'A'",
            id="only the EUI is right",
        ),
        pytest.param(
            Expected("A", EUI), "A", (), f"EUI is none, expected '{EUI}'", id="only the serial is"
        ),
        pytest.param(Expected("A", EUI), "A", [EUI], None, id="both are"),
    ],
)
def test_mismatch(
    expected: Expected, serial: str | None, euis: list[str] | None, said: str | None
) -> None:
    assert expected.mismatch(serial, euis) == said


def test_a_message_is_a_line() -> None:
    said = Expected("A", EUI).mismatch("\n" * 1000, None)
    assert said is not None
    assert said.isprintable()
    said = Expected("A" * 20, EUI).mismatch("A" * 20, [f"{number:016x}" for number in range(1000)])
    assert said is not None
    assert len(said) < 160


@pytest.mark.parametrize("text", ["A", "S2GLNX0HB00000", "x y", "~" * 20, " A "])
def test_serials(text: str) -> None:
    assert parse_serial(text) == text.strip()


@pytest.mark.parametrize("text", ["", " ", "A" * 21, "é", "a\tb", "a\n"])
def test_no_serials(text: str) -> None:
    with pytest.raises(ValueError, match="^1 to 20 printable ASCII characters$"):
        parse_serial(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "eui.",
        EUI[:-1],
        EUI + "0",
        EUI + "00000000",
        "g" * 16,
        "0" * 16,
        "0" * 32,
        f"eui.eui.{EUI}",
        f"{EUI[:8]}0x{EUI[8:]}",
        WWID,
        f"uuid.{NGUID}",
        "\u0661" * 16,
    ],
)
def test_no_euis(text: str) -> None:
    with pytest.raises(ValueError, match="^16 or 32 hexadecimal digits, as in eui or nguid"):
        parse_eui(text)
