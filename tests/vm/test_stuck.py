# SPDX-License-Identifier: LGPL-2.1-or-later
"""A reset that blocks in the kernel for 65 s: no hook waits for it past its deadline.

Nobody can end such a wait, nor does a signal. So the hook leaves its worker behind, says so, and
keeps every later one away from the drive until the kernel has let go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from . import hooks, records
from .deadline import Deadline
from .drives import Double, View
from .guests import Guest
from .lives import assert_put_back
from .rig import Result, Rig

pytestmark = pytest.mark.vm

DEADLINE, CAP_TO, OVERRUN = 20.0, 8.0, 0.5
"""Seconds: an operation's, what QEMU's controller asks for (CAP.TO=15), and how late it may be.

From its first message to its last: what a process takes to begin and to end is TCG's here."""
KERNEL_GIVES_UP_SECONDS = 65.0
LETS_GO_SECONDS = 180.0
AT_ONCE_SECONDS = 10.0
"""In which libvirt's own work is done, too: some 2 s in the rig."""
STUCK = re.compile(
    r"writing '1' to reset: not done since \d\d:\d\d:\d\d, process (?P<pid>\d+) left behind"
)


@pytest.fixture
def idle(double: Double) -> Iterator[Double]:
    """On vfio-pci, enabled and shut down."""
    double.detach()
    double.clear()
    yield double
    wait_until_let_go(double.rig, double)
    double.heal()
    double.clear()


def wait_until_let_go(rig: Rig, double: Double) -> None:
    """Wait until the process that is stuck, if one is, has ended."""
    pid = records.stuck(rig, double.bdf)
    if pid:
        ended = Deadline.after(LETS_GO_SECONDS)
        ended.wait_until("the kernel lets go", lambda: state(rig, pid) == "", pause=0.5)


def state(rig: Rig, pid: int) -> str:
    """The letter that ps shows; empty if there is no such process."""
    return rig.run(["ps", "-o", "state=", "-p", str(pid)], check=False).stdout.strip()


def call(guest: Guest, operation: str) -> Result:
    sub_operation = "end" if operation in ("stopped", "release") else "begin"
    return hooks.call(guest.rig, guest.name, operation, sub_operation, guest.xml)


def lasted(entries: list[dict[str, str]], operation: str) -> float:
    """Seconds from a hook's first message to its last: when they were sent, not when taken in."""
    sent = [
        int(each["_SOURCE_REALTIME_TIMESTAMP"])
        for each in entries
        if each["OPERATION"] == operation
    ]
    return (max(sent) - min(sent)) / 1e6


def assert_refused_at_once(guest: Guest, sentence: str) -> None:
    """Nothing is piled upon what is stuck."""
    refused = call(guest, "prepare")
    print(f"next start: refused in {refused.seconds:.1f} s")
    assert refused.returncode == 1
    assert refused.seconds < AT_ONCE_SECONDS
    assert hooks.said(refused)[0] == (
        f"{guest.bdf}: may not go to the guest: an earlier hook is still in the kernel with it:"
        f" {sentence}"
    )


def find_stuck(said: str, double: Double) -> tuple[str, int]:
    """Return the sentence and the process; see that it says which write, and that it is true."""
    found = STUCK.search(said)
    assert found, said
    assert double.bdf in said
    pid = int(found["pid"])
    assert state(double.rig, pid) == "D"
    assert records.stuck(double.rig, double.bdf) == pid
    return found[0], pid


def let_go(double: Double) -> None:
    """Wait until the kernel has given up; then the drive is well again."""
    wait_until_let_go(double.rig, double)
    double.freeze_at_any_reset(False)
    double.thaw()


def assert_made_up_for(double: Double, before: View) -> None:
    assert_put_back(double, before)
    assert double.counters().flr_fatal == 1


def test_hook_is_in_time_though_its_reset_is_not(rig: Rig, idle: Double) -> None:
    """At `stopped`, by hand, for libvirt would itself wait for what is stuck."""
    before = idle.view()
    guest = Guest(rig, "stuck", "hang", idle.bdf, managed=False)
    assert call(guest, "start").returncode == 0
    idle.enable()
    idle.freeze_at_any_reset()
    began = hooks.now(rig)

    stopped = call(guest, "stopped")

    assert stopped.returncode == 0
    assert DEADLINE < stopped.seconds < DEADLINE + CAP_TO + AT_ONCE_SECONDS
    release = call(guest, "release")
    print(f"release: {release.seconds:.2f} s")
    assert (release.returncode, release.stderr) == (0, "")
    assert release.seconds < AT_ONCE_SECONDS
    pid = records.stuck(rig, idle.bdf)
    assert state(rig, pid) == "D"
    assert records.owned(rig, guest.uuid) == [idle.bdf]
    told = hooks.command(rig, "recover")
    sentence, _ = find_stuck(told.stderr, idle)
    print(told.stderr.strip())
    assert told.returncode == 1
    assert_refused_at_once(Guest(rig, "second", "hang", idle.bdf, managed=False), sentence)
    assert state(rig, pid) == "D", "all of this was to happen while it is stuck"

    let_go(idle)
    told = hooks.command(rig, "recover")
    print(told.stdout.strip())
    assert told.returncode == 0, told
    assert_made_up_for(idle, before)
    # The journal had to wait: systemd's reads the uevent of a function that is being reset.
    entries = hooks.journal(rig, began)
    worked = lasted(entries, "stopped")
    print(f"\nstopped: {stopped.seconds:.2f} s, {worked:.2f} s of them between its messages")
    assert DEADLINE < worked <= DEADLINE + CAP_TO + OVERRUN
    said = [each["MESSAGE"] for each in entries if each["PRIORITY"] <= "4"]
    assert any(each.startswith(f"{idle.bdf}: {sentence}") for each in said), said


def test_libvirt_answers_while_a_reset_is_stuck(rig: Rig, idle: Double) -> None:
    """At `prepare`, where libvirt has not touched the drive yet, and then does not."""
    before = idle.view()
    guest = Guest(rig, "stuck-start", "hang", idle.bdf, managed=False)
    guest.define()
    try:
        idle.freeze_at_any_reset()
        with ThreadPoolExecutor(1) as pool:
            start = pool.submit(guest.start, check=False)
            rig.run(f"until [ $(cat {idle.sysfs}/reset_method) = flr ]; do sleep 0.2; done")
            beside = rig.run(["virsh", "list"])
            refused = start.result()
        after = rig.run(["virsh", "list", "--all"])
        print(f"\nstart: refused in {refused.seconds:.1f} s")
        print(f"virsh list: {beside.seconds:.1f} s beside the hook, {after.seconds:.1f} s after it")
        _, pid = find_stuck(refused.stderr, idle)
    finally:
        guest.undefine()
    assert refused.returncode == 1
    # libvirt has the guest locked for as long as the hook runs.
    assert beside.seconds < KERNEL_GIVES_UP_SECONDS
    assert after.seconds < AT_ONCE_SECONDS
    assert state(rig, pid) == "D", "all of this was to happen while it is stuck"
    let_go(idle)
    assert call(guest, "prepare").returncode == 0
    assert_made_up_for(idle, before)
