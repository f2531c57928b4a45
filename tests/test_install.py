# SPDX-License-Identifier: LGPL-2.1-or-later
"""`install` below a directory: nothing real is written, run or reloaded."""

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from libvirt_hooks import cli
from libvirt_hooks.command import install
from libvirt_hooks.command.install import Installation
from libvirt_hooks.doctor.facts import Daemon
from libvirt_hooks.errors import HookError
from libvirt_hooks.linux import manifest
from libvirt_hooks.linux.installed import HOOK, LIBRARY, PYTHON

from .boxes import COMMAND, MODULE, SMALL, Box, make


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    return make(tmp_path, monkeypatch)


def test_what_is_laid_down(box: Box) -> None:
    os.umask(0o077)  # an administrator's own: nobody could read the man page
    try:
        assert box.install() == 0
    finally:
        os.umask(0o022)
    share = "/usr/local/share"
    assert {path: oct(stat.S_IMODE(box.at(path).lstat().st_mode)) for path in box.all} == {
        HOOK: "0o755",
        f"{LIBRARY}/bin/virt-nvme-reset": "0o755",
        MODULE: "0o644",
        f"{LIBRARY}/libvirt_hooks/linux/sysfs.py": "0o644",
        manifest.PATH: "0o644",
        COMMAND: "0o777",
        f"{share}/man/man8/virt-nvme-reset.8": "0o644",
        f"{share}/bash-completion/completions/virt-nvme-reset": "0o644",
        f"{share}/zsh/site-functions/_virt-nvme-reset": "0o644",
        f"{share}/fish/vendor_completions.d/virt-nvme-reset.fish": "0o644",
        "/usr/share/doc/virt-nvme-reset/virt-nvme-reset.toml.example": "0o644",
        "/usr/share/virt-nvme-reset/61-virt-nvme-reset-guard.rules": "0o644",
    }
    assert os.readlink(box.at(COMMAND)) == f"{LIBRARY}/bin/virt-nvme-reset"
    folders = (Path(at) for at, _, _ in os.walk(box.root / "usr"))
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o755}
    compiled, labelled = box.ran
    assert compiled == (
        PYTHON,
        "-I",
        "-m",
        "compileall",
        "-q",
        f"{box.root}{LIBRARY}/libvirt_hooks",
    )
    assert labelled[:3] == ("restorecon", "-R", LIBRARY)
    assert {HOOK, COMMAND} <= set(labelled)


def test_the_hook_comes_after_its_package(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    box.install()
    assert capsys.readouterr().out.splitlines()[-1] == f"{HOOK}: installed"


def test_a_second_time_nothing_happens(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    box.install()
    before = {path: box.at(path).lstat().st_ino for path in box.all if path != manifest.PATH}
    capsys.readouterr()
    assert (box.check(), box.install()) == (0, 0)
    assert capsys.readouterr().out == "all is installed\nall is installed\n"
    assert before == {path: box.at(path).lstat().st_ino for path in before}


def test_check_and_dry_run_change_nothing(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    assert box.check() == 1
    assert f"{HOOK}: missing\n" in capsys.readouterr().out
    assert box.install(dry_run=True) == 0
    assert f"{HOOK}: would be installed\n" in capsys.readouterr().out
    assert (box.all, box.ran) == ([], [])


def test_an_update(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    box.install()
    box.edit("libvirt_hooks/hook.py", "new\n")
    (box.tree / "libvirt_hooks/linux/sysfs.py").unlink()
    box.at(HOOK).chmod(0o644)
    box.at(COMMAND).unlink()
    expected = {
        MODULE: ("outdated", "updated"),
        COMMAND: ("missing", "installed"),
        HOOK: ("of another mode", "mode put right"),
        f"{LIBRARY}/libvirt_hooks/linux/sysfs.py": ("no longer needed", "removed"),
    }
    capsys.readouterr()
    assert box.check() == 1
    assert capsys.readouterr().out.splitlines() == [f"{p}: {s}" for p, (s, _) in expected.items()]
    assert box.install() == 0
    assert capsys.readouterr().out.splitlines() == [f"{p}: {d}" for p, (_, d) in expected.items()]
    assert box.at(MODULE).read_text() == "new\n"
    assert box.check() == 0


@pytest.mark.parametrize("path", [HOOK, MODULE])
def test_what_somebody_has_changed_is_kept(
    box: Box, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    box.install()
    box.at(path).write_text("mine\n")
    capsys.readouterr()
    assert box.check() == 1
    assert capsys.readouterr().out == f"{path}: changed by somebody\n"
    for _ in range(2):
        assert box.install() == 1
        said = f"{path}: changed by somebody: kept; the new one is {path}.new\n"
        assert capsys.readouterr().out == said
        assert box.at(path).read_text() == "mine\n"
        assert stat.S_IMODE(box.at(f"{path}.new").stat().st_mode) == 0o644  # libvirt runs it not
    box.at(f"{path}.new").rename(box.at(path))
    assert box.install() == 0
    assert box.uninstall() == 0
    assert box.all == []


def test_what_was_there_before_is_nobodys_to_overwrite(box: Box) -> None:
    box.at(HOOK).parent.mkdir(parents=True)
    box.at(HOOK).symlink_to(box.tree / "hooks/qemu.d/50-nvme-reset")
    assert box.install() == 1
    assert box.at(HOOK).is_symlink()


def test_a_command_of_somebody_elses_is_kept(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    box.at(COMMAND).parent.mkdir(parents=True)
    box.at(COMMAND).write_text("mine\n")
    assert box.install() == 1
    assert f"{COMMAND}: changed by somebody: kept\n" in capsys.readouterr().out
    assert box.at(COMMAND).read_text() == "mine\n"


@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize("last", range(1, 13))
def test_one_that_was_killed_is_finished_by_the_next(
    box: Box, last: int, update: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before any rename; at an update old and new are ours. Nothing stays behind."""
    if update:
        box.install()
        for name in SMALL:
            box.edit(name, f"{name}: new\n")
    left = [last]
    real = os.rename

    def rename(source: str, target: str) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    try:
        box.install()
    except KeyboardInterrupt:
        pass
    monkeypatch.setattr(os, "rename", real)
    if last % 2:
        assert box.install() == 0
        assert box.check() == 0
    assert box.uninstall() == 0
    assert [path.name for path in box.root.iterdir()] == []


def test_nothing_but_the_hook_is_ever_executable_in_qemu_d(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirt runs whatever it finds there, also what is about to be renamed."""
    seen: set[str] = set()
    real = os.rename

    def rename(source: str, target: str) -> None:
        folder = box.at(HOOK).parent
        seen.update(entry.name for entry in (folder.iterdir() if folder.exists() else ()))
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    box.install()
    box.edit("hooks/qemu.d/50-nvme-reset", "new\n")
    box.install()
    assert seen == {"50-nvme-reset"}


def test_a_packages_installation_is_left_to_the_package(box: Box) -> None:
    box.at(MODULE).parent.mkdir(parents=True)
    box.at(MODULE).write_text("of a package\n")
    with pytest.raises(HookError, match="not laid down by install"):
        box.install()
    with pytest.raises(HookError, match="not laid down by install"):
        box.uninstall()
    assert box.all == [MODULE]


def test_what_is_no_checkout_cannot_be_installed(box: Box) -> None:
    (box.tree / "hooks/qemu.d/50-nvme-reset").unlink()
    for what in (box.install, box.check):
        with pytest.raises(HookError, match="not a checkout"):
            what()


def test_what_a_package_has_laid_down_is_checked_by_its_manager(box: Box) -> None:
    (box.tree / "hooks/qemu.d/50-nvme-reset").unlink()
    box.at(f"{LIBRARY}/libvirt_hooks").mkdir(parents=True)
    with pytest.raises(HookError, match="not laid down by install") as caught:
        box.check()
    assert caught.value.hint == "check a package with dpkg -V or rpm -V"


def test_an_installation_is_checked_by_its_manifest(
    box: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    box.install()
    (box.tree / "hooks/qemu.d/50-nvme-reset").unlink()
    capsys.readouterr()
    assert box.check() == 0
    box.at(HOOK).unlink()
    box.at(MODULE).write_text("mine\n")
    assert box.check() == 1
    assert capsys.readouterr().out == (
        f"all is installed\n{HOOK}: missing\n{MODULE}: changed by somebody\n"
    )


def test_an_older_copy_that_the_hook_would_use(
    box: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = "/etc/libvirt/hooks/libvirt_hooks"
    box.at(copy).mkdir(parents=True)
    (box.at(copy) / "hook.py").write_text("")
    box.install()
    said = f"{copy}: the hook uses this copy, not {LIBRARY}/libvirt_hooks: remove it\n"
    assert capsys.readouterr().out.endswith(said)
    assert box.check() == 1


def test_a_daemon_that_has_read_no_hook_is_reloaded(
    box: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    box.daemons = [Daemon("libvirtd", 812, 4000, started=1000.0)]
    box.install()
    assert box.reloaded == ["libvirtd"]
    assert "libvirtd (812): reloaded, for it had read no hook\n" in capsys.readouterr().out


def test_a_daemon_that_has_read_one_is_left_alone(box: Box) -> None:
    """And the next looks are at a hook that is newer than its start: that it had is noted."""
    box.at(HOOK).parent.mkdir(parents=True)
    other = box.at(HOOK).with_name("90-net")
    other.write_text("")
    other.chmod(0o755)
    box.daemons = [Daemon("libvirtd", 812, 4000, started=other.stat().st_ctime + 1)]
    box.install()
    other.unlink()
    box.edit("hooks/qemu.d/50-nvme-reset", "new\n")
    box.install()
    assert box.reloaded == []
    assert manifest.readers(str(box.root)) == {(812, 4000)}


def test_for_packagers(box: Box) -> None:
    """With /usr for /usr/local; nothing is compiled, labelled, noted or reloaded."""
    box.daemons = [Daemon("libvirtd", 812, 4000, started=1000.0)]
    stage = box.root / "stage"
    assert Installation(str(box.tree), str(stage), "", box.run).install(False) == 0
    assert (box.ran, box.reloaded) == ([], [])
    assert not (stage / manifest.PATH[1:]).exists()
    assert os.readlink(stage / "usr/bin/virt-nvme-reset") == f"{LIBRARY}/bin/virt-nvme-reset"
    assert (stage / "usr/share/man/man8/virt-nvme-reset.8").exists()
    assert not (stage / "usr/local").exists()


def test_a_manifest_that_is_none(box: Box) -> None:
    box.install()
    box.at(manifest.PATH).write_text("[]")
    with pytest.raises(HookError, match="not a manifest of virt-nvme-reset"):
        box.check()


def test_the_verbs(
    box: Box,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the command line, below a directory, with the tree itself."""
    monkeypatch.setattr(cli, "this_machine", lambda: box.host)
    stage = str(tmp_path / "stage")
    assert cli.main(["install", "--root", stage, "--check"]) == 1
    first = capsys.readouterr().out.partition("\n")[0]
    assert re.fullmatch(f"{LIBRARY}/libvirt_hooks: [0-9]+ files missing", first)
    assert cli.main(["install", "--root", stage]) == 0
    assert cli.main(["install", "--root", stage, "--check"]) == 0
    with pytest.raises(SystemExit):
        cli.main(["uninstall", "--check"])
    command = f"{stage}{LIBRARY}/bin/virt-nvme-reset"
    told = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")


def test_what_the_kernel_refuses_is_told(
    box: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied", "/usr/lib/virt-nvme-reset")

    monkeypatch.setattr(install.Installation, "install", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    monkeypatch.setattr(cli, "this_machine", lambda: box.host)
    assert cli.main(["install", "--root", str(box.root)]) == 1
    assert capsys.readouterr().err == (
        "virt-nvme-reset: /usr/lib/virt-nvme-reset: Permission denied\n  hint: run it as root\n"
    )


def test_many_files_are_told_by_their_number() -> None:
    package = f"{LIBRARY}/libvirt_hooks"
    said = [(f"{package}/{name}.py", "installed") for name in "abcd"]
    other = [(f"{package}/e.py", "removed"), (HOOK, "installed")]
    expected = [f"{package}: 4 files installed", f"{package}/e.py: removed", f"{HOOK}: installed"]
    assert install.summary([*said, *other]) == expected
    assert len(install.summary(said[:3])) == 3


def test_the_box_keeps_even_a_mistake_in(box: Box) -> None:
    """These tests run as root."""
    with pytest.raises(AssertionError, match="nowhere"):
        os.chmod("/nowhere", 0o644)
    with pytest.raises(AssertionError, match="/usr/lib/virt-nvme-reset"):
        Installation(str(box.tree), "", "", box.run).install(False)


def test_a_change_that_is_taken_back(box: Box) -> None:
    """Then nothing has to lie beside it any more."""
    box.install()
    text = box.at(HOOK).read_text()
    box.at(HOOK).write_text("mine\n")
    assert box.install() == 1
    box.at(HOOK).write_text(text)
    assert box.install() == 0
    assert f"{HOOK}.new" not in box.all


def test_a_link_that_was_never_renamed(box: Box) -> None:
    box.at(COMMAND).parent.mkdir(parents=True)
    box.at(COMMAND).with_name(".virt-nvme-reset.new").symlink_to("/nowhere")
    assert box.install() == 0
    assert os.readlink(box.at(COMMAND)) == f"{LIBRARY}/bin/virt-nvme-reset"


def test_packagers_may_do_it_twice(box: Box) -> None:
    for _ in range(2):
        assert Installation(str(box.tree), str(box.root), "", box.run).install(False) == 0
