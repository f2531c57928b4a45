# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domain XML: which controllers a guest gets, and what is refused without a word of the XML."""

import random
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.domain import Controller, Domain, parse
from libvirt_hooks.errors import BadDomain
from libvirt_hooks.guest_policy import NAMESPACE

DATA = Path(__file__).parent / "data"
UUID = "6f1c8a52-3b0e-4d1f-9a77-5e2c40d9b831"


def bus(number: int, *, managed: bool = False, element: str = "hostdev") -> Controller:
    return Controller(Bdf(0, number, 0, 0), managed, element)


def wrap(devices: str, before: str = "", after: str = "") -> bytes:
    return (
        f"<domain><name>guest</name><uuid>{UUID}</uuid>{before}"
        f"<devices>{devices}</devices>{after}</domain>"
    ).encode()


def hostdev(number: int, attributes: str = "mode='subsystem' type='pci'") -> str:
    return f"<hostdev {attributes}><source><address bus='{number}'/></source></hostdev>"


def source(number: int, attributes: str = "") -> str:
    return f"<source type='pci' {attributes} namespace='1'><address bus='{number}'/></source>"


def refusal(xml: bytes) -> str:
    with pytest.raises(BadDomain) as caught:
        parse(xml)
    return caught.value.message


@pytest.mark.parametrize(
    "file, name, uuid, candidates",
    [
        pytest.param("sm951.xml", "build", UUID, (bus(3, managed=True),), id="one hostdev"),
        pytest.param(
            "two-controllers.xml",
            "store",
            "0b9a7d1e-64c2-4f37-8e15-c1a2f3d49e60",
            (bus(3, managed=True), bus(0xC1)),
            id="two hostdevs, managed and not",
        ),
        pytest.param(
            "nvme-disks.xml",
            "layers",
            "3e5d2c1b-9f80-4a6e-b7c4-d8e1f2a3b405",
            (
                bus(3, managed=True, element="disk"),
                bus(4, element="disk"),
                bus(5, managed=True, element="disk"),
                bus(6, managed=True, element="disk"),
                bus(7, managed=True, element="disk"),
            ),
            id="disk, backing chain through a file, mirror and its chain, backing of a file",
        ),
        pytest.param(
            "vmd.xml",
            "vmd",
            "d2f0c9b4-7c55-4f0a-b6a8-19e8f7a0c3d5",
            (Controller(Bdf(0x10000, 1, 0, 0), True, "hostdev"),),
            id="a domain of five digits",
        ),
        pytest.param(
            "usb-only.xml", "dongle", "a4e7b3c8-0d19-4c7b-8f44-7e90ab12cd34", (), id="a usb hostdev"
        ),
        pytest.param(
            "plain.xml", "office", "c8b7a695-8473-4251-a0f1-e2d3c4b5a697", (), id="no hostdev"
        ),
    ],
)
def test_whole_domains(file: str, name: str, uuid: str, candidates: tuple[Controller, ...]) -> None:
    assert parse((DATA / file).read_bytes()) == Domain(uuid, name, candidates)


def test_the_plain_guest_passes_the_gate() -> None:
    plain = (DATA / "plain.xml").read_bytes()
    assert b"hostdev" not in plain and b"nvme" not in plain
    assert 6500 < len(plain) < 7500


@pytest.mark.parametrize(
    "devices, expected",
    [
        pytest.param(hostdev(3, "type='pci'"), (bus(3),), id="mode defaults to subsystem"),
        pytest.param(hostdev(3, "type='pci' managed='no'"), (bus(3),), id="managed may be no"),
        pytest.param(hostdev(3, "type='pci' managed='YES'"), (bus(3),), id="only yes is managed"),
        pytest.param(hostdev(3, "mode='capabilities' type='pci'"), (), id="another mode"),
        *(
            pytest.param(hostdev(3, f"mode='subsystem' type='{kind}'"), (), id=f"{kind} hostdev")
            for kind in ("mdev", "usb", "scsi", "scsi_host")
        ),
        pytest.param(
            "<interface type='hostdev' managed='yes'><source><address type='pci' bus='3'/>"
            "</source></interface>",
            (),
            id="a network interface",
        ),
        pytest.param(
            "<controller type='nvme' index='0'><address type='pci' bus='3'/></controller>"
            "<disk type='file'><source file='/a'/><target dev='nvme0n1' bus='nvme'/>"
            "<address type='pci' bus='3'/></disk>",
            (),
            id="an emulated NVMe",
        ),
        pytest.param(
            "<hostdev type='pci'><source><address bus='3'/></source>"
            "<address type='pci' bus='9'/></hostdev>",
            (bus(3),),
            id="the host's address, not the guest's",
        ),
        pytest.param(
            "<hostdev type='pci'><source><address bus='3'/></source>"
            "<address type='unassigned'/></hostdev>",
            (bus(3),),
            id="bound but not given to QEMU",
        ),
        pytest.param(
            "<hostdev type='pci'><source writeFiltering='no'><address bus='3'><zpci uid='0x01'/>"
            "</address></source></hostdev>",
            (bus(3),),
            id="attributes and elements of other machines",
        ),
        pytest.param(
            "<!--a--><?b c?>text<hostdev type='pci'><!--a--><source><?b c?><!--a-->"
            "<address bus='3'><!--a--></address></source></hostdev><!--a-->",
            (bus(3),),
            id="comments and processing instructions anywhere",
        ),
        pytest.param(
            f"<x xmlns='urn:x'>{hostdev(3)}</x><q:hostdev xmlns:q='urn:x' type='pci'/>"
            f"<hostdev xmlns='urn:x' type='pci'/>{hostdev(4)}",
            (bus(4),),
            id="another namespace",
        ),
        pytest.param(
            f"<future>{hostdev(3)}</future>{hostdev(4)}", (bus(4),), id="an unknown element"
        ),
        pytest.param(f"</devices><devices>{hostdev(3)}", (bus(3),), id="a second list of devices"),
    ],
)
def test_devices(devices: str, expected: tuple[Controller, ...]) -> None:
    assert parse(wrap(devices)).candidates == expected


@pytest.mark.parametrize(
    "devices, expected",
    [
        pytest.param(
            f"<disk type='nvme'>{source(3)}</disk>", (bus(3, element="disk"),), id="unmanaged"
        ),
        pytest.param(
            "<disk type='nvme' managed='yes'>" + source(3) + "</disk>",
            (bus(3, element="disk"),),
            id="managed is asked of the source, not of the disk",
        ),
        pytest.param("<disk type='nvme' device='cdrom'/>", (), id="an empty drive"),
        pytest.param(
            "<disk type='nvme'><source type='other'><address bus='3'/></source></disk>",
            (),
            id="a source that is not pci",
        ),
        pytest.param(f"<disk type='file'>{source(3)}</disk>", (), id="a disk that is not nvme"),
        pytest.param(
            f"<disk><backingStore type='nvme'>{source(3)}</backingStore></disk>",
            (bus(3, element="disk"),),
            id="a disk whose type is the default",
        ),
        pytest.param(
            "<disk type='file'>"
            + "<backingStore type='file'>" * 40
            + f"<backingStore type='nvme'>{source(3)}</backingStore>"
            + "</backingStore>" * 40
            + "</disk>",
            (bus(3, element="disk"),),
            id="the bottom of a long chain",
        ),
        pytest.param(
            f"<disk type='block'><mirror type='nvme'>{source(3)}</mirror></disk>",
            (bus(3, element="disk"),),
            id="the mirror of a block device",
        ),
        pytest.param(
            "<disk type='file'><mirror type='file'><backingStore type='nvme'>"
            f"{source(3)}</backingStore></mirror></disk>",
            (bus(3, element="disk"),),
            id="below a mirror that is a file",
        ),
        pytest.param(
            f"<disk type='file'><x><backingStore type='nvme'>{source(3)}</backingStore></x></disk>",
            (),
            id="a chain inside an unknown element",
        ),
    ],
)
def test_disks(devices: str, expected: tuple[Controller, ...]) -> None:
    assert parse(wrap(devices)).candidates == expected


@pytest.mark.parametrize(
    "devices, expected",
    [
        pytest.param(hostdev(3) + hostdev(4) + hostdev(3), (bus(3), bus(4)), id="the same twice"),
        pytest.param(
            hostdev(3) + "<hostdev type='pci'><source><address bus='0x3' slot='00'/></source>"
            "</hostdev>",
            (bus(3),),
            id="the same in another spelling",
        ),
        pytest.param(
            f"<disk type='nvme'>{source(3)}</disk>" + hostdev(3, "type='pci' managed='yes'"),
            (bus(3, managed=True, element="disk"),),
            id="disk and hostdev: the first stays, and is managed if either is",
        ),
        pytest.param(
            hostdev(3, "type='pci' managed='yes'") + f"<disk type='nvme'>{source(3)}</disk>",
            (bus(3, managed=True),),
            id="a later unmanaged one does not undo managed",
        ),
    ],
)
def test_a_controller_is_named_once(devices: str, expected: tuple[Controller, ...]) -> None:
    assert parse(wrap(devices)).candidates == expected


@pytest.mark.parametrize(
    "before, after",
    [
        pytest.param(f"<metadata>{hostdev(3)}</metadata>", "", id="in metadata"),
        pytest.param(
            f"<metadata><devices>{hostdev(3)}</devices></metadata>", "", id="in metadata's devices"
        ),
        pytest.param("", hostdev(3), id="outside of devices"),
        pytest.param(
            "",
            f"<snapshot><domain><devices>{hostdev(3)}</devices></domain></snapshot>",
            id="in a domain inside the domain",
        ),
    ],
)
def test_only_children_of_devices_count(before: str, after: str) -> None:
    assert parse(wrap(hostdev(4), before, after)).candidates == (bus(4),)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(UUID.upper(), id="upper case"),
        pytest.param(UUID.replace("-", ""), id="no dashes"),
        pytest.param(f"\n  {UUID}\n", id="space around"),
        pytest.param(f"6f-{UUID[2:]}", id="dashes anywhere between pairs"),
        pytest.param(f"{UUID[:9]}<!--x-->{UUID[9:]}", id="a comment inside"),
        pytest.param(f"{UUID[:9]}<?x y?>{UUID[9:]}", id="a processing instruction inside"),
        pytest.param(f"<![CDATA[{UUID}]]>", id="CDATA"),
    ],
)
def test_uuid_comes_out_canonical(text: str) -> None:
    assert parse(f"<domain><uuid>{text}</uuid></domain>".encode()).uuid == UUID


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(UUID[:-1], id="a digit short"),
        pytest.param(UUID + "0", id="a digit too many"),
        pytest.param(UUID[:-1] + "g", id="not hexadecimal"),
        pytest.param("{" + UUID + "}", id="in braces, as Python takes it"),
        pytest.param("../../../etc/passwd", id="a path"),
        pytest.param("٣" * 32, id="digits of another script"),
    ],
)
def test_uuid_refused(text: str) -> None:
    message = refusal(f"<domain><uuid>{text}</uuid></domain>".encode())
    assert message.startswith("domain XML: uuid: ")


@pytest.mark.parametrize(
    "xml, message",
    [
        pytest.param(b"", "not well-formed: line 1, column 1", id="nothing"),
        pytest.param(b"<domain>", "not well-formed: line 1, column 9", id="cut off"),
        pytest.param(
            b"<domstatus/>", "root element: 'domstatus' against 'domain'", id="a status file"
        ),
        pytest.param(
            b"<domain xmlns='urn:x'/>",
            "root element: '{urn:x}domain' against 'domain'",
            id="a domain of another namespace",
        ),
        pytest.param(b"<domain/>", "uuid: '' against 32 hexadecimal digits", id="no uuid"),
        pytest.param(
            wrap("\n<hostdev type='pci'><source>\n<address bus='08'/></source></hostdev>"),
            "line 3: address bus: not a number: '08' against 10, 0xa or 012 (octal)",
            id="a bad address, with its line",
        ),
        pytest.param(
            wrap("\n<hostdev type='pci'/>"), "line 2: hostdev: no source address", id="no source"
        ),
        pytest.param(
            wrap("<disk type='nvme'><source type='pci'/></disk>"),
            "line 1: disk: no source address",
            id="no address",
        ),
        pytest.param(
            wrap("<a>" * 300 + "</a>" * 300), "not well-formed: line 1, column ", id="too deep"
        ),
    ],
)
def test_refused(xml: bytes, message: str) -> None:
    assert refusal(xml).startswith(f"domain XML: {message}")


ENTITIES = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
BILLION_LAUGHS = f'<!DOCTYPE domain [<!ENTITY a0 "lol">{ENTITIES}]>'


@pytest.mark.parametrize(
    "xml",
    [
        pytest.param(f"{BILLION_LAUGHS}<domain>&a9;</domain>", id="in text"),
        pytest.param(f"{BILLION_LAUGHS}<domain name='&a9;'/>", id="in an attribute"),
    ],
)
def test_billion_laughs_are_refused(xml: str) -> None:
    assert refusal(xml.encode()).startswith("domain XML: ")


@pytest.mark.parametrize(
    "doctype",
    [
        pytest.param("<!DOCTYPE domain>", id="empty"),
        pytest.param("<!DOCTYPE domain [<!ENTITY a 'b'>]>", id="with an entity"),
        pytest.param(
            "<!DOCTYPE domain [<!ATTLIST hostdev managed CDATA 'yes'>]>", id="with a default"
        ),
    ],
)
def test_doctype_is_refused(doctype: str) -> None:
    message = refusal(doctype.encode() + wrap(hostdev(3)))
    assert message == "domain XML: has a DOCTYPE: against none, as libvirt prints it"


@pytest.mark.parametrize(
    "doctype",
    [
        pytest.param("[<!ENTITY a SYSTEM '{url}'>]", id="entity"),
        pytest.param("[<!ENTITY % a SYSTEM '{url}'> %a;]", id="parameter entity"),
        pytest.param("SYSTEM '{url}'", id="DTD"),
    ],
)
def test_no_other_file_is_read(tmp_path: Path, doctype: str) -> None:
    # Reading it would be an error of its own, and the message another one.
    trap = tmp_path / "trap"
    trap.write_text("<!nonsense <")
    text = "&a;" if "ENTITY a" in doctype else ""
    xml = f"<!DOCTYPE domain {doctype.format(url=trap.as_uri())}>".encode() + wrap(text)
    assert "has a DOCTYPE" in refusal(xml)


def test_nothing_of_the_xml_is_in_a_message() -> None:
    secret = "correct-horse-battery-staple"
    for xml in (
        f"<domain><{secret}></domain>",
        f"<domain><a b='{secret}</domain>",
        f"<domain>&{secret};</domain>",
        f"<domain><uuid>{UUID}{'0' * 40}{secret}</uuid></domain>",
        f"<{'a' * 40}{secret}/>",
    ):
        with pytest.raises(BadDomain) as caught:
            parse(xml.encode())
        # With the chained exceptions, as --debug prints them.
        assert secret not in "".join(traceback.format_exception(caught.value))


EXPECT = "<vnr:expect bdf='03:00.0' serial='A' eui='0025385b71b00c11'/>"
OURS = f"<vnr:policy xmlns:vnr='{NAMESPACE}' mode='off' deadline='30'>{EXPECT}</vnr:policy>"
POLICY = wrap(hostdev(3), f"<metadata>{OURS}</metadata>")
FILES = [POLICY, *(path.read_bytes() for path in sorted(DATA.glob("*.xml")))]
TOKENS = [b"<", b">", b"&", b"'", b"\0", b"<!DOCTYPE a>", b"<![CDATA[", b"<!--", b"\xff\xfe"]
HEADS = [b"", b"\xef\xbb\xbf", b"\xff\xfe"] + [
    f"<?xml version='1.0' encoding='{name}'?>".encode()
    for name in ("utf-8", "latin1", "utf-16", "utf-7", "EBCDIC-US", "Shift_JIS", "none-such")
]


def mangled(file: bytes, head: bytes, changes: int, chance: random.Random) -> bytes:
    """Return *file* after some cuts, copies and insertions."""
    for _ in range(changes):
        at, to = sorted(chance.randrange(len(file) + 1) for _ in range(2))
        to = chance.choice((at, at + 1, at + 8, to))
        piece = chance.choice((b"", file[at:to] * 2, chance.choice(TOKENS), chance.randbytes(3)))
        file = file[:at] + piece + file[to:]
    return head + file


@given(
    st.binary()
    | st.builds(
        mangled,
        st.sampled_from(FILES),
        st.sampled_from(HEADS),
        st.integers(0, 4),
        st.randoms(use_true_random=False),
    )
)
def test_whatever_the_bytes_only_bad_domain_is_raised(xml: bytes) -> None:
    try:
        error = parse(xml).policy_error
    except BadDomain as raised:
        error = raised
    if error is not None:
        assert error.message.isprintable()
        assert len(error.message) < 160
