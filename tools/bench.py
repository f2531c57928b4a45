# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a hook call costs, as ratios to a bare interpreter's start in the same run.

Each measured process runs right beside a bare one, and the median of the pairs' ratios counts:
so a machine that is slow, or busy for a while, cancels out. The rig's part is ``tests.vm.bench``.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from libvirt_hooks.bdf import Bdf
from tests import realtime, trees

ROOT = Path(__file__).parent.parent
GATE = ROOT / "hooks" / "qemu.d" / "50-nvme-reset"
PYTHON = "/usr/bin/python3"
BARE = (PYTHON, "-I", "-S", "-c", "pass")
LIMIT = 1.3
PAIRS = 150
MANY = {1: None, 2: None, 4: None, 8: None, 16: 1.3, 64: 1.6}
"""Numbers of controllers, and how much longer than with one an operation may take."""
ROUNDS = 9
RUN = Path("/dev/shm")
"""A tmpfs, as /run is."""

PARSE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from libvirt_hooks.domain import parse
xml = sys.stdin.buffer.read()
parse(xml)
best = []
for _ in range(30):
    began = time.perf_counter()
    parse(xml)
    best.append(time.perf_counter() - began)
sys.stderr.write(str(sorted(best)[len(best) // 2]))
"""


COMMAND = (PYTHON, "-I", "-c", "pass")
"""What a person waits for is measured by the interpreter with its site-packages."""
HELP_LIMIT, LIST_LIMIT = 3.0, 4.0
FLEET = 32

LIST = """
import sys
sys.path.insert(0, sys.argv[1])
from libvirt_hooks import cli
from libvirt_hooks.linux import usage
from libvirt_hooks.linux.host import LinuxHost

class Fleet(LinuxHost):
    def usage(self, bdfs):
        return usage.gather(bdfs, *sys.argv[4:8])

cli.this_machine = lambda: Fleet(sys.argv[2], sys.argv[3], sys.argv[3] + "/policy.toml")
sys.exit(cli.main(["list"]))
"""
"""As bin/virt-nvme-reset, on a tree of ours."""

PEAK = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], {"LC_ALL": "C"})
print(os.wait4(pid, 0)[2].ru_maxrss)
"""
"""To be run from a small process: the figure counts what a process was before its exec, too."""


def spawn(command: Sequence[str], stdin: Path, stderr: Path = Path(os.devnull)) -> float:
    """Run a process to its end. Return seconds."""
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, str(stdin), os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, str(stderr), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ]
    began = time.perf_counter()
    pid = os.posix_spawn(command[0], tuple(command), {"LC_ALL": "C"}, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    seconds = time.perf_counter() - began
    if status != 0:
        raise SystemExit(f"{' '.join(command)}: status {os.waitstatus_to_exitcode(status)}")
    return seconds


def peak(command: Sequence[str], stdin: Path) -> int:
    """Run a process to its end. Return its peak resident size in KiB, its workers' not added."""
    with stdin.open("rb") as xml:
        launcher = [PYTHON, "-I", "-S", "-c", PEAK, *command]
        done = subprocess.run(launcher, stdin=xml, capture_output=True, check=True)
    return int(done.stdout)


def compare(
    command: Sequence[str], stdin: Path, pairs: int = PAIRS, bare: Sequence[str] = BARE
) -> tuple[float, float]:
    """Return the median ratio to a bare interpreter, and its quartiles' distance."""
    ratios = []
    for index in range(pairs):
        runs = [(bare, stdin), (command, stdin)]
        if index % 2:
            runs.reverse()
        took = {each: spawn(each, xml) for each, xml in runs}
        ratios.append(took[command] / took[bare])
    low, median, high = statistics.quantiles(ratios, n=4)
    return median, high - low


def hook(operation: str = "prepare") -> tuple[str, ...]:
    return (str(GATE), "guest", operation, "begin", "-")


def many_hostdevs(count: int) -> bytes:
    devices = "".join(
        "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0xfffe'"
        f" bus='0x{index >> 3 & 0xFF:02x}' slot='0x{index & 7:02x}' function='0x0'/></source>"
        "</hostdev>"
        for index in range(count)
    )
    uuid = "0d6f8a7e-53a1-4b0e-8e0c-6d1f0d2c9b11"
    text = f"<domain><name>many</name><uuid>{uuid}</uuid><devices>{devices}</devices></domain>"
    return text.encode()


def main() -> int:
    """Print every figure; return 1 if one is over its limit."""
    data = ROOT / "tests" / "data"
    plain = data / "plain.xml"
    bare = statistics.median(spawn(BARE, plain) for _ in range(30))
    print(f"bare interpreter: {' '.join(BARE)}: {bare * 1000:.1f} ms on this machine, now")
    gate, spread = compare(hook(), plain)
    verdict = "ok" if gate <= LIMIT else "TOO SLOW"
    print(f"gate, {plain.stat().st_size} B domain without NVMe: {gate:.2f} x (IQR {spread:.2f})")
    print(f"  limit {LIMIT} x: {verdict}")
    full, spread = compare(hook(), data / "usb-only.xml", PAIRS // 3)
    print(f"parse and a glance (a host device, but no NVMe): {full:.2f} x (IQR {spread:.2f})")
    resident = peak(hook(), data / "usb-only.xml")
    print(f"  peak memory: {resident} KiB, {resident / peak(BARE, plain):.2f} x")
    seconds = parse_seconds(many_hostdevs(256))
    print(f"parse of a domain with 256 hostdevs: {seconds * 1000:.2f} ms, {seconds / bare:.2f} x")
    return 0 if all((many_controllers(), waited_for(plain), gate <= LIMIT)) else 1


def waited_for(stdin: Path) -> bool:
    """Print what the command costs; are all of it within their limits?"""
    print(f"the command, by {' '.join(COMMAND)}:")
    with tempfile.TemporaryDirectory(dir=RUN if RUN.is_dir() else None) as folder:
        tree = trees.fleet(Path(folder), FLEET)
        where = (tree.sys / "bus/pci/devices", tree.root / "run", tree.sys, tree.proc, tree.dev)
        listing = (PYTHON, "-I", "-c", LIST, str(ROOT), *map(str, where), str(tree.root / "udev"))
        held = True
        for name, command, limit in (
            ("--help", (str(ROOT / "bin" / "virt-nvme-reset"), "--help"), HELP_LIMIT),
            (f"list, {FLEET} controllers", listing, LIST_LIMIT),
        ):
            ratio, spread = compare(command, stdin, PAIRS // 3, COMMAND)
            held &= ratio <= limit
            verdict = "ok" if ratio <= limit else "TOO SLOW"
            print(f"{name:>22}: {ratio:.2f} x (IQR {spread:.2f})  limit {limit} x: {verdict}")
    return held


def many_controllers() -> bool:
    """Print wall time and memory of `prepare` on many controllers; are all within their limits?

    Each is woken (10 ms), disabled (5 ms) and reset (100 ms), in real time. One with a single
    controller runs right before each, and the median of the pairs' ratios counts.
    """
    print("prepare, controllers at once (each: wake 10 ms, disable 5 ms, FLR 100 ms):")
    held = True
    for count, limit in MANY.items():
        ratios, seconds = [], []
        for _ in range(ROUNDS):
            single = prepare(1, spawn)
            seconds.append(prepare(count, spawn))
            ratios.append(seconds[-1] / single)
        ratio = statistics.median(ratios)
        told = f"{count:6}: {statistics.median(seconds) * 1000:6.0f} ms {ratio:6.2f} x"
        told += f"  peak memory {prepare(count, peak):.0f} KiB"
        if limit is not None:
            held &= ratio <= limit
            told += f"  limit {limit} x: {'ok' if ratio <= limit else 'TOO SLOW'}"
        print(told)
    return held


def prepare(count: int, measure: Callable[[Sequence[str], Path], float]) -> float:
    """Measure one call of the hook on so many controllers."""
    bdfs = [Bdf(0xFFFE, bus, 0, 0) for bus in range(1, count + 1)]
    with tempfile.TemporaryDirectory(dir=RUN if RUN.is_dir() else None) as folder:
        root = Path(folder)
        realtime.build(root, bdfs)
        (root / "xml").write_bytes(realtime.domain("guest", 1, bdfs))
        command = (PYTHON, "-I", realtime.__file__, folder, "prepare", "begin")
        return measure(command, root / "xml")


def parse_seconds(xml: bytes) -> float:
    with tempfile.TemporaryDirectory() as folder:
        stdin, answer = Path(folder, "xml"), Path(folder, "answer")
        stdin.write_bytes(xml)
        spawn((PYTHON, "-IB", "-c", PARSE, str(ROOT)), stdin, answer)
        return float(answer.read_text())


if __name__ == "__main__":
    sys.exit(main())
