# SPDX-License-Identifier: LGPL-2.1-or-later
"""Owner records and undo entries."""

import pytest

from libvirt_hooks import journal
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import BadRecord
from libvirt_hooks.journal import Owner, Undo
from libvirt_hooks.simulator.host import SimHost

from .lives import owned

A, B, C = (Bdf(0, bus, 0, 0) for bus in (1, 2, 3))
ONE, TWO = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"


@pytest.fixture
def host() -> SimHost:
    return SimHost()


def test_a_claim_is_found_again(host: SimHost) -> None:
    journal.claim(host, ONE, [B, A, B])
    assert owned(host, ONE) == (A, B)
    assert journal.owner(host, TWO) is None


def test_a_claim_takes_the_controller_from_a_stale_record(host: SimHost) -> None:
    journal.claim(host, ONE, [A, B])
    journal.claim(host, TWO, [B, C])
    assert [(each.uuid, each.bdfs) for each in journal.owners(host)] == [
        (ONE, (A,)),
        (TWO, (B, C)),
    ]


def test_a_claim_that_takes_all_forgets_the_stale_record(host: SimHost) -> None:
    journal.claim(host, ONE, [A])
    journal.claim(host, TWO, [A])
    assert host.records.names(journal.OWNERS) == [TWO]


def test_a_claim_is_no_word_of_any_other_guest(host: SimHost) -> None:
    """Since when another guest has what it has is not for this one to say."""
    journal.claim(host, ONE, [A])
    before = journal.owner(host, ONE)
    host.clock.advance(10.0)
    journal.claim(host, TWO, [B])
    assert journal.owner(host, ONE) == before


def test_disowned_leaves_nothing(host: SimHost) -> None:
    journal.claim(host, ONE, [A])
    journal.keep_only(host, ONE, [])
    journal.keep_only(host, TWO, [])
    assert host.records.names(journal.OWNERS) == []


def test_a_record_of_another_boot_is_none(host: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.claim(host, ONE, [A])
    monkeypatch.setattr(host, "boot_id", lambda: "another")
    assert journal.owner(host, ONE) is None
    assert journal.owners(host) == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(b"", "Expecting value", id="empty"),
        pytest.param(b"[]", "list against dict", id="not an object"),
        pytest.param(b'{"boot_id": "%s"}', "KeyError('bdfs')", id="no bdfs"),
        pytest.param(b'{"boot_id": "%s", "bdfs": ["x"]}', "not a PCI address", id="no address"),
    ],
)
def test_what_is_no_record_is_told(host: SimHost, data: bytes, said: str) -> None:
    host.records.store("owners", ONE, data.replace(b"%s", host.boot_id().encode()))
    with pytest.raises(BadRecord) as caught:
        journal.owner(host, ONE)
    assert caught.value.message.startswith(f"owners/{ONE}: not a record of virt-nvme-reset: ")
    assert said in caught.value.message
    assert f"/run/virt-nvme-reset/owners/{ONE}" in caught.value.hint


def test_undo_keeps_what_was_seen_first(host: SimHost) -> None:
    undo = Undo(host, A)
    undo.keep("reset_method", "flr bus")
    undo.keep("reset_method", "bus")
    undo.keep("power/control", "auto")
    assert Undo(host, A).original("reset_method") == "flr bus"
    assert undo.original("power/control") == "auto"
    assert undo.original("enable") is None
    assert Undo(host, B).original("reset_method") is None


def test_undo_of_an_empty_list_is_remembered_as_such(host: SimHost) -> None:
    undo = Undo(host, A)
    undo.keep("reset_method", "")
    assert undo.original("reset_method") == ""


def test_the_last_entry_forgotten_leaves_no_file(host: SimHost) -> None:
    undo = Undo(host, A)
    undo.keep("reset_method", "flr")
    undo.keep("power/control", "auto")
    undo.forget("reset_method")
    assert host.records.names(journal.JOURNAL) == [str(A)]
    undo.forget("power/control")
    undo.forget("power/control")
    assert host.records.names(journal.JOURNAL) == []


def test_a_guest_that_has_come_back_is_not_forgotten() -> None:
    host = SimHost()
    journal.claim(host, ONE, [A, B])
    gone = journal.owner(host, ONE)
    assert gone is not None
    host.clock.advance(40.0)
    journal.claim(host, ONE, [A, B])
    assert journal.forget(host, gone, {A, B}) == ()
    assert journal.owner(host, ONE) == Owner(ONE, (A, B), host.monotonic())


def test_who_loses_a_controller_to_another_has_not_been_heard_of() -> None:
    """Else a guest that is gone would be believed to run, for as long again."""
    host = SimHost()
    journal.claim(host, ONE, [A, B])
    heard = host.monotonic()
    host.clock.advance(40.0)
    journal.claim(host, TWO, [B])
    assert journal.owner(host, ONE) == Owner(ONE, (A,), heard)
