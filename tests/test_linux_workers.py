# SPDX-License-Identifier: LGPL-2.1-or-later
"""Workers for real: what comes of a job that ends, fails, dies, stays, or is left behind."""

import errno
import faulthandler
import os
import re
import resource
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libvirt_hooks import errors
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.deadline import Deadline
from libvirt_hooks.errors import DeviceBusy, HookError, Refused, Stuck, SysfsError
from libvirt_hooks.linux import workers
from libvirt_hooks.linux.mmio import map_registers
from libvirt_hooks.linux.processes import start_time
from libvirt_hooks.linux.worker import doing, extend

A, B, C = (Bdf(0, bus, 0, 0) for bus in (1, 2, 3))


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before
    while workers._unreaped:  # a busy machine takes longer than GRACE
        workers._reap([])
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def each(
    bdfs: list[Bdf], job: Callable[[Bdf], str], timeout: float = 5.0
) -> dict[Bdf, str | HookError]:
    return workers.each(bdfs, job, Deadline(time.monotonic, timeout))


def alone(job: Callable[[Bdf], str], timeout: float = 5.0) -> str | HookError:
    return each([C], job, timeout)[C]


def running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_results_come_in_the_order_asked_for() -> None:
    def job(bdf: Bdf) -> str:
        time.sleep(0.05 * (bdf == C))
        return f"{bdf} done in {os.getpid()}"

    outcomes = each([C, A, B, A], job, 5)
    assert list(outcomes) == [C, A, B]
    assert all(str(outcomes[bdf]).startswith(f"{bdf} done") for bdf in outcomes)
    assert f" {os.getpid()}" not in str(outcomes)


def test_who_is_named_twice_is_worked_on_once(tmp_path: Path) -> None:
    def job(_: Bdf) -> str:
        (tmp_path / str(os.getpid())).touch()
        return "fine"

    assert each([A, A], job) == {A: "fine"}
    assert len(os.listdir(tmp_path)) == 1


def test_what_an_error_knows_comes_along() -> None:
    def job(_: Bdf) -> str:
        error = Refused("no")
        vars(error).update(count=2, waited=0.5, holder=None, unsent=object())
        raise error

    assert vars(alone(job)) == {
        "message": "no", "hint": "", "reason": "refused", "count": 2, "waited": 0.5, "holder": None,
    }  # fmt: skip


def test_no_controllers_no_workers() -> None:
    assert each([], lambda bdf: "", 5) == {}


def test_jobs_run_side_by_side(tmp_path: Path) -> None:
    def job(bdf: Bdf) -> str:
        (tmp_path / str(bdf)).touch()
        while len(os.listdir(tmp_path)) < 3:
            time.sleep(0.005)
        return "met the others"

    assert set(each([A, B, C], job, 5).values()) == {"met the others"}


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(SysfsError(C, "writing 'flr' to reset_method", errno.EIO), id="errno kept"),
        *(
            pytest.param(cls("0000:03:00.0: what: seen", hint="next \u2192 move"), id=cls.__name__)
            for cls in vars(errors).values()
            if isinstance(cls, type) and issubclass(cls, HookError) and cls is not SysfsError
        ),
    ],
)
def test_an_error_comes_back_as_it_was(error: HookError) -> None:
    def job(_: Bdf) -> str:
        raise error

    outcome = alone(job)
    assert type(outcome) is type(error)
    assert vars(outcome) == vars(error)
    assert str(outcome) == str(error)


@pytest.mark.parametrize("defect", [ValueError("oops"), SystemExit(3), KeyboardInterrupt("oops")])
def test_a_defect_is_an_error_and_does_not_escape(defect: BaseException) -> None:
    def job(_: Bdf) -> str:
        raise defect

    outcome = alone(job)
    assert type(outcome) is HookError
    assert str(outcome) == f"0000:03:00.0: {type(defect).__name__}: {defect}"


def test_a_revoked_mapping_kills_the_worker_alone(tmp_path: Path) -> None:
    def job(bdf: Bdf) -> str:
        bar = tmp_path / str(bdf)
        bar.write_bytes(bytes(4096))
        faulthandler.disable()  # pytest's; it would print
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with map_registers(str(bar), bdf) as registers:
            doing("wait for CSTS.RDY=0")
            if bdf == C:
                os.truncate(bar, 0)  # what a driver's claim does: the page is gone
            return f"{registers.read32(0)}" if bdf == C else "fine"

    outcomes = each([A, C], job, 5)
    assert outcomes[A] == "fine"
    assert type(outcomes[C]) is DeviceBusy
    assert str(outcomes[C]) == (
        "0000:03:00.0: worker killed by signal 7 (Bus error) while wait for CSTS.RDY=0"
    )


def test_another_signal_is_an_error() -> None:
    def job(_: Bdf) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    outcome = alone(job)
    assert type(outcome) is HookError
    assert str(outcome) == "0000:03:00.0: worker killed by signal 9 (Killed) while starting"


def test_an_end_without_a_word_is_an_error() -> None:
    def job(_: Bdf) -> str:
        os._exit(3)

    assert str(alone(job)) == "0000:03:00.0: worker ended with status 3 while starting"


def test_an_overstayer_is_ended_and_harms_nobody(tmp_path: Path) -> None:
    def job(bdf: Bdf) -> str:
        if bdf == C:
            (tmp_path / "pid").write_text(str(os.getpid()))
            doing("reset by flr")
            time.sleep(60)
        return "fine"

    began = time.monotonic()
    outcomes = each([A, C], job, 0.5)
    assert time.monotonic() - began < 0.5 + 0.5
    assert outcomes[A] == "fine"
    stuck = outcomes[C]
    pid = int((tmp_path / "pid").read_text())
    assert isinstance(stuck, Stuck)
    assert re.fullmatch(
        r"0000:03:00\.0: reset by flr: not done since \d\d:\d\d:\d\d,"
        rf" process {pid} left behind",
        str(stuck),
    )
    assert not running(pid)
    assert (stuck.pid, stuck.started > 0) == (pid, True)


def test_an_overstayer_that_the_kernel_keeps_is_told_by_its_start_time() -> None:
    def job(bdf: Bdf) -> str:
        time.sleep(60)
        return ""

    seen: list[tuple[int, int | None]] = []
    overstay = workers._Worker.overstay

    def look(worker: workers._Worker) -> None:
        seen.append((worker.pid, start_time(worker.pid)))
        overstay(worker)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers._Worker, "overstay", look)
        stuck = alone(job, 0.1)
    assert isinstance(stuck, Stuck)
    assert [(stuck.pid, stuck.started)] == seen


def test_who_never_stops_talking_is_ended_too() -> None:
    def job(_: Bdf) -> str:
        while True:
            doing("talk")

    assert type(alone(job, 0.2)) is Stuck


def test_more_time_is_for_who_asks() -> None:
    def job(bdf: Bdf) -> str:
        if bdf == A:
            extend(5.0)
        time.sleep(0.1 + workers.OVERTIME + 0.4)
        return "fine"

    outcomes = each([A, B], job, 0.1)
    assert outcomes[A] == "fine"
    assert type(outcomes[B]) is Stuck


def test_less_time_than_there_was_is_not_what_one_asks_for() -> None:
    def job(_: Bdf) -> str:
        extend(0.0)
        time.sleep(workers.OVERTIME + 0.3)
        return "fine"

    assert alone(job) == "fine"


def test_a_deadline_that_is_over_leaves_time_to_put_things_back() -> None:
    def job(_: Bdf) -> str:
        time.sleep(0.1)
        return "put back"

    assert alone(job, -3.0) == "put back"


def test_doing_elsewhere_is_nothing() -> None:
    doing("anything")
    extend(5.0)


def leave_a_child(path: Path) -> None:
    """Fork one that keeps the pipe's end open beyond the worker's death."""
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    path.write_text(str(child))


@pytest.mark.parametrize(
    ("end", "told"),
    [
        pytest.param(lambda: None, "x" * 60000, id="done"),
        pytest.param(lambda: os._exit(3), "ended with status 3", id="dead"),
    ],
)
def test_an_end_counts_even_if_the_pipe_stays_open(
    tmp_path: Path, end: Callable[[], None], told: str
) -> None:
    def job(_: Bdf) -> str:
        leave_a_child(tmp_path / "pid")
        end()
        return "x" * 60000

    try:
        assert told in str(alone(job))
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_death_and_last_word_may_be_seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    poll = select.poll

    def late() -> select.poll:
        time.sleep(0.1)
        return poll()

    def job(bdf: Bdf) -> str:
        doing("reset by flr")
        if bdf == A:
            os._exit(3)
        return "fine"

    monkeypatch.setattr(select, "poll", late)
    outcomes = each([A, C], job, 5)
    assert str(outcomes[A]) == "0000:01:00.0: worker ended with status 3 while reset by flr"
    assert outcomes[C] == "fine"


def test_a_silent_pipe_is_waited_for_without_spinning() -> None:
    def job(_: Bdf) -> str:
        os.closerange(3, 1000)
        time.sleep(60)
        return ""

    before = time.process_time()
    assert type(alone(job, 0.4)) is Stuck
    assert time.process_time() - before < 0.2


def test_a_fork_that_fails_is_that_controller_s_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fork, left = os.fork, [1]

    def scarce() -> int:
        if not left:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        left.pop()
        return fork()

    monkeypatch.setattr(os, "fork", scarce)
    outcomes = each([A, B], lambda bdf: "fine", 5)
    assert outcomes[A] == "fine"
    assert str(outcomes[B]) == "0000:02:00.0: starting a worker: Resource temporarily unavailable"


def test_a_worker_that_cannot_be_watched_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def job(_: Bdf) -> str:
        time.sleep(60)
        return ""

    monkeypatch.setattr(os, "pidfd_open", none)
    assert str(alone(job)) == "0000:03:00.0: starting a worker: Too many open files"


def test_an_interrupt_of_the_hook_ends_its_workers(tmp_path: Path) -> None:
    def job(bdf: Bdf) -> str:
        (tmp_path / str(bdf)).write_text(str(os.getpid()))
        if bdf == B:
            while not (tmp_path / str(A)).exists():
                time.sleep(0.005)
            time.sleep(0.2)  # os.fork() itself swallows what is raised before it has returned
            os.kill(os.getppid(), signal.SIGALRM)
        time.sleep(60)
        return ""

    def interrupt(*_: object) -> None:
        raise Refused("interrupted")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(Refused):
            each([A, B], job, 5)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not any(running(int((tmp_path / str(bdf)).read_text())) for bdf in (A, B))


MANY = [Bdf(0, bus, 0, 0) for bus in range(1, 3 * workers.MOST + 2)]


def test_many_controllers_share_a_few_workers() -> None:
    def job(bdf: Bdf) -> str:
        time.sleep(0.05)
        return f"{bdf} {os.getpid()}"

    outcomes = each(MANY, job)
    assert list(outcomes) == MANY
    assert all(str(outcome).startswith(f"{bdf} ") for bdf, outcome in outcomes.items())
    assert len({str(outcome).split()[1] for outcome in outcomes.values()}) == workers.MOST


def test_few_controllers_share_none() -> None:
    outcomes = each(MANY[: workers.MOST], lambda _: str(os.getpid()))
    assert len(set(outcomes.values())) == workers.MOST


def test_who_shared_a_worker_with_one_that_killed_it_is_done_again(tmp_path: Path) -> None:
    culprit = MANY[0]

    def job(bdf: Bdf) -> str:
        (tmp_path / f"{bdf}.{os.getpid()}").touch()
        if bdf == culprit:
            doing("read a register")
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2 * (bdf in MANY[:: workers.MOST]))  # its companions are not done yet
        return "fine"

    outcomes = each(MANY, job)
    assert str(outcomes.pop(culprit)) == (
        "0000:01:00.0: worker killed by signal 9 (Killed) while read a register"
    )
    assert set(outcomes.values()) == {"fine"}
    assert len(list(tmp_path.glob(f"{culprit}.*"))) == 2
    assert len(list(tmp_path.glob(f"{MANY[1]}.*"))) == 1


def test_words_of_companions_are_told_apart() -> None:
    def job(bdf: Bdf) -> str:
        doing(f"step of {bdf}")
        if bdf == MANY[0]:
            raise Refused(f"{bdf}: no")
        if bdf == MANY[workers.MOST]:
            time.sleep(60)
        return "x" * 60_000

    outcomes = each(MANY, job, 0.3)
    assert isinstance(outcomes[MANY[0]], Refused)
    stuck = outcomes[MANY[workers.MOST]]
    assert isinstance(stuck, Stuck)
    assert f": step of {MANY[workers.MOST]}: not done since" in str(stuck)
    assert outcomes[MANY[2 * workers.MOST]] == "x" * 60_000


def test_a_time_that_one_asks_for_is_its_companions_too() -> None:
    def job(bdf: Bdf) -> str:
        if bdf == MANY[0]:
            extend(5.0)
        time.sleep(0.1 + workers.OVERTIME + 0.4)
        return "fine"

    outcomes = each(MANY, job, 0.1)
    assert outcomes[MANY[workers.MOST]] == "fine"
    assert isinstance(outcomes[MANY[1]], Stuck)


def test_who_watches_is_told_what_each_job_is_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "TELLING", 0.02)
    heard: list[tuple[Bdf, str, float, float]] = []

    def job(bdf: Bdf) -> str:
        doing("first")
        time.sleep(0.1)
        doing("second")
        extend(60.0)
        time.sleep(0.1)
        return "done"

    deadline = Deadline(time.monotonic, 5.0)

    def tell(bdf: Bdf, doing: str, elapsed: float, left: float) -> None:
        heard.append((bdf, doing, elapsed, left))

    assert workers.each([A, B], job, deadline, tell) == {A: "done", B: "done"}
    for bdf in (A, B):
        told = [words for words in heard if words[0] == bdf]
        assert list(dict.fromkeys(what for _, what, _, _ in told)) in (
            ["starting", "first", "second"],
            ["first", "second"],
        )
        first = [words for words in told if words[1] == "first"]
        assert len(first) > 2  # also where there is nothing new
        assert first[-1][2] > 0.04
        assert 4.0 < first[-1][3] < 5.3 < told[-1][3] < 60.4
