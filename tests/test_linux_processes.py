# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes of a tree of our own, and of this machine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from libvirt_hooks.linux import processes, reads
from libvirt_hooks.linux.processes import (
    opened,
    pids,
    process,
    qemu_pids,
    qemu_runs,
    runs,
    start_time,
    vfio_nodes,
    vfio_users,
)
from libvirt_hooks.snapshot import Process

from .trees import NVME, OTHER, Tree

UUID = "11111111-2222-3333-4444-555555555555"
STAT = "{pid} ({comm}) {state} 1 5 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 {started} 99 100 101"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.process(1, "systemd", "/dev/null")
    tree.write("proc/self", "")
    return tree


def test_pids_are_numbers_in_order(tree: Tree) -> None:
    tree.process(10, "b")
    tree.process(9, "a")
    assert pids(str(tree.proc)) == [1, 9, 10]
    assert pids(str(tree.root / "nowhere")) == []


def test_a_process_has_a_name_while_it_is_there(tree: Tree) -> None:
    assert str(process(1, str(tree.proc))) == "1 (systemd)"
    assert process(2, str(tree.proc)) == Process(2, "")


def test_what_is_open_is_not_looked_up(tree: Tree) -> None:
    tree.process(7, "cat", "socket:[5]", "/nowhere/at all")
    assert sorted(opened(7, str(tree.proc))) == [("0", "socket:[5]"), ("1", "/nowhere/at all")]
    assert list(opened(8, str(tree.proc))) == []


@pytest.mark.parametrize(
    ("targets", "nodes", "found"),
    [
        pytest.param(("/dev/vfio/17",), ("/dev/vfio/17",), True, id="the group"),
        pytest.param(("/dev/vfio/devices/vfio0",), ("/dev/vfio/devices/vfio0",), True, id="cdev"),
        pytest.param(("/dev/vfio/17 (deleted)",), ("/dev/vfio/17",), True, id="taken out of /dev"),
        pytest.param(("/dev/vfio/1", "/dev/vfio/vfio"), ("/dev/vfio/17",), False, id="another"),
        pytest.param(("/x/dev/vfio/17",), ("/dev/vfio/17",), False, id="only looks like it"),
    ],
)
def test_vfio_users(
    tree: Tree, targets: tuple[str, ...], nodes: tuple[str, ...], found: bool
) -> None:
    tree.process(42, "qemu-system-x86")
    for number, target in enumerate(targets):
        tree.link(f"proc/42/fd/{number}", target)
    expected = (Process(42, "qemu-system-x86"),) if found else ()
    wanted = {NVME: nodes, OTHER: ("/dev/vfio/99",)}
    assert vfio_users(wanted, str(tree.proc)) == {NVME: expected, OTHER: ()}


def test_vfio_users_passes_by_what_it_may_not_see(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError

    monkeypatch.setattr(os, "readlink", refuse)
    assert vfio_users({NVME: ("/dev/null",)}, str(tree.proc)) == {NVME: ()}


def test_nobody_is_looked_at_for_a_function_without_nodes(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.process(42, "qemu-system-x86")
    monkeypatch.setattr(os, "readlink", lambda *_, **__: pytest.fail("nobody asked"))
    assert vfio_users({NVME: ()}, str(tree.proc)) == {NVME: ()}


def test_vfio_nodes(tree: Tree) -> None:
    devices = str(tree.sys / "bus/pci/devices")
    tree.link(f"sys/bus/pci/devices/{NVME}/iommu_group", "../../../../kernel/iommu_groups/17")
    tree.write(f"sys/bus/pci/devices/{NVME}/vfio-dev/vfio0/dev", "511:0\n")
    assert vfio_nodes(NVME, devices) == (
        "/dev/vfio/17", "/dev/vfio/noiommu-17", "/dev/vfio/devices/vfio0",
    )  # fmt: skip
    assert vfio_nodes(OTHER, devices) == ()


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        pytest.param(("qemu", "-name", "x", "-uuid", UUID, "-S"), True, id="in the middle"),
        pytest.param(("qemu", "-uuid", UUID), True, id="at the end"),
        pytest.param(("qemu", "-uuid", "x", UUID), False, id="not next to each other"),
        pytest.param(("qemu", "-uuid", UUID + "0"), False, id="another uuid"),
        pytest.param(("sh", "-c", f"qemu -uuid {UUID}"), False, id="inside one argument"),
        pytest.param((), False, id="a kernel thread or a zombie"),
    ],
)
def test_qemu_runs(tree: Tree, arguments: tuple[str, ...], found: bool) -> None:
    tree.process(42, "qemu")
    tree.write("proc/42/cmdline", "".join(f"{argument}\0" for argument in arguments))
    assert qemu_runs(UUID, str(tree.proc)) == found
    assert list(qemu_pids(UUID, str(tree.proc))) == [42] * found


def test_the_first_qemu_is_enough(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next process may be stuck, with its memory map locked."""
    tree.process(42, "qemu")
    tree.process(43, "qemu")
    for pid in (42, 43):
        tree.write(f"proc/{pid}/cmdline", f"qemu\0-uuid\0{UUID}\0")
    assert list(qemu_pids(UUID, str(tree.proc))) == [42, 43]
    looked: list[str] = []
    read = reads.text

    def note(path: str) -> str:
        looked.append(path)
        return read(path)

    monkeypatch.setattr(processes, "text", note)
    assert qemu_runs(UUID, str(tree.proc))
    assert f"{tree.proc}/43/cmdline" not in looked


@pytest.mark.parametrize(
    ("comm", "states", "expected"),
    [
        pytest.param("qemu", "S", 4321, id="sleeping"),
        pytest.param("qemu", "D", 4321, id="stuck in the kernel"),
        pytest.param("a) Z 1 (b", "R", 4321, id="a name like the rest of the line"),
        pytest.param("qemu", "Z", None, id="a zombie"),
        pytest.param("qemu", "X", None, id="dead"),
        pytest.param("qemu", "ZD", 4321, id="killed, but a thread is stuck in the kernel"),
        pytest.param("qemu", "ZX", None, id="killed, all its threads"),
    ],
)
def test_start_time(tree: Tree, comm: str, states: str, expected: int | None) -> None:
    proc = str(tree.proc)
    for tid, state in enumerate(states, 42):
        line = STAT.format(pid=tid, comm=comm, state=state, started=4321) + "\n"
        tree.write(f"proc/42/task/{tid}/stat", line)
        if tid == 42:
            tree.write("proc/42/stat", line)
    assert start_time(42, proc) == expected
    assert runs(42, 4321, proc) == (expected is not None)
    assert not runs(42, 4322, proc)


def test_a_process_that_is_not_there_does_not_run(tree: Tree) -> None:
    assert start_time(43, str(tree.proc)) is None
    assert not runs(43, 4321, str(tree.proc))


def test_this_process_runs() -> None:
    started = start_time(os.getpid())
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert started is not None
    assert 0 <= uptime - started / os.sysconf("SC_CLK_TCK") < 86400
    assert runs(os.getpid(), started)
    assert os.getpid() in pids()


def test_a_real_zombie_does_not_run() -> None:
    child = os.fork()
    if child == 0:
        signal.pause()
    started = start_time(child)
    assert started is not None
    os.kill(child, signal.SIGKILL)
    try:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert start_time(child) is None
        assert not runs(child, started)
        assert list(opened(child)) == []
    finally:
        os.waitpid(child, 0)


def test_a_real_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "input()", "-uuid", UUID]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        while (
            not Path(f"/proc/{child.pid}/cmdline")
            .read_bytes()
            .startswith(sys.executable.encode() + b"\0-c")
        ):
            time.sleep(0.001)
        assert qemu_runs(UUID)
        child.communicate(b"\n")
    assert not qemu_runs(UUID)


def test_what_we_have_open_is_found() -> None:
    with open("/dev/null", "rb"):
        assert any(target == "/dev/null" for _, target in opened(os.getpid()))
        users = vfio_users({NVME: ("/dev/null",)})[NVME]
        assert os.getpid() in [user.pid for user in users]
