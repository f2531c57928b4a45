# SPDX-License-Identifier: LGPL-2.1-or-later
"""The policy in a domain's own metadata, to a GuestPolicy.

    <vnr:policy xmlns:vnr="urn:virt-nvme-reset:policy:1" mode="observe" deadline="30">
      <vnr:expect bdf="0000:03:00.0" serial="S2GLNX0HB00000" eui="0025385b71b00c11"/>
    </vnr:policy>

Sources: libvirt src/conf/domain_conf.c (virDomainDefSetMetadata), src/util/virxml.c
(virXMLInjectNamespace: the prefix is the user's, children get the namespace too).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from lxml import etree

from .address import quoted
from .bdf import Bdf
from .errors import BadDomain
from .identity import Expected, parse_eui, parse_serial
from .policy import MOST_SECONDS, SILENT, FailedDisable, GuestPolicy, Mode, either, nearest

NAMESPACE = "urn:virt-nvme-reset:policy:1"

Reader = Callable[[str], Any]
"""An attribute's text to a value; raises ValueError with what it should have been."""

_DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.A)


def parse(elements: Sequence[etree._Element]) -> GuestPolicy:
    """Read what of a domain's metadata is in our namespace.

    :raises BadDomain: it cannot be believed; it never quotes more than one attribute of ours.
    """
    if not elements:
        return SILENT
    policy, *others = elements
    _check_name(policy, "policy")
    if others:
        raise _bad(others[0], f"a second policy against one, in line {policy.sourceline}")
    _check_content(policy, "policy")
    fields = _attributes(policy, "policy", _POLICY)
    found = GuestPolicy(**fields, expected=_expected(policy))
    if found.deadline and found.deadline_cap and found.deadline > found.deadline_cap:
        why = f"{found.deadline:g} s against at most deadline_cap, {found.deadline_cap:g} s"
        raise _bad(policy, f"policy: deadline: {why}")
    return found


def _expected(policy: etree._Element) -> dict[Bdf, Expected]:
    expected: dict[Bdf, Expected] = {}
    for element in policy.iterchildren():
        _check_name(element, "expect")
        _check_content(element, "expect")
        if len(element):
            raise _bad(element[0], f"expect: element {quoted(_local(element[0]))} against none")
        fields = _attributes(element, "expect", _EXPECT)
        bdf = fields.pop("bdf", None)
        if bdf is None or not fields:
            raise _bad(element, "expect: against bdf, and serial or eui or both")
        if bdf in expected:
            raise _bad(element, f"expect: bdf: {bdf} a second time")
        expected[bdf] = Expected(**fields)
    return expected


def _check_name(element: etree._Element, name: str) -> None:
    found = _local(element)
    if found != name:
        raise _bad(element, f"unknown element {quoted(found)}, {nearest(found, [name])}")
    if element.tag != f"{{{NAMESPACE}}}{name}":
        raise _bad(element, f"{name}: another namespace than {NAMESPACE}")


def _check_content(element: etree._Element, name: str) -> None:
    if any((text or "").strip() for text in (element.text, *(each.tail for each in element))):
        raise _bad(element, f"{name}: text against attributes only")


def _attributes(
    element: etree._Element, name: str, readers: Mapping[str, Reader]
) -> dict[str, Any]:
    fields = {}
    for key, value in ((str(key), str(value)) for key, value in element.items()):
        reader = readers.get(key)
        if reader is None:
            raise _bad(element, f"{name}: unknown attribute {quoted(key)}, {nearest(key, readers)}")
        try:
            fields[key] = reader(value)
        except ValueError as error:
            raise _bad(element, f"{name}: {key}: {quoted(value)} against {error}") from None
    return fields


def _bad(element: etree._Element, why: str) -> BadDomain:
    return BadDomain(f"domain XML: line {element.sourceline}: {why}")


def _local(element: etree._Element) -> str:
    return str(etree.QName(element).localname)


def _one_of(kind: type[StrEnum]) -> Reader:
    def read(text: str) -> StrEnum:
        if text not in list(kind):
            raise ValueError(either(kind))
        return kind(text)

    return read


def _seconds(text: str) -> float:
    if _DECIMAL.fullmatch(text) is None or not 0 < float(text) <= MOST_SECONDS:
        raise ValueError(f"seconds, more than 0 and at most {MOST_SECONDS:g}")
    return float(text)


def _bdf(text: str) -> Bdf:
    try:
        return Bdf.parse(text)
    except ValueError:
        raise ValueError("a PCI address such as 0000:03:00.0") from None


_POLICY: Mapping[str, Reader] = {
    "mode": _one_of(Mode),
    "failed_disable": _one_of(FailedDisable),
    "deadline": _seconds,
    "deadline_cap": _seconds,
}
_EXPECT: Mapping[str, Reader] = {"bdf": _bdf, "serial": parse_serial, "eui": parse_eui}
