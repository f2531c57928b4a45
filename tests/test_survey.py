# SPDX-License-Identifier: LGPL-2.1-or-later
"""The facts that admission gets: what is asked once, what twice, and what nobody could find out."""

from collections.abc import Callable

import pytest

from libvirt_hooks import journal, marks
from libvirt_hooks.admission import Facts
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import HookError, Stuck
from libvirt_hooks.identity import Expected
from libvirt_hooks.operation import Operation, raise_first
from libvirt_hooks.policy import Policy
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID
from libvirt_hooks.simulator.models import SM951
from libvirt_hooks.snapshot import Handle, Process, Snapshot
from libvirt_hooks.survey import survey
from libvirt_hooks.work import Work

from .lives import BDF, OTHER, SECOND, call

SMARTD = Process(77, "smartd")


def facts(host: SimHost, expected: Expected | None = None, policy: Policy | None = None) -> Facts:
    operation = Operation.begin(host, policy or Policy(), [BDF])
    (found,) = survey(operation, UUID, [BDF], {BDF: expected} if expected else None)
    return found


@pytest.fixture
def host() -> SimHost:
    host = SimHost()
    host.add(BDF, SM951)
    return host


def opened(host: SimHost, times: int) -> Callable[[list[Bdf]], Snapshot]:
    """smartd has the disk open for the next so many looks."""
    usage, left = host.usage, [times]

    def look(bdfs: list[Bdf]) -> Snapshot:
        seen = usage(bdfs)
        if left[0] > 0:
            left[0] -= 1
            handle = Handle(seen.blocks[0].number, True, "/dev/nvme0n1", SMARTD)
            return Snapshot(seen.controllers, seen.blocks, seen.mounts, handles=(handle,))
        return seen

    return look


@pytest.mark.parametrize(
    ("times", "uses", "seconds"),
    [
        pytest.param(0, [], 0.0, id="free: one look"),
        pytest.param(1, [], 0.3, id="open for a moment: free"),
        pytest.param(2, [], 0.6, id="open for two looks: free"),
        pytest.param(9, ["open@/dev/nvme0n1 by 77 (smartd)"], 0.6, id="open: believed at last"),
    ],
)
def test_a_passing_use_is_looked_at_again(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, times: int, uses: list[str], seconds: float
) -> None:
    monkeypatch.setattr(host, "usage", opened(host, times))
    began = host.monotonic()
    assert [str(use) for use in facts(host).uses] == uses
    assert host.monotonic() - began == pytest.approx(seconds)


def test_a_mount_is_believed_at_once(host: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.device(BDF).mounted = "/srv"
    monkeypatch.setattr(host, "usage", opened(host, 9))
    began = host.monotonic()
    kinds = {use.kind for use in facts(host).uses}
    assert "mount" in kinds
    assert host.monotonic() == began


@pytest.mark.parametrize(
    ("times", "uses", "seconds"),
    [
        pytest.param(1, [], 0.3, id="for a moment"),
        pytest.param(9, ["claimed@nvme0n1"], 0.6, id="for good"),
    ],
)
def test_a_claim_that_nothing_explains_is_looked_at_again(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, times: int, uses: list[str], seconds: float
) -> None:
    left = ["nvme0n1"] * times
    monkeypatch.setattr(host, "claimed", lambda _: [left.pop()] if left else [])
    began = host.monotonic()
    assert [str(use) for use in facts(host).uses] == uses
    assert host.monotonic() - began == pytest.approx(seconds)


def test_what_was_seen_of_one_disk_is_not_forgotten_for_another(
    host: SimHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second disk alone is looked at again."""
    host.add(SECOND, SM951)
    host.device(BDF).mounted = "/srv"
    left = [["nvme1n1"]]
    monkeypatch.setattr(host, "claimed", lambda bdf: left.pop() if bdf == SECOND and left else [])
    one, other = survey(Operation.begin(host, Policy(), [BDF, SECOND]), UUID, [BDF, SECOND])
    assert [str(use) for use in one.uses] == ["mount@nvme0n1p1:/srv"]
    assert other.uses == ()
    assert left == []


def test_who_has_its_group_open(host: SimHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "vfio_users", lambda bdfs: dict.fromkeys(bdfs, (SMARTD,)))
    assert facts(host).users == (SMARTD,)


@pytest.mark.parametrize(
    ("state", "dead"), [("live", None), ("connecting", "x"), ("dead", "x"), (None, "x")]
)
def test_only_a_drive_that_can_be_used_is_given_up_no_more(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, state: str | None, dead: str | None
) -> None:
    marks.mark_dead(host, BDF, HookError("x"))
    monkeypatch.setattr(host, "nvme_state", lambda _: state)
    assert facts(host).dead == dead
    assert marks.dead(host, BDF) == dead


def test_a_disk_that_cannot_be_opened_is_no_free_disk(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The open waits for a disk that does not answer; the worker is left behind."""

    def blocks(bdf: Bdf) -> list[str]:
        host.doing("opening /dev/nvme0n1")
        host.sleep(1000.0)
        return []

    monkeypatch.setattr(host, "claimed", blocks)
    stuck = facts(host).stuck
    assert stuck is not None and stuck.startswith("opening /dev/nvme0n1: not done")


def test_a_disk_that_somebody_is_stuck_with_is_not_opened_again(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    marks.mark_stuck(host, BDF, Stuck(f"{BDF}: opening /dev/nvme0n1", pid=7, started=7))
    monkeypatch.setattr(host, "runs", lambda *_: True)
    monkeypatch.setattr(host, "claimed", lambda _: pytest.fail("opened again"))
    began = host.monotonic()
    assert call(host, "prepare", BDF) == 1
    assert host.monotonic() == began
    assert "still in the kernel with it: opening /dev/nvme0n1" in capsys.readouterr().err


def test_what_could_not_be_found_out_is_not_forgotten_for_another_disk(
    host: SimHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second disk is open for a moment, so it alone is asked for again."""
    host.add(SECOND, SM951)
    usage, looks = host.usage, [1]

    def look(bdfs: list[Bdf]) -> Snapshot:
        seen = usage(bdfs)
        if not looks:
            return seen
        looks.pop()
        disk = next(each for each in seen.controllers if each.bdf == SECOND).disks[0]
        number = next(block.number for block in seen.blocks if block.name == disk)
        handle = Handle(number, True, f"/dev/{disk}", SMARTD)
        return Snapshot(seen.controllers, seen.blocks, seen.mounts, handles=(handle,))

    def claimed(bdf: Bdf) -> list[str]:
        if bdf == BDF:
            raise HookError(f"{bdf}: opening /dev/nvme0n1: Input/output error")
        return []

    monkeypatch.setattr(host, "usage", look)
    monkeypatch.setattr(host, "claimed", claimed)
    one, other = survey(Operation.begin(host, Policy(), [BDF, SECOND]), UUID, [BDF, SECOND])
    assert one.unknown == "opening /dev/nvme0n1: Input/output error"
    assert (one.stuck, other.unknown, other.uses) == (None, None, ())


def test_why_a_claim_could_not_be_tried_is_told(
    host: SimHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(bdf: Bdf) -> list[str]:
        raise HookError(f"{bdf}: opening /dev/nvme0n1: Input/output error")

    monkeypatch.setattr(host, "claimed", fails)
    found = facts(host)
    assert (found.stuck, found.unknown) == (None, "opening /dev/nvme0n1: Input/output error")


def test_a_claim_that_fails_once_is_tried_again(
    host: SimHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [HookError(f"{BDF}: starting a worker: Resource temporarily unavailable")]

    def claimed(_: Bdf) -> list[str]:
        if failures:
            raise failures.pop()
        return []

    monkeypatch.setattr(host, "claimed", claimed)
    assert facts(host).unknown is None


def test_processes_that_nobody_may_look_at_are_told(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    usage = host.usage
    monkeypatch.setattr(host, "usage", lambda bdfs: Snapshot(usage(bdfs).controllers, unseen=12))
    facts(host)
    assert "descriptors of 12 processes could not be read" in caplog.messages


def test_a_disk_that_the_host_does_not_have_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    monkeypatch.setattr(host, "usage", lambda _: pytest.fail("nobody asked"))
    monkeypatch.setattr(host, "claimed", lambda _: pytest.fail("nobody asked"))
    assert facts(host).uses == ()


@pytest.mark.parametrize(
    ("driver", "expected", "mismatch"),
    [
        pytest.param("nvme", Expected(serial="sim00000"), None, id="the one expected"),
        pytest.param("nvme", Expected(eui="0025385000000000"), None, id="by its EUI"),
        pytest.param(
            "nvme",
            Expected(serial="S2GLNX0H"),
            "serial is 'SIM00000', expected 'S2GLNX0H'",
            id="another",
        ),
        pytest.param(
            "vfio-pci",
            Expected(serial="SIM00000"),
            "serial is not known, expected 'SIM00000'",
            id="nobody knows",
        ),
    ],
)
def test_the_drive_that_the_guest_expects(
    driver: str, expected: Expected, mismatch: str | None
) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver=driver)
    assert facts(host, expected).mismatch == mismatch


def test_who_has_it(host: SimHost) -> None:
    journal.claim(host, OTHER, [BDF])
    assert facts(host).owner == OTHER
    journal.claim(host, UUID, [BDF])
    assert facts(host).owner is None


@pytest.mark.parametrize("entry", ["144d:a802", str(BDF)])
def test_what_is_denied(host: SimHost, entry: str) -> None:
    assert facts(host, policy=Policy(deny=(entry,))).denied == entry


@pytest.mark.parametrize(
    ("pid", "full", "marks_left"),
    [
        pytest.param(1, False, [f"stuck/{BDF}"], id="remembered"),
        pytest.param(0, False, [], id="but not where no process is left"),
        pytest.param(1, True, [], id="and is no error where that cannot be written"),
    ],
)
def test_a_worker_that_is_stuck(
    host: SimHost,
    pid: int,
    full: bool,
    marks_left: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stuck = Stuck(f"{BDF}: writing '1' to reset", pid=pid, started=1)
    monkeypatch.setattr(host, "each", lambda bdfs, *_: dict.fromkeys(bdfs, stuck))
    operation = Operation.begin(host, Policy(), [BDF])
    host.records.full = full
    assert operation.each([BDF], lambda _: "") == {BDF: stuck}
    assert host.records.all == marks_left
    failed = [f"stuck/{BDF}: writing: No space left on device"] if full else []
    assert caplog.messages == [*failed, stuck.message]


def test_what_came_of_a_job_is_told_with_how_long_it_took(
    host: SimHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    operation = Operation.begin(host, Policy(), [BDF])

    def task(work: Work) -> str:
        work.host.sleep(1.5)
        return "well"

    assert operation.each([BDF], task) == {BDF: "well"}
    (told,) = caplog.records
    assert told.getMessage() == f"{BDF}: well"
    assert vars(told)["fields"] == {"PCI_BDF": str(BDF), "ELAPSED_MS": "1500.000"}


def test_the_first_error_is_the_one_that_refuses() -> None:
    with pytest.raises(HookError, match="one"):
        raise_first({BDF: "well", SECOND: HookError("one"), Bdf(0, 3, 0, 0): HookError("two")})
