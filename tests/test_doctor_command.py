# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset doctor` from end to end, on a machine that is sound and on one that is not."""

import json
from dataclasses import replace

import pytest

from libvirt_hooks import cli, journal
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.command import doctor, domains, output
from libvirt_hooks.doctor.facts import Confinement, Entry, Machine, PolicyFile
from libvirt_hooks.domain import parse
from libvirt_hooks.errors import BadRecord
from libvirt_hooks.linux import checkup
from libvirt_hooks.simulator.domain_xml import Assigned, domain_xml
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import UUID
from libvirt_hooks.simulator.models import ORDINARY, SM951

from .test_doctor import DAEMON, HOOK, PATH, PYTHON, SOUND

SICK = Machine(
    uid=1000,
    kernel="5.10.0-28-amd64",
    functions=30,
    lockdown="integrity",
    entries=(replace(HOOK, mode=0o755, changed=300.0), Entry(f"{PATH}.bak", changed=300.0)),
    hook=PATH,
    interpreter=replace(PYTHON, version=(3, 9, 2), lxml=False, error="No module named 'lxml'"),
    daemons=(replace(DAEMON, name="virtqemud"),),
    confinement=Confinement(apparmor=True),
    policy=PolicyFile("/etc/virt-nvme-reset.toml", untrusted="mode is 0666"),
)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> SimHost:
    machine = SimHost()
    machine.policy_text = "mode ="  # the checks say so; nothing else complains
    monkeypatch.setattr(cli, "this_machine", lambda: machine)
    monkeypatch.setattr(domains, "definitions", lambda: None)
    return machine


def test_a_sound_machine(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkup, "gather", lambda: SOUND)
    host.add("0000:02:00.0", ORDINARY)
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr() == (
        """\
runs as root                  : PASS (yes)
kernel offers reset_method    : PASS (6.1.0-18-amd64, 12 of 30 functions)
IOMMU is on                   : PASS (14 groups)
vfio-pci is there             : PASS (loaded)
kernel lockdown               : PASS (none)
hook is installed             : PASS (/etc/libvirt/hooks/qemu.d/50-nvme-reset)
only root can change it       : PASS (root's alone)
its package is there          : PASS (/usr/lib/virt-nvme-reset/libvirt_hooks)
its interpreter               : PASS (/usr/bin/python3 3.11.2)
its interpreter has lxml      : PASS (yes)
libvirt knows the hook        : PASS (libvirtd (812) has read hooks)
back-up files that would run  : PASS (none)
other hooks of QEMU guests    : PASS (none)
security modules              : PASS (AppArmor, libvirtd (enforce))
policy                        : PASS (no /etc/virt-nvme-reset.toml: defaults hold)
guards                        : PASS (0 of 1 drives are with guests)
records left over             : PASS (none)
""",
        "",
    )


def test_a_sick_machine(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkup, "gather", lambda: SICK)
    host.add("0000:01:00.0", SM951, driver="vfio-pci")
    journal.claim(host, "0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11", [Bdf.parse("01:00.0")])
    host.clock.advance(100.0)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr() == (
        """\
runs as root                  : FAIL (uid is 1000 (expected 0))
  hint: sudo virt-nvme-reset doctor
kernel offers reset_method    : FAIL (5.10.0-28-amd64, none of 30 functions)
  hint: boot Linux 5.15 or later: without reset_method there is no guard
IOMMU is on                   : FAIL (no groups)
  hint: enable VT-d or AMD-Vi in the firmware, and boot with intel_iommu=on (Intel)
vfio-pci is there             : PASS (loaded)
kernel lockdown               : WARN (integrity)
  hint: nothing, if you want Secure Boot: the hook disables an idle drive by opening it through \
vfio, and the keeper by QEMU's descriptor; show and reset read no registers
hook is installed             : PASS (/etc/libvirt/hooks/qemu.d/50-nvme-reset)
only root can change it       : PASS (root's alone)
its package is there          : FAIL (no libvirt_hooks that the hook finds)
  hint: virt-nvme-reset install
its interpreter               : FAIL (/usr/bin/python3 is 3.9.2 (expected 3.11 or later))
  hint: upgrade the host
its interpreter has lxml      : FAIL (/usr/bin/python3 has no lxml: No module named 'lxml')
  hint: install the distribution's python3-lxml
libvirt knows the hook        : FAIL (virtqemud (812) has read no hook: changed since it looked)
  hint: systemctl reload virtqemud
back-up files that would run  : FAIL (50-nvme-reset.bak: libvirt runs that, too)
  hint: rm /etc/libvirt/hooks/qemu.d/50-nvme-reset.bak, or chmod a-x
other hooks of QEMU guests    : PASS (none)
security modules              : PASS (AppArmor, libvirtd (enforce))
policy                        : FAIL (/etc/virt-nvme-reset.toml is ignored: mode is 0666)
  hint: chown root:root /etc/virt-nvme-reset.toml && chmod 644 /etc/virt-nvme-reset.toml
guards                        : FAIL (none on 0000:01:00.0 (144d:a802), which a guest has)
  hint: systemctl restart libvirtd (or virtqemud): guests run on, and the hook looks at each
keepers                       : WARN (none for 0000:01:00.0 (144d:a802))
  hint: journalctl -t virt-nvme-reset says why; then systemctl restart libvirtd (or virtqemud): \
guests run on, and the hook looks at each
records left over             : WARN (guest 0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11: gone, and no \
hook came)
  hint: virt-nvme-reset recover
guard at hot-plug             : PASS (0000:01:00.0 (144d:a802): guarded from a guest's start on)
  hint: if you attach it to running guests: install -m 644 \
/usr/share/virt-nvme-reset/61-virt-nvme-reset-guard.rules /etc/udev/rules.d/
""",
        "",
    )
    assert host.effects == ["store owners/0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11"]


def test_a_policy_that_nobody_trusts_is_not_read(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading it complains on stderr, and a program would have to read that, too."""
    monkeypatch.setattr(checkup, "gather", lambda: replace(SOUND, policy=SICK.policy))
    monkeypatch.setattr(host, "policy", lambda: pytest.fail("it was read"))
    assert cli.main(["doctor", "-o", "json"]) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "is ignored: mode is 0666" in captured.out


def test_for_programs(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkup, "gather", lambda: replace(SOUND, lockdown="integrity"))
    assert cli.main(["doctor", "-o", "json"]) == 0  # a warning is no failure
    document = json.loads(capsys.readouterr().out)
    assert document["version"] == 1
    assert document["checks"][0] == {
        "check": "root",
        "title": "runs as root",
        "level": "PASS",
        "seen": "yes",
        "advice": "",
    }
    assert [each["level"] for each in document["checks"]].count("WARN") == 1


def test_colour_is_for_terminals(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkup, "gather", lambda: SICK)
    monkeypatch.setattr(output, "is_colourful", lambda: True)
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert {"\x1b[32mPASS\x1b[0m", "\x1b[33mWARN\x1b[0m", "\x1b[31mFAIL\x1b[0m"} <= {
        word for word in out.split() if "\x1b" in word
    }


def test_on_a_terminal_words_stay_whole(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But hints stay on a line, as they may be commands."""
    monkeypatch.setattr(checkup, "gather", lambda: SICK)
    assert cli.main(["doctor"]) == 1
    everything = capsys.readouterr().out
    for columns in (80, 10):
        monkeypatch.setattr(doctor, "width", lambda columns=columns: columns)
        assert cli.main(["doctor"]) == 1
        out = capsys.readouterr().out
        assert out.split() == everything.split()
        if columns == 80:
            assert max(len(line) for line in out.splitlines() if "hint: " not in line) <= 80
            assert len(out.splitlines()) > len(everything.splitlines())


def test_records_that_a_user_may_not_read(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(folder: str) -> list[str]:
        raise BadRecord(f"/run/virt-nvme-reset/{folder}: listing: Permission denied")

    monkeypatch.setattr(checkup, "gather", lambda: replace(SOUND, uid=1000))
    monkeypatch.setattr(host.records, "names", refuse)
    assert cli.main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith(
        "runs as root                  : FAIL (uid is 1000 (expected 0))"
    )
    assert captured.out.endswith(
        "records left over             : WARN (/run/virt-nvme-reset/owners: listing: Permission"
        " denied)\n  hint: run this as root\n"
    )


def test_a_guests_drive_that_the_host_uses_is_found_through_libvirt(
    host: SimHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkup, "gather", lambda: SOUND)
    dev = host.add("0000:02:00.0", ORDINARY, mounted="/srv")
    guest = parse(domain_xml("vm1", UUID, [Assigned(dev.bdf)]))
    monkeypatch.setattr(domains, "definitions", lambda: [guest])
    monkeypatch.setattr(domains, "running", frozenset)
    cli.main(["doctor"])
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "mount@" in line]
    assert said == (
        "guests' drives the host uses  : WARN (vm1: 0000:02:00.0: mount@nvme0n1p1:/srv)"
    )
