# SPDX-License-Identifier: LGPL-2.1-or-later
"""What packages are made of: one version, every file, and scripts that a shell takes."""

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from libvirt_hooks import __version__

ROOT = Path(__file__).parent.parent
PACKAGING = ROOT / "packaging"
LIBRARY = "usr/lib/virt-nvme-reset"
SPEC = PACKAGING / "rpm" / "virt-nvme-reset.spec"

SCRIPTS = [
    *(PACKAGING / "debian" / name for name in ("preinst", "postinst", "prerm", "postrm")),
    PACKAGING / "build",
    ROOT / "tools" / "setup",
]


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a file system with what a package has in it, laid down without lxml."""
    root = tmp_path_factory.mktemp("laid")
    install = ["/usr/bin/python3", "-IBS", "bin/virt-nvme-reset", "install", "--root", str(root)]
    subprocess.run(install, cwd=ROOT, check=True, capture_output=True)
    return root


def files(laid: Path) -> set[str]:
    return {f"/{path.relative_to(laid)}" for path in laid.rglob("*") if not path.is_dir()}


def test_nothing_that_is_laid_may_be_written_by_others(laid: Path) -> None:
    for path in laid.rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o022 == 0, path


def test_the_laid_command_runs(laid: Path) -> None:
    command = [str(laid / LIBRARY / "bin" / "virt-nvme-reset"), "--version"]
    environment = {"PATH": "/usr/bin:/bin"}
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert told.stdout == f"virt-nvme-reset {__version__}\n"


def test_the_spec_names_all_that_is_laid_and_nothing_else(laid: Path) -> None:
    there, named = files(laid), spec_files()
    assert {path for path in there if not any(is_named(path, name) for name in named)} == set()
    unused = {name for name in named if not any(is_named(path, name) for path in there)}
    assert {name for name in unused if not name.startswith("/var/log/")} == set()


def is_named(path: str, name: str) -> bool:
    """Is it that, or in that directory?"""
    return fnmatch(path, name) or path.startswith(f"{name}/")


def spec_files() -> set[str]:
    """What is below %files, each path in full."""
    spec = SPEC.read_text()
    macros = {
        "_sysconfdir": "/etc",
        "_prefix": "/usr",
        "_bindir": "/usr/bin",
        "_datadir": "/usr/share",
        "_mandir": "/usr/share/man",
        "_localstatedir": "/var",
        "name": "virt-nvme-reset",
        **dict(re.findall(r"^%global (\w+) +(.*)$", spec, re.M)),
    }
    section = spec.split("\n%files\n")[1].split("\n\n")[0]
    while "%{" in section:
        section = re.sub(r"%\{(\w+)\}", lambda found: macros[found[1]], section)
    lines = section.splitlines()
    return {line.split()[-1] for line in lines if not line.startswith(("%license", "%doc", "%dir"))}


@pytest.mark.parametrize(
    "path, version",
    [
        pytest.param("packaging/debian/changelog", r"\Avirt-nvme-reset \((.*)\) ", id="Debian"),
        pytest.param("packaging/rpm/virt-nvme-reset.spec", r"\nVersion: +(.*)\n", id="RPM"),
        pytest.param("CHANGELOG.md", r"\n## \[(.*?)\]", id="the list of changes"),
    ],
)
def test_there_is_one_version(path: str, version: str) -> None:
    found = re.search(version, (ROOT / path).read_text())
    assert found and found[1] == __version__


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_shell_takes_the_script(path: Path) -> None:
    shell = path.read_text().split("\n", 1)[0].removeprefix("#!")
    subprocess.run([shell, "-n", path], check=True)


def test_an_administrator_may_change_the_hook() -> None:
    # debhelper makes a conffile of all that is in /etc.
    assert "\n%config(noreplace) %{hook}\n" in SPEC.read_text()
