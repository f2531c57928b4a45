# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the policy changes of an operation: observe, off, a guard of one's own, a failed disable."""

import logging

import pytest

from libvirt_hooks import hook
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import SysfsError
from libvirt_hooks.intent import intents
from libvirt_hooks.journal import Undo
from libvirt_hooks.observe import GONE, Observation
from libvirt_hooks.policy import Close, GuardChoice
from libvirt_hooks.simulator.domain_xml import Assigned, domain_xml
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID, Life
from libvirt_hooks.simulator.models import ORDINARY, SM951

from .lives import BDF, SECOND, at_rest, call, called, one, owned
from .observations import seen, sm951

SHUT_DOWN = (0x00464061, 0x9)
NAMESPACE = "urn:virt-nvme-reset:policy:1"
GUARDED = "set reset_method to 'bus' while the guest runs"
KEPT = "keep a duplicate of its descriptor, and disable it before vfio's last close"


def idle(policy: str, faults: Fault = Fault.NONE) -> SimHost:
    host = SimHost(policy=policy)
    host.add(BDF, SM951, driver="vfio-pci", faults=faults)
    host.trace.clear()
    return host


@pytest.mark.parametrize("mode", ["observe", "off"])
def test_nothing_is_touched(mode: str) -> None:
    host = idle(f'mode = "{mode}"')
    for operation in ("prepare", "start", "reconnect", "stopped", "release"):
        assert call(host, operation, BDF) == 0
    assert host.texts() == []
    at_rest(host)


def test_observe_says_what_would_be_done(caplog: pytest.LogCaptureFixture) -> None:
    host = idle('mode = "observe"')
    caplog.set_level(logging.INFO)
    for operation in ("prepare", "start", "reconnect", "stopped", "release"):
        assert call(host, operation, BDF) == 0
    assert caplog.messages == [
        f"{BDF}: observe: prepare would: wake it from D3hot, then bring it to pristine",
        f"{BDF}: observe: start would: wake it from D3hot, then bring it to disabled; {GUARDED}",
        f"{BDF}: observe: reconnect would: {GUARDED}; {KEPT}",
        f"{BDF}: observe: stopped would: wake it from D3hot, then bring it to pristine",
        f"{BDF}: observe: release would: change nothing",
    ]


def test_observe_looks_by_a_worker_that_may_die_of_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver that claims the BAR under a mapping answers SIGBUS."""
    host = idle('mode = "observe"')
    host.write_attr(BDF, "power/control", "on")

    def dies(_: Bdf) -> None:
        host._workers._dead.add(host._workers._worker)
        host._workers.enter()

    monkeypatch.setattr(host, "registers", dies)
    assert call(host, "start", BDF) == 0
    assert "worker killed by signal 9" in caplog.text


def test_observe_says_what_it_cannot_see_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host = idle('mode = "observe"')
    host.add(SECOND, SM951, driver="vfio-pci")
    read = host.read_config

    def refused(bdf: Bdf, offset: int, length: int) -> bytes:
        if bdf == BDF:
            raise SysfsError(bdf, "reading config at 0x0", 5)
        return read(bdf, offset, length)

    monkeypatch.setattr(host, "read_config", refused)
    caplog.set_level(logging.INFO)
    assert call(host, "stopped", BDF, SECOND) == 0
    assert caplog.messages == [
        f"observe: {BDF}: reading config at 0x0: Input/output error",
        f"{SECOND}: observe: stopped would: wake it from D3hot, then bring it to pristine",
    ]


@pytest.mark.parametrize(
    ("row", "would"),
    [
        ("flr_lethal_while_enabled = true", f"{GUARDED}; {KEPT}"),
        ('close = "holder"', KEPT),
        ('guard = "none"', "set reset_method to '' while the guest runs"),
        ("prefer_bus = false", "change nothing"),
    ],
)
def test_observe_knows_what_the_file_says_of_a_drive(
    row: str, would: str, caplog: pytest.LogCaptureFixture
) -> None:
    host = SimHost(policy=f'mode = "observe"\n[drive."1b36:0010"]\n{row}\n')
    host.add(BDF, ORDINARY, driver="vfio-pci")
    caplog.set_level(logging.INFO)
    assert call(host, "reconnect", BDF) == 0
    assert caplog.messages == [f"{BDF}: observe: reconnect would: {would}"]


def test_observe_refuses_nobody_but_says_so(caplog: pytest.LogCaptureFixture) -> None:
    host = SimHost(policy='mode = "observe"')
    host.add(BDF, SM951, mounted="/srv")
    assert call(host, "prepare", BDF) == 0
    assert caplog.messages == [
        f"observe: would refuse: {BDF}: may not go to the guest: in use by the host:"
        " mount@nvme0n1p1:/srv"
    ]


@pytest.mark.parametrize("mode", ["enforce", "observe", "off"])
def test_the_root_disk_is_kept_whatever_the_policy_says(
    mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    host = SimHost(policy=f'mode = "{mode}"')
    host.add(BDF, SM951, mounted="/")
    assert call(host, "prepare", BDF) == 1
    assert "root@nvme0n1p1:/" in capsys.readouterr().err
    assert host.texts() == []


def test_the_mode_is_the_guests_own_where_it_says_one() -> None:
    host = idle('mode = "off"')
    xml = domain_xml("guest", UUID, [Assigned(BDF)], "start").replace(
        b"<devices>",
        f'<metadata><p:policy xmlns:p="{NAMESPACE}" mode="enforce"/></metadata><devices>'.encode(),
    )
    assert called(["hook", "guest", "start", "begin", "-"], xml, host) == 0
    assert owned(host, UUID) == (BDF,)


def metadata(inside: str, operation: str = "prepare") -> bytes:
    return domain_xml("guest", UUID, [Assigned(BDF)], operation).replace(
        b"<devices>",
        f'<metadata><p:policy xmlns:p="{NAMESPACE}" {inside}/></metadata><devices>'.encode(),
    )


def test_a_mistake_in_the_metadata_refuses_a_start_and_loses_no_stop(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    host, life = one(SM951)
    assert called(["hook", "g", "prepare", "begin"], metadata('mod="off"'), host) == 1
    assert "unknown attribute 'mod', did you mean mode?" in capsys.readouterr().err
    assert life.start()
    caplog.clear()
    life.hook = lambda argv, _, host: hook.main(argv, metadata('mod="off"', argv[2]), host)
    life.guest_shutdown()
    assert "unknown attribute 'mod'" in caplog.text
    assert life.verdicts()[0].alive
    at_rest(host)


def test_an_expectation_in_the_metadata_refuses_another_drive(
    capsys: pytest.CaptureFixture[str],
) -> None:
    host, _ = one(SM951)
    expect = f'<p:expect bdf="{BDF}" serial="S2GLNX0H"/>'
    xml = metadata("").replace(b"/></metadata>", f">{expect}</p:policy></metadata>".encode())
    assert called(["hook", "g", "prepare", "begin"], xml, host) == 1
    assert "not the drive that this guest expects: serial is" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["not TOML", "not readable"])
@pytest.mark.parametrize("operation", ["start", "reconnect"])
def test_a_broken_policy_leaves_no_drive_unguarded(
    operation: str,
    broken: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = idle("mode =")

    def unreadable() -> str:
        raise SysfsError("/etc/virt-nvme-reset.toml", "reading", 5)

    if broken == "not readable":
        monkeypatch.setattr(host, "policy", unreadable)
    assert call(host, operation, BDF) == 0
    assert host.read_attr(BDF, "reset_method") == "bus"
    assert owned(host, UUID) == (BDF,)
    assert "defaults are used" in caplog.text


@pytest.mark.parametrize(
    ("mode", "driver", "told"),
    [
        pytest.param("enforce", "vfio-pci", 0, id="enforce: no idle talk"),
        pytest.param("off", "vfio-pci", 0, id="off"),
        pytest.param("observe", "nvme", 0, id="observe: the host's is none of ours"),
        pytest.param("observe", "vfio-pci", 1, id="observe"),
    ],
)
@pytest.mark.parametrize("operation", ["stopped", "release"])
def test_who_is_told_what_would_be_done_to_what_a_guest_never_had(
    operation: str, mode: str, driver: str, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    host = SimHost(policy=f'mode = "{mode}"')
    host.add(BDF, SM951, driver=driver)
    caplog.set_level(logging.INFO)
    assert call(host, operation, BDF) == 0
    assert len(caplog.messages) == told


def test_off_says_nothing_of_what_it_would_refuse(caplog: pytest.LogCaptureFixture) -> None:
    host = SimHost(policy='mode = "off"')
    host.add(BDF, SM951, mounted="/srv")
    assert call(host, "prepare", BDF) == 0
    assert caplog.messages == []


def test_what_a_dead_hook_has_left_is_put_back_in_every_mode() -> None:
    for mode in ("enforce", "observe", "off"):
        host = SimHost(policy=f'mode = "{mode}"')
        host.add(BDF, SM951)
        Undo(host, BDF).keep("reset_method", "flr")
        assert call(host, "prepare", BDF) == 0
        assert host.read_attr(BDF, "reset_method") == "flr"
        at_rest(host)


def test_a_guest_that_was_taken_before_the_policy_changed_is_given_back() -> None:
    host, life = one(SM951)
    assert life.start()
    host.policy_text = 'mode = "off"'
    life.guest_shutdown()
    assert life.verdicts()[0].alive
    at_rest(host)


def test_a_policy_that_broke_while_the_guest_ran_loses_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host, life = one(SM951)
    assert life.start()
    host.policy_text = "mode ="
    life.daemon_restart()
    life.guest_shutdown()
    assert "/etc/virt-nvme-reset.toml: line 1, column 7: " in caplog.text
    assert "defaults are used" in caplog.text
    assert life.verdicts()[0].alive
    at_rest(host)


@pytest.mark.parametrize(
    ("guard", "during"),
    [("auto", "bus"), ("keep", "flr bus"), ("bus", "bus"), ("none", "")],
)
def test_a_guard_of_ones_own(guard: str, during: str) -> None:
    host = idle(f'[drive."144d:a802"]\nguard = "{guard}"\n')
    assert call(host, "start", BDF) == 0
    assert host.read_attr(BDF, "reset_method") == during
    for operation in ("stopped", "release"):
        assert call(host, operation, BDF) == 0
    assert host.read_attr(BDF, "reset_method") == "flr bus"
    at_rest(host)


def test_a_bus_that_is_shared_is_not_reset_for_the_policy_either() -> None:
    host = SimHost(policy='[drive."144d:a802"]\nguard = "bus"\n')
    host.add(BDF, SM951, driver="vfio-pci", beside=["0000:01:00.1"])
    assert call(host, "start", BDF) == 0
    assert host.read_attr(BDF, "reset_method") == ""


def test_a_drive_that_only_the_file_knows() -> None:
    """Unknown to the table, it would keep its FLR, and die of it."""
    host = SimHost(policy='[drive."1b36:0010"]\nflr_lethal_while_enabled = true\n')
    host.add(BDF, ORDINARY, faults=Fault.LETHAL_FLR)
    life = Life(host, [(BDF, True)], called)
    assert life.start()
    life.guest_reboot()
    life.guest_shutdown()
    assert life.verdicts()[0].alive
    assert host.function(BDF).lethal_flrs == 0
    at_rest(host)


BROKEN = Fault.RDY_STUCK | Fault.RESET_EIO


@pytest.mark.parametrize(
    ("model", "failed_disable", "status"),
    [
        pytest.param(SM951, "refuse-lethal", 1, id="an FLR could kill it"),
        pytest.param(ORDINARY, "refuse-lethal", 0, id="it could not"),
        pytest.param(SM951, "go-on", 0, id="go on whatever it is"),
        pytest.param(ORDINARY, "refuse", 1, id="refuse whatever it is"),
    ],
)
def test_what_a_failed_disable_does(model: object, failed_disable: str, status: int) -> None:
    host = SimHost(policy=f'failed_disable = "{failed_disable}"')
    host.add(BDF, model, driver="vfio-pci", faults=BROKEN)  # type: ignore[arg-type]
    assert call(host, "start", BDF) == status


def test_a_short_deadline_is_kept() -> None:
    host = SimHost(policy="deadline = 2\ndeadline_cap = 5\n")
    host.add(BDF, SM951, driver="vfio-pci", faults=Fault.RDY_STUCK)
    began = host.monotonic()
    assert call(host, "start", BDF) == 1  # 30.5 s of CAP.TO would have been its right
    assert host.monotonic() - began <= 5.5


@pytest.mark.parametrize(
    ("operation", "observation", "choice", "expected"),
    [
        pytest.param("start", seen(), GuardChoice.AUTO, ["change nothing"], id="well"),
        pytest.param(
            "start",
            sm951(*SHUT_DOWN),
            GuardChoice.AUTO,
            [
                "clear CC.EN and CC.SHN",
                "wait for CSTS.RDY=0, 8.0 s at most",
                "set reset_method to 'bus' while the guest runs",
            ],
            id="awake: the steps themselves",
        ),
        pytest.param(
            "stopped",
            seen(registers=GONE),
            GuardChoice.AUTO,
            ["refuse it: it does not answer"],
            id="gone",
        ),
        pytest.param(
            "stopped", sm951(*SHUT_DOWN, open=True), GuardChoice.AUTO, ["change nothing"], id="open"
        ),
        pytest.param(
            "start",
            sm951(reset_methods=("bus",)),
            GuardChoice.AUTO,
            ["change nothing"],
            id="guarded",
        ),
        pytest.param(
            "start",
            seen(),
            GuardChoice.NONE,
            ["set reset_method to '' while the guest runs"],
            id="the policy's guard",
        ),
        pytest.param(
            "prepare",
            seen(registers=None, unreadable="mapping resource0: Operation not permitted"),
            GuardChoice.AUTO,
            [
                "reach its registers (mapping resource0: Operation not permitted), then bring it"
                " to pristine"
            ],
            id="lockdown: through vfio, if that has it",
        ),
        pytest.param(
            "stopped",
            seen(registers=None, unreadable=""),
            GuardChoice.AUTO,
            ["bring it to pristine"],
            id="nobody knows yet",
        ),
        pytest.param(
            "prepare",
            seen(registers=None, unreadable="driver nvme owns them", driver="nvme"),
            GuardChoice.AUTO,
            ["find nothing to do about it: the host's nvme driver has it"],
            id="the host's",
        ),
        pytest.param(
            "prepare",
            seen(registers=None, driver="nvme", power_state="D3hot"),
            GuardChoice.AUTO,
            ["find nothing to do about it: the host's nvme driver has it"],
            id="the host's, asleep",
        ),
    ],
)
def test_intents(
    operation: str, observation: Observation, choice: GuardChoice, expected: list[str]
) -> None:
    assert intents(operation, observation, choice, Close.HOLDER) == expected


@pytest.mark.parametrize(
    ("operation", "close", "expected"),
    [
        pytest.param("started", Close.HOLDER, [KEPT], id="QEMU runs: its descriptor is there"),
        pytest.param("started", Close.GUARD, ["change nothing"], id="the guard alone"),
        pytest.param("started", None, ["change nothing"], id="nothing has to protect it"),
        pytest.param("reconnect", Close.HOLDER, [GUARDED, KEPT], id="a keeper may have died"),
        pytest.param("reconnect", Close.GUARD, [GUARDED], id="or was never wanted"),
        pytest.param("release", Close.HOLDER, ["change nothing"], id="too late"),
    ],
)
def test_intents_to_keep(operation: str, close: Close | None, expected: list[str]) -> None:
    running = sm951(open=True, registers=None, unreadable="vfio has it open")
    assert intents(operation, running, GuardChoice.AUTO, close) == expected


def test_a_broken_file_touches_no_guest_without_nvme() -> None:
    host = SimHost(policy="mode =")
    host.add(Bdf.parse("0000:01:00.0"), SM951)
    assert call(host, "prepare", SECOND) == 0
    assert call(host, "prepare", BDF) == 1
