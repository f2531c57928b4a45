# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook as a process, fed by a pipe as libvirtd does it; and its main() in process.

The controllers named here are in a PCI domain that no machine has, so nothing real is touched.
"""

import logging
import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from libvirt_hooks import hook, lifecycle
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.call import carry_out
from libvirt_hooks.domain import Controller, Domain, parse
from libvirt_hooks.errors import HookError
from libvirt_hooks.host import Host
from libvirt_hooks.linux.glance import concerns_us
from libvirt_hooks.linux.journald import JournalHandler
from libvirt_hooks.simulator.domain_xml import Assigned, domain_xml
from libvirt_hooks.simulator.host import SimHost

ROOT = Path(__file__).parent.parent
GATE = ROOT / "hooks" / "qemu.d" / "50-nvme-reset"
PLAIN = (ROOT / "tests" / "data" / "plain.xml").read_bytes()
UUID = "0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11"
NOWHERE = Bdf.parse("fffe:fe:1e.6")

CALLS = [
    ("prepare", "begin"),
    ("start", "begin"),
    ("started", "begin"),
    ("stopped", "end"),
    ("release", "end"),
    ("reconnect", "begin"),
    ("attach", "begin"),
    ("migrate", "begin"),
    ("restore", "begin"),
    ("defrost", "begin"),
    ("prepare", "end"),
]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the hook does nothing for a user")


def run(*arguments: str, xml: bytes = b"", gate: Path = GATE) -> subprocess.CompletedProcess[bytes]:
    """libvirt's environment and working directory; stdin, stdout and stderr are pipes."""
    return subprocess.run(
        [str(gate), *arguments],
        input=xml,
        capture_output=True,
        timeout=30,
        cwd="/",
        env={"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        check=False,
    )


def xml(operation: str, *, disk: bool = False) -> bytes:
    return domain_xml("guest", UUID, [Assigned(NOWHERE, disk=disk)], operation)


def said(result: subprocess.CompletedProcess[bytes]) -> tuple[int, bytes, str]:
    return result.returncode, result.stdout, result.stderr.decode()


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> object:
    """No call here gets as far as having something to remember."""
    run_folder = Path("/run/virt-nvme-reset")
    before = sorted(run_folder.rglob("*")) if run_folder.exists() else None
    yield
    assert (sorted(run_folder.rglob("*")) if run_folder.exists() else None) == before


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_a_guest_without_nvme(call: tuple[str, str]) -> None:
    assert said(run("guest", *call, "-", xml=PLAIN)) == (0, b"", "")


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_a_hostdev_that_is_not_there_is_left_to_libvirt(call: tuple[str, str]) -> None:
    assert said(run("guest", *call, "-", xml=xml(call[0]))) == (0, b"", "")


@needs_root
@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_an_nvme_disk_that_is_not_there(call: tuple[str, str]) -> None:
    result = said(run("guest", *call, "-", xml=xml(call[0], disk=True)))
    if call == ("prepare", "begin"):
        assert result == (
            1,
            b"",
            "fffe:fe:1e.6: may not go to the guest: there is no such PCI function\n"
            "  hint: look for its address with: lspci -D -d ::0108\n",
        )
    else:
        assert result == (0, b"", "")


@needs_root
@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_xml_that_cannot_be_believed_fails_closed_where_it_may(call: tuple[str, str]) -> None:
    result = run("guest", *call, "-", xml=b"<domain><hostdev>")
    refused = call in [("prepare", "begin"), ("start", "begin")]
    assert result.returncode == int(refused)
    assert result.stdout == b""
    assert result.stderr == (
        b"domain XML: not well-formed: line 1, column 18\n" if refused else b""
    )


@pytest.mark.parametrize("count", range(4))
def test_missing_arguments(count: int) -> None:
    arguments = ["guest", "prepare", "begin", "-"][:count]
    assert said(run(*arguments, xml=PLAIN)) == (0, b"", "")


@needs_root
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors(closed: str) -> None:
    """A refusal is still a refusal, and nothing but one."""
    command = f'"$0" guest prepare begin - {closed}'
    result = subprocess.run(
        ["/bin/sh", "-c", command, str(GATE)],
        input=xml("prepare", disk=True),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == (0 if "<&-" in closed else 1)
    assert result.stdout == b""
    assert b"Traceback" not in result.stderr


def lay(where: Path, *, package: bool = True) -> Path:
    """Install by copy: qemu.d/ and libvirt_hooks/ side by side."""
    (where / "qemu.d").mkdir(parents=True)
    if package:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "libvirt_hooks", where / "libvirt_hooks", ignore=ignore)
    return Path(shutil.copy(GATE, where / "qemu.d" / GATE.name))


@needs_root
def test_works_as_a_copy(tmp_path: Path) -> None:
    gate = lay(tmp_path / "hooks")
    result = run("guest", "prepare", "begin", "-", xml=xml("prepare", disk=True), gate=gate)
    assert result.returncode == 1
    assert b"there is no such PCI function" in result.stderr


@needs_root
def test_works_with_the_installed_package(tmp_path: Path) -> None:
    """/etc is no place for code, and a link out of it is one that AppArmor does not let run."""
    gate = lay(tmp_path / "hooks", package=False)
    lay(tmp_path / "lib")
    text = gate.read_text()
    assert 'INSTALLED = "/usr/lib/virt-nvme-reset"\n' in text
    gate.write_text(text.replace("/usr/lib/virt-nvme-reset", f"{tmp_path}/lib"))
    result = run("guest", "prepare", "begin", "-", xml=xml("prepare", disk=True), gate=gate)
    assert b"there is no such PCI function" in result.stderr


@needs_root
def test_works_through_a_link(tmp_path: Path) -> None:
    link = tmp_path / "50-nvme-reset"
    link.symlink_to(lay(tmp_path / "elsewhere"))
    result = run("guest", "prepare", "begin", "-", xml=xml("prepare", disk=True), gate=link)
    assert b"there is no such PCI function" in result.stderr


@needs_root
@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_without_its_package_it_fails_closed_where_it_may(
    call: tuple[str, str], tmp_path: Path
) -> None:
    gate = lay(tmp_path / "hooks", package=False)
    result = said(run("guest", *call, "-", xml=xml(call[0]), gate=gate))
    refused = call in [("prepare", "begin"), ("start", "begin")]
    assert result[:2] == (int(refused), b"")
    if call in lifecycle.HANDLERS:
        assert "No module named 'libvirt_hooks'" in result[2]
        assert "\n  hint: copy all of libvirt_hooks/ to the directory above qemu.d/\n" in result[2]


@needs_root
@pytest.mark.parametrize("call", CALLS, ids=" ".join)
@pytest.mark.parametrize("broken", ["hook", "call", "lifecycle", "domain"])
def test_a_package_that_is_just_being_replaced_kills_no_guest(
    call: tuple[str, str], broken: str, tmp_path: Path
) -> None:
    """From `reconnect` any other status than 0 would."""
    gate = lay(tmp_path / "hooks")
    (tmp_path / "hooks" / "libvirt_hooks" / f"{broken}.py").write_text("def half(\n")
    result = said(run("guest", *call, "-", xml=xml(call[0], disk=True), gate=gate))
    refused = call in [("prepare", "begin"), ("start", "begin")]
    assert result[:2] == (int(refused), b"")
    if call in lifecycle.HANDLERS:
        assert result[2].startswith("virt-nvme-reset: cannot start: SyntaxError: ")


@needs_root
@pytest.mark.parametrize("where", ["/dev/full", None], ids=["full", "closed"])
@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_a_stderr_that_takes_nothing_changes_no_status(
    call: tuple[str, str], where: str | None, tmp_path: Path
) -> None:
    gate = lay(tmp_path / "hooks", package=False)
    redirect = f"2>{where}" if where else "2>&-"
    result = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" "$@" {redirect}', str(gate), "guest", *call, "-"],
        input=xml(call[0]),
        stdout=subprocess.PIPE,
    )
    refused = call in [("prepare", "begin"), ("start", "begin")]
    assert (result.returncode, result.stdout) == (int(refused), b"")


@needs_root
def test_without_lxml_it_says_what_to_install(tmp_path: Path) -> None:
    gate = lay(tmp_path / "hooks")
    absent = "raise ModuleNotFoundError(\"No module named 'lxml'\", name='lxml')\n"
    (tmp_path / "hooks" / "lxml.py").write_text(absent)
    result = said(run("guest", "prepare", "begin", "-", xml=xml("prepare"), gate=gate))
    assert result == (
        1,
        b"",
        "virt-nvme-reset: cannot start: No module named 'lxml'\n"
        "  hint: install python3-lxml for /usr/bin/python3\n",
    )


def modules(*command: str) -> set[str]:
    """What an interpreter imports, by its own account."""
    result = subprocess.run(
        ["/usr/bin/python3", "-I", "-S", "-X", "importtime", *command],
        input=PLAIN,
        capture_output=True,
        check=True,
    )
    lines = result.stderr.decode().splitlines()
    return {line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")}


def test_a_guest_without_nvme_costs_no_import() -> None:
    bare = modules("-c", "pass")
    assert len(bare) > 10
    assert modules(str(GATE), "guest", "prepare", "begin", "-") - bare == set()


def test_the_gate_knows_the_operations_of_the_lifecycle() -> None:
    gate = runpy.run_path(str(GATE), run_name="gate")
    assert gate["OPERATIONS"] == set(lifecycle.HANDLERS)
    assert {operation for operation, _ in gate["OPERATIONS"]} >= lifecycle.MAY_REFUSE


def test_the_gate_lets_a_guest_through_that_owns_something(tmp_path: Path) -> None:
    gate = runpy.run_path(str(GATE), run_name="gate")
    owns = gate["owns_something"]
    owns.__globals__["OWNERS"] = str(tmp_path)
    stopped = f"<domain><uuid>{UUID}</uuid></domain>".encode()
    assert not owns(stopped)
    (tmp_path / UUID).touch()
    assert owns(stopped)
    assert not owns(PLAIN)
    owns.__globals__["OWNERS"] = str(tmp_path / "absent")
    assert not owns(stopped)


@needs_root
def test_what_was_hot_unplugged_is_not_forgotten(tmp_path: Path) -> None:
    """The XML names no controller any more: only the record tells, and the package is asked."""
    gate = lay(tmp_path / "hooks", package=False)
    owners = tmp_path / "owners"
    owners.mkdir()
    gate.write_text(gate.read_text().replace("/run/virt-nvme-reset/owners", str(owners)))
    stopped = f"<domain><uuid>{UUID}</uuid></domain>".encode()
    assert run("guest", "stopped", "end", "-", xml=stopped, gate=gate).stderr == b""
    (owners / UUID).touch()
    assert b"cannot start" in run("guest", "stopped", "end", "-", xml=stopped, gate=gate).stderr


@pytest.mark.parametrize(
    ("operation", "suboperation", "status"),
    [("prepare", "begin", 1), ("start", "begin", 1), ("stopped", "end", 0), ("release", "end", 0)],
)
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (HookError("who: what\nwith: \x1b[31m", hint="next"), "who: what\\x0awith: \\x1b[31m"),
        (ZeroDivisionError("x"), "virt-nvme-reset: internal error: ZeroDivisionError: x"),
    ],
    ids=["HookError", "internal error"],
)
def test_only_prepare_and_start_may_refuse(
    operation: str,
    suboperation: str,
    status: int,
    error: Exception,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object) -> None:
        raise error

    handlers = dict.fromkeys(lifecycle.HANDLERS, fails)
    monkeypatch.setattr(lifecycle, "HANDLERS", handlers)
    argv = ["hook", "guest", operation, suboperation, "-"]
    assert hook.main(argv, xml(operation), SimHost()) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{told}\n" if status else "")
    assert bool(captured.err) == bool(status)
    # A defect of ours is to be found by whoever reads the journal.
    assert any(each.exc_info for each in caplog.records) is not isinstance(error, HookError)


@pytest.mark.parametrize("simulated", [True, False], ids=["a simulation", "this machine"])
def test_where_the_log_goes(simulated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the journal, with the guest's uuid; a simulation's nowhere."""
    package = logging.getLogger("libvirt_hooks")
    monkeypatch.setattr(package, "propagate", True)
    level, seen = package.level, list[dict[str, object]]()
    closed: list[JournalHandler] = []

    def look(host: Host, domain: Domain) -> None:
        handlers = [each for each in package.handlers if isinstance(each, JournalHandler)]
        seen.extend({**each.fields, "level": package.level} for each in handlers)
        assert package.propagate is simulated

    monkeypatch.setattr(lifecycle, "HANDLERS", {("prepare", "begin"): look})
    monkeypatch.setattr(JournalHandler, "close", lambda handler: closed.append(handler))
    domain = parse(xml("prepare"))
    try:
        assert carry_out("prepare", "begin", domain, SimHost() if simulated else None) == 0
    finally:
        package.setLevel(level)
    expected = {"OPERATION": "prepare", "DOMAIN_UUID": UUID, "level": logging.INFO}
    assert seen == ([] if simulated else [expected])
    assert package.handlers == []
    assert len(closed) == len(seen)


def test_main_knows_no_other_operation() -> None:
    for arguments in (["hook"], ["hook", "guest"], ["hook", "guest", "attach", "begin", "-"]):
        assert hook.main(arguments, b"not XML", SimHost()) == 0


HERE = Bdf.parse("0000:01:00.0")


@pytest.mark.parametrize(
    ("class_code", "disk", "record", "expected"),
    [
        pytest.param("0x010802", False, "", True, id="an NVMe controller"),
        pytest.param("0x030000", False, "", False, id="a GPU"),
        pytest.param("0x030000", True, "", True, id="an NVMe disk, whatever is there"),
        pytest.param("", False, "", True, id="nothing is there: worth a warning"),
        pytest.param("0x030000", False, f"owners/{UUID}", True, id="it owns something"),
        pytest.param("0x030000", False, f"journal/{HERE}", True, id="something is to be put back"),
    ],
)
def test_a_glance(tmp_path: Path, class_code: str, disk: bool, record: str, expected: bool) -> None:
    if class_code:
        (tmp_path / str(HERE)).mkdir()
        (tmp_path / str(HERE) / "class").write_text(f"{class_code}\n")
    if record:
        (tmp_path / record).parent.mkdir()
        (tmp_path / record).touch()
    candidates = [Controller(HERE, True, "disk" if disk else "hostdev")]
    assert concerns_us(UUID, candidates, str(tmp_path), str(tmp_path)) is expected


def test_a_guest_with_a_gpu_loads_neither_engine_nor_logging() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from libvirt_hooks import hook;"
        "sys.exit(hook.main(['hook', 'guest', 'prepare', 'begin', '-'], sys.stdin.buffer.read()))"
    )
    usb = (ROOT / "tests" / "data" / "usb-only.xml").read_bytes()
    result = subprocess.run(
        ["/usr/bin/python3", "-I", "-X", "importtime", "-c", script, str(ROOT)],
        input=usb,
        capture_output=True,
        check=True,
    )
    loaded = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.decode().splitlines()}
    assert "libvirt_hooks.linux.glance" in loaded
    assert not {"libvirt_hooks.lifecycle", "libvirt_hooks.call", "logging", "json"} & loaded
