# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a hook call costs, as ratios to a bare interpreter's start in the same run.

Each measured process runs right beside a bare one, and the median of the pairs' ratios counts:
so a machine that is slow, or busy for a while, cancels out. The rig's part is ``tests.vm.bench``.
"""

import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
GATE = ROOT / "hooks" / "qemu.d" / "50-nvme-reset"
PYTHON = "/usr/bin/python3"
BARE = (PYTHON, "-I", "-S", "-c", "pass")
LIMIT = 1.3
PAIRS = 150

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


def spawn(command: Sequence[str], stdin: Path, stderr: Path) -> tuple[float, int]:
    """Run a process to its end. Return seconds and peak resident size in KiB."""
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, str(stdin), os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, str(stderr), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ]
    began = time.perf_counter()
    pid = os.posix_spawn(command[0], tuple(command), {"LC_ALL": "C"}, file_actions=actions)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - began
    if status != 0:
        raise SystemExit(f"{' '.join(command)}: status {os.waitstatus_to_exitcode(status)}")
    return seconds, usage.ru_maxrss


def compare(command: Sequence[str], stdin: Path, pairs: int = PAIRS) -> tuple[float, float, int]:
    """Return the median ratio to a bare interpreter, its quartiles' distance, and peak KiB."""
    ratios, peak = [], 0
    for index in range(pairs):
        runs = [(BARE, stdin), (command, stdin)]
        if index % 2:
            runs.reverse()
        took = {each: spawn(each, xml, Path(os.devnull)) for each, xml in runs}
        ratios.append(took[tuple(command)][0] / took[BARE][0])
        peak = max(peak, took[tuple(command)][1])
    low, median, high = statistics.quantiles(ratios, n=4)
    return median, high - low, peak


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
    """Print every figure; return 1 if the gate is over its limit."""
    data = ROOT / "tests" / "data"
    bare = statistics.median(
        spawn(BARE, data / "plain.xml", Path(os.devnull))[0] for _ in range(30)
    )
    print(f"bare interpreter: {' '.join(BARE)}: {bare * 1000:.1f} ms on this machine, now")
    gate, spread, _ = compare(hook(), data / "plain.xml")
    size = (data / "plain.xml").stat().st_size
    verdict = "ok" if gate <= LIMIT else "TOO SLOW"
    print(f"gate, {size} B domain without NVMe: {gate:.2f} x (IQR {spread:.2f})")
    print(f"  limit {LIMIT} x: {verdict}")
    full, spread, peak = compare(hook(), data / "usb-only.xml", PAIRS // 3)
    print(f"full parse, no engine (only a USB hostdev): {full:.2f} x (IQR {spread:.2f})")
    bare_peak = spawn(BARE, data / "plain.xml", Path(os.devnull))[1]
    print(f"  peak memory: {peak} KiB, {peak / bare_peak:.2f} x")
    seconds = parse_seconds(many_hostdevs(256))
    print(f"parse of a domain with 256 hostdevs: {seconds * 1000:.2f} ms, {seconds / bare:.2f} x")
    return 0 if gate <= LIMIT else 1


def parse_seconds(xml: bytes) -> float:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        stdin, answer = Path(folder, "xml"), Path(folder, "answer")
        stdin.write_bytes(xml)
        spawn((PYTHON, "-IB", "-c", PARSE, str(ROOT)), stdin, answer)
        return float(answer.read_text())


if __name__ == "__main__":
    sys.exit(main())
