# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is counted in a guest's life, and that counting harms none."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from libvirt_hooks import cli, counters, journal, marks, metrics
from libvirt_hooks.errors import BadRecord, DeviceBusy, HookError, Stuck
from libvirt_hooks.host import Host
from libvirt_hooks.linux.host import LinuxHost
from libvirt_hooks.policy import Metrics, Policy
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID, Life
from libvirt_hooks.simulator.models import ORDINARY, SM951

from . import prometheus
from .lives import BDF, SECOND, call, called
from .test_crash import crashes, recover, state

POLICY = '[metrics]\ntextfile = "/var/lib/node-exporter"\n'
FILE = "/var/lib/node-exporter/virt_nvme_reset.prom"
WANTED = Policy(metrics=Metrics("/var/lib/node-exporter"))


def machine(
    faults: Fault = Fault.NONE, policy: str = POLICY, driver: str = "nvme"
) -> tuple[SimHost, Life]:
    host = SimHost(policy=policy)
    host.add(BDF, replace(SM951, to=1), driver, faults)
    host.add(SECOND, replace(ORDINARY, to=1), driver)
    return host, Life(host, [(BDF, True), (SECOND, True)], called)


def value(host: SimHost, name: str, **labels: str) -> float:
    return prometheus.value(host.published[FILE], name, **labels)


def test_a_life() -> None:
    host, life = machine()
    assert life.start()
    assert value(host, "held") == 1
    for operation in ("prepare", "start", "started"):
        assert value(host, "operations_total", operation=operation) == 1
    assert value(host, "resets_total", method="controller", result="done") == 2
    assert value(host, "resets_total", method="flr", result="done") == 0
    life.destroy()
    for operation in ("stopped", "release", "keeper"):
        assert value(host, "operations_total", operation=operation) == 1
    assert value(host, "seconds_total", operation="stopped") > 0
    assert value(host, "resets_total", method="controller", result="done") > 2
    assert (value(host, "held"), value(host, "dead")) == (0, 0)
    assert {name.partition("/")[0] for name in host.records.all} == {"metrics"}
    assert host.violations == []


def test_a_second_life_goes_on_counting_and_a_boot_begins_anew() -> None:
    host, life = machine()
    for _ in range(2):
        assert life.start()
        life.destroy()
    assert value(host, "operations_total", operation="start") == 2
    host.reboot()
    assert life.start()
    assert value(host, "operations_total", operation="start") == 1


def test_without_metrics_nothing_is_counted_or_written() -> None:
    host, life = machine(policy="")
    assert life.start()
    life.destroy()
    assert host.published == {}
    assert host.records.all == []
    assert not any("metrics" in effect or "publish" in effect for effect in host.effects)


def test_a_drive_that_dies() -> None:
    host, life = machine()
    assert life.start()
    host.function(BDF).frozen = True
    life.destroy()
    assert value(host, "dead") == 1
    assert value(host, "resets_total", method="remove/rescan", result="failed") == 1
    assert not life.start()
    assert value(host, "refusals_total", reason="dead") == 1
    assert value(host, "operations_total", operation="prepare") == 2


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(lambda host: setattr(host.device(BDF), "mounted", "/srv"), "host", id="used"),
        pytest.param(
            lambda host: setattr(host, "policy_text", 'deny = ["144d:a802"]\n' + POLICY),
            "denied",
            id="denied",
        ),
        pytest.param(
            lambda host: marks.mark_stuck(host, BDF, Stuck("x", pid=4000, started=4000)),
            "stuck",
            id="an earlier hook",
        ),
    ],
)
def test_a_refusal_has_its_reason(spoil: Callable[[SimHost], None], reason: str) -> None:
    host, life = machine()
    host._workers._runs_until[4000] = 1e9
    spoil(host)
    assert not life.start()
    assert value(host, "refusals_total", reason=reason) == 1


def test_a_drive_that_cannot_be_disabled_refuses_by_what_happened() -> None:
    host, life = machine(Fault.RDY_STUCK | Fault.RESET_EIO)
    assert not life.start()
    assert value(host, "refusals_total", reason="not-reset") == 1
    assert value(host, "resets_total", method="controller", result="failed") >= 1


@pytest.mark.parametrize("may_refuse", [True, False])
def test_a_failure_that_refuses_nobody_is_no_refusal(may_refuse: bool) -> None:
    host, _ = machine()
    with pytest.raises(BadRecord), metrics.measured(host, "x", may_refuse=may_refuse):
        raise BadRecord("x")
    assert value(host, "refusals_total", reason="record") == may_refuse
    assert value(host, "operations_total", operation="x") == 1


@pytest.mark.parametrize("verb", ["reset", "recover"])
def test_the_command_is_counted_too(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host, _ = machine(driver="vfio-pci")
    monkeypatch.setattr(cli, "this_machine", lambda: host)
    yes = ["--yes"] if verb == "reset" else []
    assert cli.main([verb, *yes, str(BDF)]) == 0
    assert value(host, "operations_total", operation=verb) == 1
    assert value(host, "resets_total", method="flr", result="done") == 1


def test_a_keeper_that_was_killed_holds_nothing() -> None:
    host, life = machine()
    assert life.start()
    host.keepers.kill(life.uuid)
    assert prometheus.value(metrics.text(host), "held") == 0
    assert host.records.names("keepers") == [life.uuid]  # to be dropped by who acts on it


def test_an_unplugged_drive_is_held_no_more() -> None:
    host, life = machine()
    assert life.start()
    life.unplug(BDF)
    assert value(host, "held") == 0
    assert value(host, "operations_total", operation="keeper") == 1


@pytest.mark.parametrize("trouble", ["unpublished", "records", "lock", "defect"])
def test_no_trouble_of_the_counting_is_the_guests(
    trouble: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host, life = machine()
    if trouble == "unpublished":
        host.unpublished = "No such file or directory"
    elif trouble == "records":
        store = host.records.store

        def full(folder: str, name: str, data: bytes) -> None:
            if folder == "metrics":
                raise BadRecord(f"{folder}/{name}: writing: No space left on device")
            store(folder, name, data)

        monkeypatch.setattr(host.records, "store", full)
    elif trouble == "lock":
        host._workers.locked_until["metrics"] = 1e9
    else:
        monkeypatch.setattr(metrics, "render", lambda _: 1 / 0)
    caplog.set_level(logging.WARNING)
    assert life.start()
    life.destroy()
    assert host.violations == []
    assert host.nvme_state(BDF) == "live"
    said = {
        "unpublished": f"no metrics: {FILE}: writing: No such file or directory",
        "records": "not counted: metrics/operations: writing: No space left on device",
        "lock": "no metrics: metrics: lock: still taken after 0.5 s",
        "defect": "no metrics: internal error",
    }
    # Five hooks, and the keeper's end; as it begins it has nothing to count.
    assert caplog.messages.count(said[trouble]) == (6 if trouble == "records" else 7)
    assert FILE not in host.published or trouble == "records"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"counts": 3}',
        b'{"counts": [[]]}',
        b'{"counts": [["x"]]}',
        b'{"counts": [["virt_nvme_reset_operations_total", "start", NaN]]}',
        b'{"counts": [["virt_nvme_reset_operations_total", "start", Infinity]]}',
        b'{"counts": [["virt_nvme_reset_operations_total", "start", -1]]}',
        b'{"counts": [["x", "y"]]}',
        b'{"counts": [["virt_nvme_reset_resets_total", "one label", 1], ["other", 1]]}',
    ],
)
def test_a_record_that_is_none_of_ours_is_begun_anew(data: bytes) -> None:
    host, life = machine()
    boot = f'"boot_id": "{host.boot_id()}", '.encode()
    record = data.replace(b"{", b"{" + boot) if data.startswith(b"{") else data
    host.records.folders["metrics"] = {"operations": record, str(BDF): record}
    assert life.start()
    assert value(host, "operations_total", operation="start") == 1
    assert value(host, "resets_total", method="controller", result="done") == 2


def test_a_kill_anywhere_harms_no_drive() -> None:
    """The same end, drives and all, as an undisturbed life's; a count may be lost."""

    def outcome(crash: object) -> tuple[dict[str, object], SimHost]:
        host, life = machine()
        host.crash(crash)  # type: ignore[arg-type]
        if life.start():
            life.destroy()
        host.crash(None)
        recover(host, life)
        found = state(host)
        found["records"] = [each for each in host.records.all if not each.startswith("metrics/")]
        prometheus.parse(metrics.text(host))
        return found, host

    undisturbed, host = outcome(None)
    ours = [at for at, what in enumerate(host.effects) if "metrics" in what or "publish" in what]
    assert len(ours) > 10
    for crash in crashes(len(host.effects)):
        if crash.at in ours:
            assert outcome(crash)[0] == undisturbed, f"{crash}: {host.effects[crash.at]}"


class Counting(LinuxHost):
    """This machine, with its records and its file somewhere else."""

    def __init__(self, root: Path) -> None:
        super().__init__(run=str(root / "run"), policy=str(root / "policy.toml"))


PROCESSES, ROUNDS = 8, 12


def test_processes_that_count_at_once_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "LOCK_TIMEOUT", 30.0)
    policy = Policy(metrics=Metrics(str(tmp_path)))
    children = []
    for at in range(PROCESSES):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                _count(Counting(tmp_path), policy, at)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * PROCESSES
    text = (tmp_path / "virt_nvme_reset.prom").read_text()
    count = prometheus.value(text, "operations_total", operation="start")
    assert count == PROCESSES * ROUNDS
    assert prometheus.value(text, "refusals_total", reason="busy") == PROCESSES * ROUNDS
    assert sorted(os.listdir(tmp_path)) == ["run", "virt_nvme_reset.prom"]


def _count(host: Host, policy: Policy, at: int) -> None:
    for _ in range(ROUNDS):
        try:
            with metrics.measured(host, "start", policy, may_refuse=True):
                raise DeviceBusy("x")
        except HookError:
            pass


def test_a_record_is_counted_up_by_its_own_lock(tmp_path: Path) -> None:
    host = Counting(tmp_path)
    for _ in range(3):
        counters.count(host, WANTED, BDF, {("a", "b"): 1})
    counters.count(host, WANTED, SECOND, {("a", "b"): 0.5, ("c",): 2})
    counters.count(host, Policy(), SECOND, {("a", "b"): 100})
    assert counters.total(host) == {("a", "b"): 3.5, ("c",): 2}


def test_uuid_is_in_no_label() -> None:
    host, life = machine()
    assert life.start()
    assert UUID not in host.published[FILE]


@pytest.mark.parametrize("ours", ["", "owner", "dead", "disk"])
def test_only_a_guest_that_is_our_business_is_counted(
    ours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _ = machine(driver="vfio-pci")
    read = host.read_attr
    gpu = {"class": "0x030000"}
    monkeypatch.setattr(host, "read_attr", lambda bdf, name: gpu.get(name) or read(bdf, name))
    if ours == "owner":
        journal.claim(host, UUID, [SECOND])
    elif ours == "dead":
        marks.mark_dead(host, BDF, HookError("x"))
    call(host, "reconnect", BDF, disk=ours == "disk")
    assert bool(host.published) is bool(ours)


def test_records_that_cannot_be_listed_fail_no_start_that_needs_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unlisted(folder: str) -> list[str]:
        raise BadRecord("x")

    host, _ = machine(driver="vfio-pci", policy='mode = "off"\n' + POLICY)
    monkeypatch.setattr(host.records, "names", unlisted)
    assert call(host, "start", BDF) == 0
    assert host.published == {}
