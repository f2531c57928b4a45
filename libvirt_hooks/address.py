# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's grammar of <address domain= bus= slot= function=>, which is C's strtoul with base 0.

Written by hand because int(text, 0) is another grammar: it refuses ``010``, takes ``1_0``.
Sources: libvirt src/conf/device_conf.c (virPCIDeviceAddressParseXML), src/util/virstring.c
(virStrToLong_uip, virStrToLong_ullp), src/util/virpci.c (virPCIDeviceAddressIsValid).
"""

import re
from collections.abc import Mapping

from .bdf import Bdf
from .errors import BadDomain

# Digits and isspace() of the C locale, spelled out: \d and \s would let other scripts in.
_NUMBER = re.compile(
    r"[ \t\n\v\f\r]*\+?(?:0[xX](?P<hex>[0-9a-fA-F]+)|(?P<oct>0[0-7]*)|(?P<dec>[1-9][0-9]*))"
)
_BASES = {"hex": 16, "oct": 8, "dec": 10}

# The most digits a 64-bit number has, in octal. Python refuses to convert thousands of them with
# a ValueError, so the length is looked at first.
_MOST_DIGITS = 22

_SHOWN = 40


def quoted(text: str) -> str:
    """Return *text* as a message may show it: on one line, at most 40 characters, quoted."""
    shown = repr(text[:_SHOWN])
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."


def parse_number(text: str, name: str, maximum: int) -> int:
    """Read the attribute *name* of an <address> as libvirt does.

    :raises BadDomain: libvirt would not read *text* to its end, or it is above *maximum*.
    """
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise BadDomain(
            f"address {name}: not a number: {quoted(text)} against 10, 0xa or 012 (octal)"
        )
    # fullmatch() took exactly one of the three groups, and that is its name.
    kind = str(found.lastgroup)
    digits = found[kind].lstrip("0") or "0"
    if len(digits) > _MOST_DIGITS or int(digits, _BASES[kind]) > maximum:
        raise BadDomain(f"address {name}: too large: {quoted(text)} against at most {maximum:#x}")
    return int(digits, _BASES[kind])


def parse_address(attributes: Mapping[str, str]) -> Bdf:
    """Return the PCI function that the attributes of an <address> name; each defaults to 0.

    :raises BadDomain: they name none.
    """

    def read(name: str, maximum: int) -> int:
        return parse_number(attributes.get(name, "0"), name, maximum)

    # libvirt takes an address whose domain, bus and slot are all 0 for "not given" and skips its
    # range checks, so that function='8' gets through there. No PCI function has that address, and
    # a Bdf must be one: it is refused here like any other.
    return Bdf(
        read("domain", 0xFFFFFFFF), read("bus", 0xFF), read("slot", 0x1F), read("function", 7)
    )
