# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domain XML, as libvirt gives it to a hook, to the host PCI functions that the guest gets.

Which of them are NVMe controllers is the host's to say (class 0x010802), not the XML's.
Sources: libvirt src/conf/domain_conf.c (virDomainHostdevDefParseXML, virDomainDiskDefParseXML,
virDomainDiskBackingStoreParse, virDomainDiskSourceNVMeParse), src/util/viruuid.c (virUUIDParse).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from lxml import etree

from . import guest_policy
from .address import parse_address, quoted
from .bdf import Bdf
from .errors import BadDomain
from .policy import SILENT, GuestPolicy

LARGEST = 16 << 20
"""Bytes: libvirt's own protocol takes a domain of 4 MiB at most (REMOTE_STRING_MAX, 9.0)."""

# What virUUIDParse takes: hex digits in pairs, any dashes between the pairs, space around.
_UUID = re.compile(r"[ \t\n\v\f\r]*(?:-*[0-9a-fA-F]{2}){16}[ \t\n\v\f\r]*")


@dataclass(frozen=True)
class Controller:
    """A PCI function that the guest gets: a candidate until the host is asked for its class."""

    bdf: Bdf
    managed: bool
    element: str  # 'hostdev' or 'disk'


@dataclass(frozen=True)
class Domain:
    """What a hook needs to know of a guest."""

    uuid: str
    name: str
    candidates: tuple[Controller, ...]
    policy: GuestPolicy = SILENT
    """What its metadata says; SILENT if that cannot be read."""
    policy_error: BadDomain | None = None
    """What is wrong with it: to be raised where a start may be refused, and nowhere else."""


def parse(xml: bytes) -> Domain:
    """Read a domain as libvirt prints it; a mistake in our metadata is in the result.

    :raises BadDomain: not XML, not a domain, no UUID, or an address that names no PCI function.
    """
    root = _root(xml)
    domain = Domain(
        uuid=_uuid(_text(root, "uuid")),
        name=_text(root, "name"),
        candidates=_unique(_candidates(root)),
    )
    return _with_policy(domain, root)


def _root(xml: bytes) -> etree._Element:
    if len(xml) > LARGEST:
        raise BadDomain(f"domain XML: too large: {len(xml)} bytes against at most {LARGEST}")
    # Comments and processing instructions are dropped by the parser, so that the text around one
    # is a single text again, as it is for libvirt's XPath.
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(xml, parser)
    except etree.XMLSyntaxError as error:
        # Only the place, and no cause: libxml2's own message quotes the XML, which may hold
        # secrets (migrate passes them), and a chained one would show in a trace.
        line, column = error.position
        raise BadDomain(f"domain XML: not well-formed: line {line}, column {column}") from None
    # libvirt never prints one. Without it there are no entities and no default attributes.
    if root.getroottree().docinfo.internalDTD is not None:
        raise BadDomain("domain XML: has a DOCTYPE: against none, as libvirt prints it")
    if root.tag != "domain":
        raise BadDomain(f"domain XML: root element: {quoted(str(root.tag))} against 'domain'")
    return root


def _child(element: etree._Element, name: str) -> etree._Element | None:
    """The first child called *name*: libvirt, too, looks at no other."""
    return next(element.iterchildren(name), None)


def _text(root: etree._Element, name: str) -> str:
    child = _child(root, name)
    return "" if child is None else str(child.text or "")


def _uuid(text: str) -> str:
    # The result becomes a file name under /run: digits and dashes, nothing else.
    if _UUID.fullmatch(text) is None:
        raise BadDomain(f"domain XML: uuid: {quoted(text)} against 32 hexadecimal digits")
    digits = text.strip().replace("-", "").lower()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _candidates(root: etree._Element) -> Iterator[Controller]:
    # Children of /domain/devices only: <metadata> may hold anything under the same names.
    for devices in root.iterchildren("devices"):
        for element in devices.iterchildren("hostdev", "disk"):
            yield from _hostdev(element) if element.tag == "hostdev" else _disk(element)


def _hostdev(hostdev: etree._Element) -> Iterator[Controller]:
    if hostdev.get("mode", "subsystem") == "subsystem" and hostdev.get("type") == "pci":
        yield Controller(_bdf(_child(hostdev, "source"), hostdev), _managed(hostdev), "hostdev")


def _disk(disk: etree._Element) -> Iterator[Controller]:
    for layer in _layers(disk):
        source = _child(layer, "source")
        # A drive may be empty: then there is no source, and nothing to reset.
        if layer.get("type") == "nvme" and source is not None and source.get("type") == "pci":
            yield Controller(_bdf(source, layer), _managed(source), "disk")


def _layers(disk: etree._Element) -> Iterator[etree._Element]:
    """The disk and its backing chain, then its mirror and that one's."""
    for top in (disk, _child(disk, "mirror")):
        layer = top
        while layer is not None:
            yield layer
            layer = _child(layer, "backingStore")


def _bdf(source: etree._Element | None, owner: etree._Element) -> Bdf:
    address = None if source is None else _child(source, "address")
    if address is None:
        raise BadDomain(f"domain XML: line {owner.sourceline}: {owner.tag}: no source address")
    try:
        return parse_address({str(name): str(value) for name, value in address.items()})
    except BadDomain as error:
        message = f"domain XML: line {address.sourceline}: {error.message}"
        raise BadDomain(message) from None


def _managed(element: etree._Element) -> bool:
    return bool(element.get("managed") == "yes")


def _with_policy(domain: Domain, root: etree._Element) -> Domain:
    metadata = _child(root, "metadata")
    ours = f"{{{guest_policy.NAMESPACE}}}*"
    elements = [] if metadata is None else list(metadata.iterchildren(ours))
    try:
        domain = replace(domain, policy=guest_policy.parse(elements))
        # An expectation that nobody looks at, and somebody relies on. The policy is kept: a drive
        # that is unplugged in a guest's life leaves its expectation behind.
        stray = sorted(domain.policy.expected.keys() - {each.bdf for each in domain.candidates})
        if stray:
            where = f"domain XML: line {elements[0].sourceline}: policy: expect"
            raise BadDomain(f"{where}: bdf: {stray[0]} against a PCI function of this guest")
    except BadDomain as error:
        # The uuid, unlike the name, is safe to be pasted into a shell.
        of_ours = f"--uri {guest_policy.NAMESPACE} --key vnr"
        error.hint = f"correct it: virsh metadata {domain.uuid} {of_ours} --edit --config"
        domain = replace(domain, policy_error=error)
    return domain


def _unique(found: Iterable[Controller]) -> tuple[Controller, ...]:
    """One entry a function: the first, managed if any of them is.

    Two disks may be namespaces of one controller. libvirt binds it for the managed one.
    """
    kept: dict[Bdf, Controller] = {}
    for controller in found:
        first = kept.setdefault(controller.bdf, controller)
        if controller.managed:
            kept[first.bdf] = replace(first, managed=True)
    return tuple(kept.values())
