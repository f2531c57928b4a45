# SPDX-License-Identifier: LGPL-2.1-or-later
"""Locks for real; other processes are forked here and killed here."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import BadRecord, DeviceBusy
from libvirt_hooks.linux.locks import lock

NVME = Bdf(0, 3, 0, 0)
OTHER = Bdf(0, 4, 0, 0)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "run")


@contextmanager
def process(first: Callable[[], object]) -> Iterator[int]:
    """Fork one that does *first* and then sleeps; it has done so when the context begins."""
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            first()
            os.write(done, b".")
            time.sleep(60)
        finally:
            os._exit(0)
    os.close(done)
    try:
        assert os.read(ready, 1) == b"."
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def busy(root: str) -> bool:
    try:
        with lock(root, NVME, 0):
            return False
    except DeviceBusy:
        return True


def test_one_at_a_time(root: str) -> None:
    with lock(root, NVME, 1):
        began = time.monotonic()
        with pytest.raises(DeviceBusy) as caught, lock(root, NVME, 0.1):
            pass
        assert 0.1 <= time.monotonic() - began < 5
    assert (
        str(caught.value) == "0000:03:00.0: lock: another hook, or a keeper, has held it for 0.1 s"
    )


def test_controllers_do_not_wait_for_each_other(root: str) -> None:
    with lock(root, NVME, 0), lock(root, OTHER, 0):
        pass


def test_released_at_the_end_and_by_an_error(root: str) -> None:
    with lock(root, NVME, 0):
        pass
    with pytest.raises(KeyError), lock(root, NVME, 0):
        raise KeyError
    assert not busy(root)


def test_who_waits_gets_it(root: str) -> None:
    def hold_shortly() -> None:
        stack = ExitStack()
        stack.enter_context(lock(root, NVME, 0))
        signal.signal(signal.SIGALRM, lambda *_: stack.close())
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    with process(hold_shortly), lock(root, NVME, 5):
        pass


def test_released_by_death(root: str) -> None:
    holder = lock(root, NVME, 0)
    with process(holder.__enter__):
        assert busy(root)
    assert not busy(root)


def test_kept_by_a_worker_that_its_hook_has_left_behind(root: str) -> None:
    with ExitStack() as worker:
        with lock(root, NVME, 0):
            worker.enter_context(process(lambda: None))
        assert busy(root)
    assert not busy(root)


def test_a_program_started_meanwhile_does_not_get_it(root: str) -> None:
    with lock(root, NVME, 0):
        links = {int(fd): f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")}
        ours = [fd for fd, link in links.items() if os.path.realpath(link).endswith(str(NVME))]
        assert [os.get_inheritable(fd) for fd in ours] == [False]


def test_nothing_stays_open(root: str) -> None:
    before = os.listdir("/proc/self/fd")
    with lock(root, NVME, 0):
        assert busy(root)
    assert os.listdir("/proc/self/fd") == before


def test_a_lock_that_is_a_link_is_refused(root: str) -> None:
    with lock(root, OTHER, 0):
        pass
    os.symlink("0000:04:00.0", f"{root}/locks/{NVME}")
    with (
        pytest.raises(BadRecord, match="0000:03:00.0: lock: opening .*: Too many"),
        lock(root, NVME, 0),
    ):
        pass
