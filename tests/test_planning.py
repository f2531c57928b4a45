# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``virt-nvme-reset plan`` prints, for people and for programs, against tests/data/plan.

UPDATE_GOLDEN=1 writes what is printed there, to be read before it is committed.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from libvirt_hooks import cli, journal, keepers, marks
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.domain import parse
from libvirt_hooks.errors import HookError
from libvirt_hooks.journal import Undo
from libvirt_hooks.planning import Plan, plan
from libvirt_hooks.simulator.domain_xml import Assigned, domain_xml
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID, Life
from libvirt_hooks.simulator.models import ORDINARY, P3700, SM951, SM2262

from .lives import BDF, OTHER, SECOND, called

GOLDEN = Path(__file__).parent / "data" / "plan"
BESIDE = "0000:01:00.1"
MANAGED, UNMANAGED = Assigned(BDF), Assigned(BDF, managed=False)

Case = tuple[SimHost, list[Assigned], int]
"""A machine, what the guest gets of it, and the exit status."""


def managed() -> Case:
    host = SimHost()
    host.add(BDF, SM951)
    return host, [MANAGED], 0


def ordinary() -> Case:
    host = SimHost()
    host.add(BDF, ORDINARY)
    return host, [MANAGED], 0


def unmanaged() -> Case:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    return host, [UNMANAGED], 0


def awake() -> Case:
    host = SimHost()
    host.add(BDF, SM2262, driver="vfio-pci")
    host.write_attr(BDF, "power/control", "on")
    return host, [UNMANAGED], 0


def not_detached() -> Case:
    host = SimHost()
    host.add(BDF, ORDINARY, mounted="/srv")
    return host, [UNMANAGED], 1


def mounted() -> Case:
    host = SimHost()
    host.add(BDF, SM951, mounted="/srv")
    return host, [MANAGED], 1


def denied_and_more() -> Case:
    """Every reason, not only the first."""
    host = SimHost(policy='deny = ["144d:a802"]\n')
    host.add(BDF, SM951, mounted="/srv", total_vfs=4)
    host.device(BDF).numvfs = 2
    return host, [MANAGED], 1


def observe() -> Case:
    host = SimHost(policy='mode = "observe"\n')
    host.add(BDF, SM951, mounted="/srv")
    return host, [MANAGED], 0


def observe_idle() -> Case:
    host = SimHost(policy='mode = "observe"\n')
    host.add(BDF, SM951, driver="vfio-pci")
    return host, [UNMANAGED], 0


def off() -> Case:
    host = SimHost(policy='mode = "off"\n')
    host.add(BDF, SM951)
    return host, [MANAGED], 0


def off_root() -> Case:
    host = SimHost(policy='mode = "off"\n')
    host.add(BDF, SM951, mounted="/")
    return host, [MANAGED], 1


def absent() -> Case:
    return SimHost(), [MANAGED], 1


def absent_disk() -> Case:
    return SimHost(), [Assigned(BDF, disk=True)], 1


def no_nvme() -> Case:
    host = SimHost()
    host.add(BDF, SM951)
    return host, [], 0


def shared_bus() -> Case:
    host = SimHost()
    host.add(BDF, SM951, beside=[BESIDE])
    return host, [MANAGED], 0


def disk() -> Case:
    host = SimHost()
    host.add(BDF, P3700)
    return host, [Assigned(BDF, disk=True)], 0


def two() -> Case:
    host = SimHost(policy="deadline = 30\n")
    host.add(BDF, SM951)
    host.add(SECOND, ORDINARY, driver="vfio-pci", pristine=True)
    host.write_attr(SECOND, "power/control", "on")
    return host, [MANAGED, Assigned(SECOND, managed=False)], 0


def lockdown() -> Case:
    host = SimHost(lockdown=True)
    host.add(BDF, SM951, driver="vfio-pci")
    host.write_attr(BDF, "power/control", "on")
    return host, [UNMANAGED], 0


def gone() -> Case:
    host = SimHost()
    host.add(BDF, SM951, faults=Fault.CONFIG_FROZEN)
    return host, [MANAGED], 1


def gone_idle() -> Case:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci", faults=Fault.CONFIG_FROZEN)
    return host, [UNMANAGED], 1


def running() -> Case:
    host = SimHost()
    host.add(BDF, SM951)
    assert Life(host, [MANAGED], called).start()
    return host, [MANAGED], 0


def running_off() -> Case:
    """What was taken before the policy changed is given back all the same."""
    host, devices, status = running()
    host.policy_text = 'mode = "off"\n'
    return host, devices, status


def running_without() -> Case:
    """The hook was installed while the guest ran."""
    host = SimHost()
    host.add(BDF, ORDINARY)
    assert Life(host, [MANAGED]).start()
    return host, [MANAGED], 0


def running_alone() -> Case:
    """Its keeper was killed."""
    host, devices, status = running()
    host.keepers.kill_pid(next(each for each in keepers.find_all(host)).process[0])
    assert keepers.find_all(host) == []
    return host, devices, status


def broken_policy() -> Case:
    host = SimHost(policy="mode =")
    host.add(BDF, SM951, driver="vfio-pci")
    host.occupy(BDF, 60.0)
    return host, [UNMANAGED], 1


def left_over() -> Case:
    """A hook has died under the guard, of a drive that was given up and has come back."""
    host = SimHost(policy='failed_disable = "go-on"\n')
    host.add(BDF, SM951)
    Undo(host, BDF).keep("reset_method", "flr bus")
    host.write_attr(BDF, "reset_method", "bus")
    marks.mark_dead(host, BDF, HookError(f"{BDF}: not live"))
    return host, [MANAGED], 0


CASES = (
    managed,
    ordinary,
    unmanaged,
    awake,
    not_detached,
    mounted,
    denied_and_more,
    observe,
    observe_idle,
    off,
    off_root,
    absent,
    absent_disk,
    no_nvme,
    shared_bus,
    disk,
    two,
    lockdown,
    gone,
    gone_idle,
    running,
    running_off,
    running_without,
    running_alone,
    broken_policy,
    left_over,
)


def printed(
    case: Callable[[], Case],
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """What is printed; looking has changed nothing, woken nobody, and broken no rule."""
    host, devices, status = case()
    monkeypatch.setattr(cli, "this_machine", lambda: host)
    (tmp_path / "xml").write_bytes(domain_xml("vm1", UUID, devices))
    events, effects, records = len(host.trace), list(host.effects), host.records.all
    assert cli.main(["plan", "--xml", str(tmp_path / "xml"), "-o", output]) == status
    assert (len(host.trace), host.effects, host.records.all) == (events, effects, records)
    assert host.violations == []
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


@pytest.mark.parametrize("output", ["text", "json"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_golden(
    case: Callable[[], Case],
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = printed(case, output, tmp_path, monkeypatch, capsys)
    path = GOLDEN / f"{case.__name__}.{'json' if output == 'json' else 'txt'}"
    if "UPDATE_GOLDEN" in os.environ:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()
    if output == "text":
        assert max(map(len, text.splitlines())) <= 80


def test_every_golden_file_has_its_case() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {case.__name__ for case in CASES}


def planned(host: SimHost, *devices: Assigned) -> Plan:
    return plan(host, parse(domain_xml("vm1", UUID, devices)))


def test_the_keys_for_programs() -> None:
    keys = set(json.loads((GOLDEN / "mounted.json").read_text()))
    assert keys == {
        *("version", "uuid", "name", "mode", "running", "starts"),
        *("objections", "controllers", "seconds", "unread"),
    }


def test_a_mistake_in_the_metadata_comes_first() -> None:
    host = SimHost(policy="mode =")
    host.add(BDF, SM951)
    metadata = b'<metadata><p:policy xmlns:p="urn:virt-nvme-reset:policy:1" mod="off"/></metadata>'
    xml = domain_xml("vm1", UUID, [MANAGED]).replace(b"<devices>", metadata + b"<devices>")
    found = plan(host, parse(xml))
    assert not found.starts
    assert "unknown attribute 'mod'" in found.objections[0].message
    assert "not TOML" in found.objections[1].message
    assert [each.bdf for each in found.objections] == [None, None]


def test_a_broken_policy_is_no_matter_of_a_guest_without_nvme() -> None:
    found = planned(SimHost(policy="mode ="))
    assert (found.starts, found.mode, found.objections) == (True, None, [])


def test_another_guest_has_it() -> None:
    host = SimHost()
    host.add(BDF, SM951)
    assert Life(host, [MANAGED], called, uuid=OTHER).start()
    found = planned(host, MANAGED)
    assert not found.starts
    said = [each.message.partition("go to the guest: ")[2] for each in found.objections]
    assert said == [
        f"in use by the guest with uuid {OTHER}",
        "open through vfio, by 4211 (qemu-system-x86)",
    ]


def test_what_another_guest_has_by_its_record_alone_is_not_cleaned() -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    journal.claim(host, OTHER, [BDF])
    found = planned(host, UNMANAGED)
    assert found.starts
    assert found.controllers[0].parts[0].does == ["admitted: on vfio-pci, used by nobody"]


def test_a_worker_that_dies_of_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    host, devices, _ = awake()

    def dies(_: Bdf) -> None:
        host._workers._dead.add(host._workers._worker)
        host._workers.enter()

    monkeypatch.setattr(host, "registers", dies)
    found = planned(host, *devices)
    assert found.controllers[0].unseen.startswith("worker killed by signal 9")
    assert found.controllers[0].parts == []


def does(found: Plan, moment: str) -> list[str]:
    (controller,) = found.controllers
    return next(each.does for each in controller.parts if each.moment == moment)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        pytest.param(
            "",
            [
                "admitted: on vfio-pci, used by nobody",
                "wake it from D3hot, then bring it to pristine",
            ],
            id="admitted",
        ),
        pytest.param('deny = ["144d:a802"]', [], id="refused: nothing is done"),
        pytest.param(
            'deny = ["144d:a802"]\nmode = "observe"',
            ["only say: wake it from D3hot, then bring it to pristine"],
            id="observe: it only would be",
        ),
        pytest.param('mode = "off"', ["admitted: on vfio-pci, used by nobody"], id="off"),
    ],
)
def test_what_prepare_does_with_one_that_is_idle(policy: str, expected: list[str]) -> None:
    host = SimHost(policy=policy)
    host.add(BDF, SM951, driver="vfio-pci")
    assert does(planned(host, UNMANAGED), "prepare") == expected


def test_a_guard_that_is_there_already_is_not_taken_off() -> None:
    host = SimHost()
    host.add(BDF, SM951)
    host.write_attr(BDF, "reset_method", "bus")
    assert does(planned(host, MANAGED), "stopped") == [
        "see that the reset was enough, else bring it to pristine"
    ]


def test_a_guard_that_somebody_has_taken_off_comes_back() -> None:
    host, devices, _ = running()
    host.write_attr(BDF, "reset_method", "flr bus")
    assert does(planned(host, *devices), "reconnect")[0] == (
        "set reset_method to 'bus' while the guest runs"
    )


def test_a_policy_that_broke_under_a_running_guest_refuses_nothing() -> None:
    host, devices, _ = running()
    host.policy_text = "mode ="
    found = planned(host, *devices)
    assert found.starts
    assert [(each.operation, each.refuses) for each in found.objections] == [("stopped", False)]


def test_a_drive_that_dies_under_its_guest() -> None:
    host, devices, _ = running()
    host.function(BDF).frozen = True
    found = planned(host, *devices)
    assert (found.starts, found.objections) == (True, [])
    assert does(found, "stopped") == ["find that it does not answer"]


def test_what_is_no_nvme_is_nobody_s_matter() -> None:
    """A guest with a GPU that is not detached: libvirt says so, we do not."""
    host = SimHost()
    host.add(BDF, SM951)
    found = planned(host, Assigned(Bdf.parse("0000:00:01.0"), managed=False))
    assert (found.starts, found.controllers, found.objections) == (True, [], [])


def test_no_guest_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan"]) == 2
    assert capsys.readouterr().err == (
        "virt-nvme-reset: no guest: expected DOMAIN or --xml FILE\n  hint: virsh list --all\n"
    )


def test_a_name_that_is_a_control_sequence_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "this_machine", SimHost)
    (tmp_path / "xml").write_bytes(domain_xml("a\x9bb", UUID, []))
    assert cli.main(["plan", "--xml", str(tmp_path / "xml")]) == 0
    assert capsys.readouterr().out.startswith(r"plan for guest a\x9bb (")
