# SPDX-License-Identifier: LGPL-2.1-or-later
"""`uninstall`, as ``test_install``: drives first, then files."""

from pathlib import Path

import pytest

from libvirt_hooks import journal, keepers, recovery, store
from libvirt_hooks.command import uninstall
from libvirt_hooks.errors import DeviceBusy, HookError
from libvirt_hooks.journal import Undo
from libvirt_hooks.linux import manifest
from libvirt_hooks.linux.installed import HOOK, LIBRARY
from libvirt_hooks.simulator.models import SM951

from .boxes import BDF, MODULE, UUID, Box, make


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    return make(tmp_path, monkeypatch)


def test_uninstall_leaves_nothing(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    box.install()
    cache = box.at(LIBRARY) / "libvirt_hooks" / "linux" / "__pycache__"
    cache.mkdir()
    (cache / "sysfs.cpython-311.pyc").write_text("")
    box.at("/run/virt-nvme-reset/locks").mkdir(parents=True)
    capsys.readouterr()
    assert box.uninstall(dry_run=True) == 0
    assert f"{HOOK}: would be removed\n" in capsys.readouterr().out
    assert box.at(HOOK).exists()
    assert box.uninstall() == 0
    assert capsys.readouterr().out == "all is removed\n"
    assert box.all == []
    assert [str(path.relative_to(box.root)) for path in box.root.rglob("*")] == ["run"]


def test_uninstall_leaves_what_is_not_ours(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = [
        "/etc/libvirt/hooks/qemu",
        "/etc/udev/rules.d/61-virt-nvme-reset-guard.rules",
        "/etc/virt-nvme-reset.toml",
    ]
    for path in theirs:
        box.at(path).parent.mkdir(parents=True, exist_ok=True)
        box.at(path).write_text("")
    box.install()
    capsys.readouterr()
    assert box.uninstall() == 0
    assert box.all == theirs
    assert capsys.readouterr().out == (
        "/etc/virt-nvme-reset.toml: yours, left as it is\n"
        "/etc/udev/rules.d/61-virt-nvme-reset-guard.rules: yours, left as it is\n"
        "all else is removed\n"
    )


def test_uninstall_keeps_what_somebody_has_changed(
    box: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    """But a hook that has no package any more would refuse guests."""
    box.install()
    for path in (HOOK, MODULE):
        box.at(path).write_text("mine\n")
    capsys.readouterr()
    assert box.uninstall() == 1
    assert capsys.readouterr().out == (
        f"{HOOK}: changed by somebody: kept, no longer executable\n"
        f"{MODULE}: changed by somebody: kept\n"
        "all else is removed\n"
    )
    assert box.all == [HOOK, MODULE]
    assert not box.at(HOOK).stat().st_mode & 0o111


def test_uninstall_puts_back_every_guard_first(
    box: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    box.install()
    box.host.add(BDF, SM951)
    Undo(box.host, BDF).keep("reset_method", "flr bus")
    box.host.device(BDF).reset_methods[:] = ["bus"]
    capsys.readouterr()
    assert box.uninstall() == 0
    assert capsys.readouterr().out.startswith(f"{BDF}: ")
    assert box.host.read_attr(BDF, "reset_method") == "flr bus"
    assert box.host.records.all == []


def test_uninstall_does_not_go_on_where_a_guard_stays(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.install()
    before = box.all
    Undo(box.host, BDF).keep("reset_method", "flr bus")
    monkeypatch.setattr(recovery, "recover_all", lambda *_: iter(()))
    with pytest.raises(HookError, match=f"something is to be put back on {BDF}"):
        box.uninstall()
    assert box.all == before


def test_uninstall_is_refused_while_a_guest_has_a_drive(box: Box) -> None:
    box.install()
    before = box.all
    box.host.add(BDF, SM951, driver="vfio-pci")
    journal.claim(box.host, UUID, [BDF])
    with pytest.raises(DeviceBusy, match=f"the guest with uuid {UUID} has {BDF}"):
        box.uninstall()
    assert box.all == before


def test_uninstall_is_refused_while_a_keeper_runs(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.install()
    before = box.all
    content = {"process": [42, 42], "qemu": [41, 41], "bdfs": [str(BDF)], "seconds": 0}
    store.save(box.host, keepers.KEEPERS, UUID, content)
    monkeypatch.setattr(box.host, "runs", lambda *_: True)
    with pytest.raises(DeviceBusy, match=f"process 42 keeps drives of guest {UUID}"):
        box.uninstall()
    assert box.all == before


def test_a_guest_that_starts_meanwhile_keeps_the_package(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keeper runs from it, and `recover` is still there; without a hook it is the last."""
    box.install()

    def start(*_: object) -> list[str]:
        journal.claim(box.host, UUID, [BDF])
        return []

    monkeypatch.setattr(recovery, "recover_all", start)
    with pytest.raises(DeviceBusy):
        box.uninstall()
    assert not box.at(HOOK).exists()
    assert box.at(MODULE).exists()
    assert box.at(manifest.PATH).exists()


def test_another_machines_root(box: Box) -> None:
    """As from a rescue system: the guests here are none of its own, and nothing is put back."""
    box.install()
    box.at("/run/virt-nvme-reset").mkdir(parents=True)
    box.host.add(BDF, SM951, driver="vfio-pci")
    journal.claim(box.host, UUID, [BDF])
    Undo(box.host, BDF).keep("reset_method", "flr bus")
    before = box.host.records.all
    assert uninstall.uninstall(box.host, False, str(box.root)) == 0
    assert box.all == []
    assert box.at("/run/virt-nvme-reset").exists()
    assert box.host.records.all == before


def test_a_guest_that_is_gone_refuses_nothing(box: Box) -> None:
    """What it has left is put in order like all else."""
    box.install()
    box.host.add(BDF, SM951, driver="vfio-pci")
    journal.claim(box.host, UUID, [BDF])
    box.host.clock.advance(journal.ON_ITS_WAY + 1)
    assert box.uninstall() == 0
    assert (box.all, box.host.records.all) == ([], [])


def test_a_link_in_the_hooks_place_is_kept_and_not_followed(box: Box) -> None:
    """It is a developer's own, and leads to a checkout."""
    source = box.tree / "hooks/qemu.d/50-nvme-reset"
    source.chmod(0o755)
    box.install()
    box.at(HOOK).unlink()
    box.at(HOOK).symlink_to(source)
    assert box.uninstall() == 1
    assert box.all == [HOOK]
    assert source.stat().st_mode & 0o111 == 0o111
