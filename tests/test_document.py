# SPDX-License-Identifier: LGPL-2.1-or-later
"""What show says to programs: every key, whatever is known."""

import json
from typing import Any

import pytest

from libvirt_hooks import cli, journal, marks
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import HookError
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID, Life
from libvirt_hooks.simulator.models import ORDINARY, SM951

from .lives import BDF, called

KEYS = {
    *("bdf", "vendor", "device", "model", "serial", "euis", "driver", "users", "iommu_group"),
    *("capabilities", "observed", "not_observed", "quirk", "guests", "marks", "policy", "forecast"),
}
OBSERVED = {
    *("gone", "evidence", "nvme_state", "open", "power_state", "reset_methods", "offered"),
    *("neighbours", "virtual_functions", "port", "slot", "state", "disabled", "pristine"),
    *("unreadable", "registers"),
}


def shown(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    monkeypatch.setattr(cli, "this_machine", lambda: host)
    assert cli.main(["show", str(BDF), "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"version", "controller"}
    assert document["version"] == 1
    found: dict[str, Any] = document["controller"]
    assert set(found) == KEYS
    assert found["observed"] is None or set(found["observed"]) == OBSERVED
    return found


def test_one_that_is_awake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver=None)
    found = shown(host, monkeypatch, capsys)
    registers = found["observed"].pop("registers")
    assert list(registers) == ["CAP", "VS", "CC", "CSTS", "AQA", "ASQ", "ACQ"]
    assert registers["CAP"]["value"] == "0x004000203c013fff"
    assert registers["CAP"]["fields"]["MQES"] == 0x3FFF
    assert registers["CSTS"] == {
        "value": "0x00000009",
        "fields": {"RDY": 1, "CFS": 0, "SHST": 2, "NSSRO": 0, "PP": 0},
        "meanings": {"SHST": "complete"},
    }
    assert found == {
        "bdf": "0000:01:00.0",
        "vendor": "144d",
        "device": "a802",
        "model": None,
        "serial": None,
        "euis": None,
        "driver": None,
        "users": [],
        "iommu_group": {"number": "1", "others": []},
        "capabilities": {"flr": True, "no_soft_reset": True, "msix_size": 16},
        "observed": {
            "gone": False,
            "evidence": "CC=0x00464061 CSTS=0x00000009 (RDY=1 CFS=0 SHST=2 NSSRO=0 PP=0)",
            "nvme_state": None,
            "open": False,
            "power_state": "D0",
            "reset_methods": ["flr", "bus"],
            "offered": ["flr", "bus"],
            "neighbours": [],
            "virtual_functions": 0,
            "port": "0000:00:01.0",
            "slot": None,
            "state": "shut down",
            "disabled": False,
            "pristine": False,
            "unreadable": None,
        },
        "not_observed": None,
        "quirk": {
            "name": "sm951",
            "symptom": "dead after an FLR while enabled, until the host reboots",
            "source": "linux-pci, 29 April to 1 July 2021, 'pci: add NVMe FLR quirk to the SM951"
            " SSD'",
            "flr_lethal_while_enabled": True,
            "settle_after_reset": 0.0,
            "ready_check_delay": 0.0,
            "prefer_bus": False,
        },
        "guests": [],
        "marks": {"dead": None, "stuck": None},
        "policy": {"mode": "enforce", "guard": "auto", "close": "holder", "denied": None},
        "forecast": [
            {
                "moment": "open",
                "reset": "bus",
                "state": "disabled by the hook before",
                "safe": True,
                "why": "",
            },
            {
                "moment": "guest reboot",
                "reset": "bus",
                "state": "as the guest leaves it",
                "safe": True,
                "why": "",
            },
            {
                "moment": "close",
                "reset": "flr",
                "state": "disabled by the keeper before",
                "safe": True,
                "why": "",
            },
        ],
    }


def test_the_host_s_and_who_it_shares_a_group_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = SimHost()
    host.add(BDF, SM951)
    monkeypatch.setattr(host, "iommu_group", lambda bdf: ("7", (Bdf.parse("01:00.1"),)))
    found = shown(host, monkeypatch, capsys)
    assert (found["model"], found["serial"], found["euis"]) == (
        *("Samsung SM951", "SIM00000", ["0025385000000000"]),
    )
    assert found["iommu_group"] == {"number": "7", "others": ["0000:01:00.1"]}
    assert found["observed"]["registers"] is None
    assert found["observed"]["unreadable"] == "driver nvme owns them"


def test_a_guest_s(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    host = SimHost()
    host.add(BDF, ORDINARY)
    assert Life(host, [(BDF, True)], called).start()
    found = shown(host, monkeypatch, capsys)
    assert found["guests"] == [UUID]
    assert found["users"] == [{"pid": 4211, "comm": "qemu-system-x86"}]
    assert found["observed"]["open"] is True


def test_one_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = SimHost(policy='deny = ["1b36:0010"]\n')
    host.add(BDF, ORDINARY, "vfio-pci", Fault.CONFIG_FROZEN)
    marks.mark_dead(host, BDF, HookError(f"{BDF}: not live"))
    found = shown(host, monkeypatch, capsys)
    assert found["observed"]["gone"] is True
    assert found["observed"]["state"] == "gone"
    assert (found["capabilities"], found["forecast"]) == (None, [])
    assert found["marks"] == {"dead": "not live", "stuck": None}
    assert found["policy"]["denied"] == "1b36:0010"


def test_one_that_is_only_remembered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = SimHost()
    journal.claim(host, UUID, [BDF])
    found = shown(host, monkeypatch, capsys)
    assert (found["vendor"], found["device"], found["iommu_group"]) == (None, None, None)


def test_one_that_is_not_to_be_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    host.occupy(BDF, 60.0)
    found = shown(host, monkeypatch, capsys)
    assert found["observed"] is None
    assert found["not_observed"] == "lock: still taken after 5 s"
    assert found["forecast"] == []
