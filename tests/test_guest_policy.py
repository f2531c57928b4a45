# SPDX-License-Identifier: LGPL-2.1-or-later
"""The policy in a domain's metadata: what it says, what is wrong with it, what is not ours."""

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.domain import Controller
from libvirt_hooks.domain import parse as parse_domain
from libvirt_hooks.errors import BadDomain
from libvirt_hooks.guest_policy import NAMESPACE, parse
from libvirt_hooks.identity import Expected
from libvirt_hooks.policy import SILENT, FailedDisable, GuestPolicy, Mode

EUI = "0025385b71b00c11"
BDF = Bdf(0, 3, 0, 0)


def read(ours: str) -> GuestPolicy:
    metadata = etree.fromstring(f"<metadata xmlns:vnr='{NAMESPACE}'>{ours}</metadata>")
    return parse(list(metadata))


def policy(attributes: str = "", inside: str = "") -> str:
    return f"<vnr:policy {attributes}>{inside}</vnr:policy>"


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        pytest.param("", SILENT, id="no policy"),
        pytest.param(policy(), SILENT, id="one that says nothing"),
        pytest.param(policy("", "\n  \n"), SILENT, id="space"),
        pytest.param(
            policy("mode='observe' failed_disable='go-on' deadline='30' deadline_cap='60.5'"),
            GuestPolicy(Mode.OBSERVE, FailedDisable.GO_ON, 30.0, 60.5),
            id="all its values",
        ),
        pytest.param(policy("deadline='600'"), GuestPolicy(deadline=600.0), id="the most"),
        pytest.param(
            policy("deadline='30' deadline_cap='30'"),
            GuestPolicy(deadline=30.0, deadline_cap=30.0),
            id="no more than the cap",
        ),
        pytest.param(
            policy("", f"\n<vnr:expect bdf='0000:03:00.0' serial='S2GL' eui='eui.{EUI}'/>\n"),
            GuestPolicy(expected={BDF: Expected("S2GL", EUI)}),
            id="an expected drive",
        ),
        pytest.param(
            policy(
                "", "<vnr:expect bdf='03:00.0' serial='A'/><vnr:expect bdf='04:00.0' serial='B'/>"
            ),
            GuestPolicy(expected={BDF: Expected("A"), Bdf(0, 4, 0, 0): Expected("B")}),
            id="two",
        ),
        pytest.param(
            f"<policy xmlns='{NAMESPACE}' mode='off'><expect bdf='03:00.0' serial='A'/></policy>",
            GuestPolicy(Mode.OFF, expected={BDF: Expected("A")}),
            id="without a prefix",
        ),
    ],
)
def test_parse(ours: str, expected: GuestPolicy) -> None:
    assert read(ours) == expected


SECONDS = "seconds, more than 0 and at most 600"
ADDRESS = "a PCI address such as 0000:03:00.0"


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        pytest.param(
            "\n<vnr:polcy/>", "2: unknown element 'polcy', did you mean policy?", id="a slip"
        ),
        pytest.param("<vnr:x/>", "1: unknown element 'x', expected policy", id="nothing like ours"),
        pytest.param(
            f"{policy()}\n{policy()}",
            "2: a second policy against one, in line 1",
            id="two policies",
        ),
        pytest.param(
            policy("mod='off'"), "1: policy: unknown attribute 'mod', did you mean mode?", id="mod"
        ),
        pytest.param(
            policy("foo='off'"),
            "1: policy: unknown attribute 'foo', expected mode, failed_disable, deadline or"
            " deadline_cap",
            id="foo",
        ),
        pytest.param(
            policy("vnr:mode='off'"),
            "1: policy: unknown attribute '{urn:virt-nvme-reset:policy:1}mode', expected",
            id="an attribute with a prefix",
        ),
        pytest.param(
            policy("mode='Off'"),
            "1: policy: mode: 'Off' against enforce, observe or off",
            id="mode",
        ),
        pytest.param(
            policy("failed_disable='no'"),
            "1: policy: failed_disable: 'no' against refuse, refuse-lethal or go-on",
            id="failed_disable",
        ),
        *(
            pytest.param(
                policy(f"deadline='{text}'"),
                f"1: policy: deadline: '{text}' against {SECONDS}",
                id=f"deadline {text}",
            )
            for text in [
                "",
                "0",
                "0.0",
                "-1",
                "+1",
                "nan",
                "inf",
                "1e2",
                "1_0",
                "601",
                " 30",
                "30 s",
            ]
        ),
        pytest.param(
            policy(f"deadline_cap='{'9' * 5000}'"), "1: policy: deadline_cap: '999", id="infinite"
        ),
        pytest.param(
            policy("deadline='\u0663'"), f"1: policy: deadline: '\u0663' against {SECONDS}", id="3"
        ),
        pytest.param(
            policy("deadline='61' deadline_cap='60'"),
            "1: policy: deadline: 61 s against at most deadline_cap, 60 s",
            id="above the cap",
        ),
        pytest.param(policy("", "mode"), "1: policy: text against attributes only", id="text"),
        pytest.param(
            policy("", "<vnr:expect bdf='03:00.0' serial='A'/>mode"),
            "1: policy: text against attributes only",
            id="text after an element",
        ),
        pytest.param(
            policy("", "\n<vnr:expct/>"), "2: unknown element 'expct', did you mean expect?", id="e"
        ),
        pytest.param(
            policy("", "<expect bdf='03:00.0' serial='A'/>"),
            f"1: expect: another namespace than {NAMESPACE}",
            id="a child without the prefix",
        ),
        pytest.param(
            policy("", "<vnr:expect serial='A'/>"), "1: expect: against bdf, and", id="no address"
        ),
        pytest.param(
            policy("", "<vnr:expect bdf='03:00.0'/>"),
            "1: expect: against bdf, and serial or eui or both",
            id="nothing expected",
        ),
        pytest.param(
            policy("", "<vnr:expect bdf='03' serial='A'/>"),
            f"1: expect: bdf: '03' against {ADDRESS}",
            id="no PCI address",
        ),
        pytest.param(
            policy(
                "",
                "<vnr:expect bdf='03:00.0' serial='A'/>\n"
                "<vnr:expect bdf='0000:03:00.0' serial='A'/>",
            ),
            "2: expect: bdf: 0000:03:00.0 a second time",
            id="an address in two spellings",
        ),
        pytest.param(
            policy("", "<vnr:expect bdf='03:00.0' serial=''/>"),
            "1: expect: serial: '' against 1 to 20 printable ASCII characters",
            id="an empty serial",
        ),
        pytest.param(
            policy("", "<vnr:expect bdf='03:00.0' eui='1'/>"),
            "1: expect: eui: '1' against 16 or 32 hexadecimal digits",
            id="a short EUI",
        ),
        pytest.param(
            policy("", "<vnr:expect bdf='03:00.0' seriel='A'/>"),
            "1: expect: unknown attribute 'seriel', did you mean serial?",
            id="a slip in an attribute",
        ),
        pytest.param(
            policy("", "<vnr:expect bdf='03:00.0' serial='A'>\n<x/></vnr:expect>"),
            "2: expect: element 'x' against none",
            id="an element in it",
        ),
        pytest.param(
            policy("", "<vnr:expect bdf='03:00.0'>A</vnr:expect>"),
            "1: expect: text against attributes only",
            id="text in it",
        ),
    ],
)
def test_refused(ours: str, said: str) -> None:
    with pytest.raises(BadDomain) as caught:
        read(ours)
    assert caught.value.message.startswith(f"domain XML: line {said}")


NAMES = st.sampled_from(
    ["mode", "failed_disable", "deadline", "deadline_cap", "bdf", "serial", "eui"]
)
TEXTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")
) | st.sampled_from(["off", "go-on", "30", "0.0", "03:00.0", "0000:03:00.0", "A", EUI, "nan"])
ATTRIBUTES = st.dictionaries(NAMES | st.just(f"{{{NAMESPACE}}}mode"), TEXTS, max_size=4)
TAGS = st.sampled_from(["policy", "expect", "x"])
SPACES = st.sampled_from([NAMESPACE, "", "urn:other"])


@st.composite
def elements(draw: st.DrawFn) -> etree._Element:
    element = etree.Element(etree.QName(draw(SPACES) or None, draw(TAGS)), draw(ATTRIBUTES))
    element.text, element.tail = draw(TEXTS), draw(TEXTS)
    if draw(st.booleans()):
        element.extend(draw(st.lists(elements(), max_size=2)))
    return element


@given(st.lists(elements(), max_size=2))
def test_whatever_the_elements_only_bad_domain_is_raised(ours: list[etree._Element]) -> None:
    try:
        parse(ours)
    except BadDomain as error:
        assert error.message.isprintable()
        assert len(error.message) < 200


@given(ATTRIBUTES, st.lists(ATTRIBUTES, max_size=2))
def test_whatever_the_attributes_only_bad_domain_is_raised(
    attributes: dict[str, str], expects: list[dict[str, str]]
) -> None:
    element = etree.Element(etree.QName(NAMESPACE, "policy"), attributes)
    element.extend(etree.Element(etree.QName(NAMESPACE, "expect"), each) for each in expects)
    try:
        found = parse([element])
    except BadDomain as error:
        assert error.message.isprintable()
        assert len(error.message) < 200
    else:
        assert len(found.expected) == len(expects)


UUID = "6f1c8a52-3b0e-4d1f-9a77-5e2c40d9b831"
HOSTDEV = "<hostdev type='pci'><source><address bus='3'/></source></hostdev>"


def wrap(devices: str, before: str = "") -> bytes:
    head = f"<domain><name>guest</name><uuid>{UUID}</uuid>{before}"
    return f"{head}<devices>{devices}</devices></domain>".encode()


def metadata(inside: str) -> bytes:
    return wrap(HOSTDEV, f"<metadata xmlns:vnr='{NAMESPACE}'>{inside}</metadata>")


OBSERVE = "<vnr:policy mode='observe'/>"


@pytest.mark.parametrize(
    "xml, expected",
    [
        pytest.param(wrap(""), SILENT, id="no metadata"),
        pytest.param(metadata(""), SILENT, id="none of ours"),
        pytest.param(metadata(OBSERVE), GuestPolicy(Mode.OBSERVE), id="a policy"),
        pytest.param(
            metadata(f"<a:policy xmlns:a='urn:a' mode='x'><b/></a:policy>text{OBSERVE}<policy/>"),
            GuestPolicy(Mode.OBSERVE),
            id="among others'",
        ),
        pytest.param(
            metadata(f"<a:x xmlns:a='urn:a'>{OBSERVE}</a:x>"), SILENT, id="inside of another's"
        ),
        pytest.param(
            metadata(
                f"{OBSERVE}</metadata><metadata><vnr:policy mode='off' xmlns:vnr='{NAMESPACE}'/>"
            ),
            GuestPolicy(Mode.OBSERVE),
            id="only libvirt's metadata: the first",
        ),
        pytest.param(
            wrap(f"<metadata xmlns:vnr='{NAMESPACE}'>{OBSERVE}</metadata>"),
            SILENT,
            id="metadata somewhere else",
        ),
        pytest.param(
            metadata("<vnr:policy><vnr:expect bdf='03:00.0' serial='A'/></vnr:policy>"),
            GuestPolicy(expected={Bdf(0, 3, 0, 0): Expected("A")}),
            id="an expected drive",
        ),
    ],
)
def test_the_policy_in_the_metadata(xml: bytes, expected: GuestPolicy) -> None:
    domain = parse_domain(xml)
    assert domain.policy == expected
    assert domain.policy_error is None


@pytest.mark.parametrize(
    "inside, message",
    [
        pytest.param(
            "\n<vnr:policy mod='off'/>",
            "line 2: policy: unknown attribute 'mod', did you mean mode?",
            id="a slip",
        ),
        pytest.param(
            "<vnr:polcy/>", "line 1: unknown element 'polcy', did you mean policy?", id="another"
        ),
        pytest.param(OBSERVE + "\n" + OBSERVE, "line 2: a second policy against one", id="two"),
    ],
)
def test_a_mistake_in_the_metadata_is_carried_not_raised(inside: str, message: str) -> None:
    domain = parse_domain(metadata(inside))
    assert domain.candidates == (Controller(BDF, False, "hostdev"),)
    assert domain.policy == SILENT
    assert domain.policy_error is not None
    assert domain.policy_error.message.startswith(f"domain XML: {message}")
    command = f"virsh metadata {UUID} --uri {NAMESPACE} --key vnr --edit --config"
    assert domain.policy_error.hint == f"correct it: {command}"


def test_a_drive_that_is_expected_and_not_there_is_told_and_the_rest_is_kept() -> None:
    expect = "<vnr:expect bdf='05:00.0' serial='A'/><vnr:expect bdf='04:00.0' serial='A'/>"
    domain = parse_domain(metadata(f"<vnr:policy mode='off'>{expect}</vnr:policy>"))
    assert domain.policy.mode is Mode.OFF
    assert domain.policy_error is not None
    assert domain.policy_error.message == (
        "domain XML: line 1: policy: expect: bdf: 0000:04:00.0 against a PCI function of this guest"
    )
    assert domain.policy_error.hint


def test_nothing_of_the_metadata_is_in_a_message() -> None:
    secret = "correct-horse-battery-staple"
    for inside in (
        f"<vnr:policy><{'a' * 40}{secret}/></vnr:policy>",
        f"<vnr:policy mode='{'a' * 40}{secret}'/>",
        f"<vnr:policy mod='{secret}'/>",
        f"<vnr:policy>{secret}</vnr:policy>",
        f"<vnr:policy><vnr:expect bdf='03:00.0' serial='{'a' * 40}{secret}'/></vnr:policy>",
        f"<vnr:policy mode='x'/><a:b xmlns:a='urn:a' c='{secret}'/>",
    ):
        error = parse_domain(metadata(inside)).policy_error
        assert error is not None
        assert secret not in "".join(traceback.format_exception(error))
