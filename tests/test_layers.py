# SPDX-License-Identifier: LGPL-2.1-or-later
"""Imports point one way, and what decides imports nothing that acts."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.simulator.domain_xml import Assigned, domain_xml

PACKAGE = Path(__file__).parent.parent / "libvirt_hooks"

# From the leaves up; a module may import from its own line and from those above it.
LAYERS = (
    ("__init__",),
    ("bdf", "errors", "deadline"),
    ("telling", "snapshot", "address", "exposition", "redaction"),
    ("host", "identity"),
    ("registers", "quirks", "attributes"),
    ("nvme", "pci", "remedies", "config_space"),
    ("usage",),
    ("places",),
    ("policy", "policy_file", "guest_policy", "config"),
    ("history",),
    ("observe",),
    ("ladder",),
    ("plan", "guard", "forecast"),
    ("admission", "doctor"),
    ("store",),
    ("journal", "marks"),
    ("work",),
    ("power", "methods", "counters"),
    ("reenumerate", "exclusive", "keepers"),
    ("engine", "domain"),
    ("custody",),
    ("operation",),
    ("closing",),
    ("metrics",),
    ("keeper",),
    ("intent", "known", "rehearsal", "outlook", "worst"),
    ("show", "document"),
    ("report",),
    ("survey",),
    ("lifecycle", "recovery"),
    ("planning", "inventory"),
    ("simulator", "linux"),
    ("call",),
    ("hook", "keep"),
    ("demo",),
    ("command",),
    ("cli",),
)
PURE = {name for layer in LAYERS[:13] for name in layer}
ACTING = {"os", "time", "mmap", "logging", "subprocess", "socket", "fcntl", "select", "signal"}
NAMES_ONLY = {"errors": {"os"}}  # os.strerror
PROTOCOL = {".bdf", ".deadline", ".errors", ".host", ".snapshot"}
"""What Host is made of: no table, and nothing that judges."""


def rank(name: str) -> int:
    return next(at for at, layer in enumerate(LAYERS) if name in layer)


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def top(path: Path) -> str:
    """The module of the package, or its folder."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """What a file imports: modules of the package as ``.name``, others by their first name."""
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (f".{name.split('.')[0]}" for name in names)


def test_every_module_has_a_place() -> None:
    assert {top(path) for path in files()} == {name for layer in LAYERS for name in layer}


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    for name in imports(path):
        if name.startswith(".") and name != ".__version__":
            assert rank(name[1:]) <= rank(top(path)), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_decides_does_not_act(path: Path) -> None:
    if top(path) in PURE:
        assert not ACTING & set(imports(path)) - NAMES_ONLY.get(top(path), set())


def test_the_simulator_shares_no_table_with_what_it_checks() -> None:
    for path in (PACKAGE / "simulator").glob("*.py"):
        inside = {name for name in imports(path) if name.startswith(".")}
        assert inside <= PROTOCOL, path.name


def test_only_the_command_imports_libvirt() -> None:
    for path in files():
        assert "libvirt" not in set(imports(path)) or path.name == "domains.py", path.name


CALL = """
import runpy, sys
sys.argv[1:] = ["guest", "prepare", "begin", "-"]
status = runpy.run_path({gate!r}, run_name="gate")["main"]()
import libvirt_hooks.keep, libvirt_hooks.linux.keeper
print(status, *sorted(sys.modules))
"""


def test_no_module_that_the_hook_loads_is_libvirt_s() -> None:
    """A whole call by the real gate, on this machine; the keeper's modules are beside it."""
    gate = PACKAGE.parent / "hooks" / "qemu.d" / "50-nvme-reset"
    nobody = Assigned(Bdf.parse("fffe:1f:1f.7"), disk=True)
    called = subprocess.run(
        ["/usr/bin/python3", "-IS", "-c", CALL.format(gate=str(gate))],
        input=domain_xml("guest", "0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11", [nobody]),
        capture_output=True,
        check=True,
    )
    status, *loaded = called.stdout.decode().split()
    assert status == "1" and b"there is no such PCI function" in called.stderr
    assert {"libvirt_hooks.lifecycle", "libvirt_hooks.linux.host"} <= set(loaded)
    assert not [each for each in loaded if "libvirt" in each.split(".") or "command" in each]


def test_only_the_entry_points_know_a_real_host() -> None:
    for path in files():
        if top(path) not in ("hook", "call", "command", "cli", "keep", "linux"):
            assert ".linux" not in set(imports(path)), path.name
