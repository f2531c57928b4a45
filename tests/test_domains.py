# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests by libvirt's own test driver, which needs no daemon."""

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from libvirt_hooks import cli
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.command import domains
from libvirt_hooks.errors import BadDomain, BadName, HookError
from libvirt_hooks.linux import policy_file
from libvirt_hooks.simulator.domain_xml import Assigned, domain_xml

libvirt: Any = pytest.importorskip("libvirt")

DEFAULT = "test:///default"
BDF = Bdf.parse("0000:01:00.0")
OFF = "11111111-1111-1111-1111-111111111111"
NAMED_LIKE_IT = "22222222-2222-2222-2222-222222222222"
NO_DAEMON = "qemu+unix:///system?socket=/nonexistent/libvirt-sock"


def definition(name: str, uuid: str, *devices: Assigned) -> bytes:
    return domain_xml(name, uuid, devices, "stopped").replace(b"type='kvm'", b"type='test'")


@pytest.fixture
def connection() -> Iterator[Any]:
    """The driver keeps what it was told as long as somebody is connected."""
    opened = libvirt.open(DEFAULT)
    yield opened
    opened.close()


@pytest.fixture
def off(connection: Any) -> Iterator[None]:
    domain = connection.defineXML(definition("off", OFF, Assigned(BDF, managed=False)).decode())
    yield
    domain.undefine()


@pytest.mark.parametrize("name", ["off", OFF])
def test_by_name_or_uuid(off: None, name: str) -> None:
    found = domains.definition(name, DEFAULT)
    assert (found.uuid, found.name) == (OFF, "off")
    assert [(each.bdf, each.managed) for each in found.candidates] == [(BDF, False)]


def test_a_name_goes_before_a_uuid(connection: Any, off: None) -> None:
    domain = connection.defineXML(definition(OFF, NAMED_LIKE_IT).decode())
    try:
        assert domains.definition(OFF, DEFAULT).uuid == NAMED_LIKE_IT
    finally:
        domain.undefine()


def test_as_it_runs_or_as_it_is_defined(connection: Any) -> None:
    uuid = connection.lookupByName("test").UUIDString()
    connection.defineXML(definition("test", uuid, Assigned(BDF)).decode())
    assert domains.definition("test", DEFAULT).candidates == ()
    assert [e.bdf for e in domains.definition("test", DEFAULT, inactive=True).candidates] == [BDF]


def test_names_and_who_runs(connection: Any, off: None) -> None:
    uuid = connection.lookupByName("test").UUIDString()
    assert domains.names(DEFAULT) == {uuid: "test", OFF: "off"}
    assert domains.running(DEFAULT) == {uuid}


def test_every_definition(connection: Any, off: None) -> None:
    found = domains.definitions(DEFAULT)
    assert found is not None
    assert sorted(each.name for each in found) == ["off", "test"]
    assert domains.definitions(NO_DAEMON) is None


@pytest.mark.parametrize("uri", [NO_DAEMON, "test:///nonexistent.xml", "nonsense"])
def test_names_where_nobody_answers(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert domains.names(uri) == {}
    assert domains.running(uri) == frozenset()
    assert capfd.readouterr() == ("", "")


def test_a_guest_that_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadName) as caught:
        domains.definition("nobody", DEFAULT)
    assert caught.value.message == f"nobody: asking {DEFAULT} for it: Domain not found"
    assert caught.value.hint == f"virsh -c {DEFAULT} list --all"
    assert capfd.readouterr() == ("", "")


def test_a_daemon_that_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HookError) as caught:
        domains.definition("guest", NO_DAEMON)
    assert caught.value.message.startswith(f"{NO_DAEMON}: connecting: Failed to connect socket")
    assert caught.value.hint.endswith("or give the guest's definition with --xml FILE")
    assert caught.value.exit_status == 1
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt-python is not installed."""
    monkeypatch.setitem(sys.modules, "libvirt", None)


def test_without_libvirt_python(without: None) -> None:
    assert domains.names() == {}
    assert domains.running() == frozenset()
    with pytest.raises(HookError) as caught:
        domains.definition("guest")
    assert caught.value.message.startswith("guest: asking libvirt: ")
    assert caught.value.message.endswith(", expected libvirt-python")
    assert caught.value.hint == "install python3-libvirt"


def asked(domain: str | None = None, xml: Path | None = None) -> Namespace:
    return Namespace(domain=domain, xml=None if xml is None else str(xml), connect=DEFAULT)


def test_what_a_person_has_chosen(off: None, without: None, tmp_path: Path) -> None:
    """A file is read without libvirt."""
    (tmp_path / "xml").write_bytes(definition("file", OFF))
    found = domains.chosen(asked(xml=tmp_path / "xml"))
    assert found is not None and found.name == "file"
    assert domains.chosen(asked()) is None


def test_what_a_person_has_chosen_by_name(off: None) -> None:
    found = domains.chosen(asked("off"))
    assert found is not None and found.uuid == OFF


def test_what_a_person_cannot_have_meant(tmp_path: Path) -> None:
    with pytest.raises(BadName, match="off: both DOMAIN and --xml, expected one of them"):
        domains.chosen(asked("off", tmp_path / "xml"))
    with pytest.raises(BadDomain, match="reading: No such file"):
        domains.chosen(asked(xml=tmp_path / "xml"))


def test_a_definition_on_stdin(without: None, tmp_path: Path) -> None:
    """As `virsh dumpxml` writes it."""
    (tmp_path / "xml").write_bytes(definition("piped", OFF))
    before = os.dup(0)
    try:
        with open(tmp_path / "xml", "rb") as file:
            os.dup2(file.fileno(), 0)
        assert domains.read("-").name == "piped"
        with pytest.raises(BadDomain, match="^-: domain XML: not well-formed"):
            domains.read("-")  # at its end, and open still
    finally:
        os.dup2(before, 0)
        os.close(before)


def test_the_policy_of_a_guest_by_name(
    connection: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(policy_file, "examine", lambda: policy_file.Found("deadline = 30\n"))
    metadata = b'<metadata><p:policy xmlns:p="urn:virt-nvme-reset:policy:1" mode="off"/></metadata>'
    xml = definition("off", OFF).replace(b"<devices>", metadata + b"<devices>")
    domain = connection.defineXML(xml.decode())
    try:
        assert cli.main(["config", "off", "-c", DEFAULT]) == 0
    finally:
        domain.undefine()
    mode, _, _, deadline, *_ = capfd.readouterr().out.splitlines()
    assert mode.split("#") == ['mode = "off"                      ', " domain metadata"]
    assert deadline.startswith("deadline = 30 ")


def test_the_policy_of_a_guest_that_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "nobody", "--connect", DEFAULT]) == 2
    assert capfd.readouterr() == (
        "",
        f"virt-nvme-reset: nobody: asking {DEFAULT} for it: Domain not found\n"
        f"  hint: virsh -c {DEFAULT} list --all\n",
    )
