# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which drive it is, whatever its address: a serial number, or an EUI of a namespace. Pure.

Sources: kernel drivers/nvme/host/core.c, v6.1 (serial: 20 characters, padded with spaces;
eui_show: "00 25 38 …"; nguid_show: dashes as in a uuid; wwid_show: "eui.002538…", but "uuid.…" or
"nvme.<vendor>-<serial>-…" for drives without); NVM Express Base Specification 2.0, Identify
Controller (SN: ASCII), Identify Namespace (EUI64, NGUID: zero if there is none).
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from .address import quoted

_SERIAL = re.compile(r"[!-~](?:[ -~]{0,18}[!-~])?", re.A)
_PREFIX = re.compile(r"(?:nvme-)?eui\.|0x", re.I)
_EUI = re.compile(r"[0-9a-f]{16}(?:[0-9a-f]{16})?")


class Expected(NamedTuple):
    """The drive that a guest expects behind an address; None: any.

    Both are compared as people copy them: a serial without regard to case and spaces, an EUI-64
    or NGUID also without dashes, colons and the prefixes of ``wwid`` and /dev/disk/by-id.
    """

    serial: str | None = None
    eui: str | None = None

    def mismatch(self, serial: str | None, euis: Iterable[str] | None) -> str | None:
        """Return in what the drive that is there differs, None if it is the one expected.

        :param serial: what sysfs prints; None: not known.
        :param euis: what ``eui``, ``nguid`` and ``wwid`` print, of every namespace; None: not
            known. A drive that says nothing about itself is not the one expected.
        """
        if self.serial is not None and (serial is None or _folded(serial) != _folded(self.serial)):
            seen = "not known" if serial is None else quoted(serial.strip())
            return f"serial is {seen}, expected {quoted(self.serial)}"
        if self.eui is not None:
            found = sorted(each for each in map(_bare_eui, euis or ()) if _EUI.fullmatch(each))
            if _bare_eui(self.eui) not in found:
                nothing = "not known" if euis is None else "none"
                seen = " and ".join(map(quoted, found[:3])) or nothing
                return f"EUI is {seen}, expected {quoted(self.eui)}"
        return None


def parse_serial(text: str) -> str:
    """Read a serial number.

    :raises ValueError: no controller can have it.
    """
    serial = text.strip(" ")
    if _SERIAL.fullmatch(serial) is None:
        raise ValueError("1 to 20 printable ASCII characters")
    return serial


def parse_eui(text: str) -> str:
    """Read an EUI-64 or NGUID; return its 16 or 32 hexadecimal digits.

    :raises ValueError: it is neither, or all zero, which says that there is none.
    """
    eui = _bare_eui(text)
    if _EUI.fullmatch(eui) is None or not eui.strip("0"):
        raise ValueError("16 or 32 hexadecimal digits, as in eui or nguid of sysfs")
    return eui


def _folded(serial: str) -> str:
    # A dash stays: it is the drive's own.
    return serial.replace(" ", "").casefold()


def _bare_eui(text: str) -> str:
    bare = text.strip()
    prefix = _PREFIX.match(bare)
    return re.sub("[ :-]", "", bare[prefix.end() :] if prefix else bare).lower()
