# SPDX-License-Identifier: LGPL-2.1-or-later
"""Another process's descriptors: the process, its pidfd and its descriptors are real.

Only what a vfio device looks like is not: here it is any file in a folder named vfio.
"""

import errno
import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import DeviceGone, HookError, SysfsError
from libvirt_hooks.linux import qemu, whose
from libvirt_hooks.linux.qemu import Qemu

from .qemu_process import NVME, OTHER, UUID, Guest


def descriptors() -> list[tuple[str, str]]:
    found = []
    for name in sorted(os.listdir("/proc/self/fd")):
        try:
            found.append((name, os.readlink(f"/proc/self/fd/{name}")))
        except FileNotFoundError:  # that of the listing
            continue
    return found


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guest]:
    before = descriptors()
    guest = Guest(tmp_path / "vfio")
    monkeypatch.setattr(whose, "is_vfio_device", lambda target: "/vfio/" in target)
    monkeypatch.setattr(whose, "open_controllers", lambda _: guest.nearby)
    monkeypatch.setattr(whose, "may_be", guest.may_be)
    yield guest
    guest.kill()
    assert descriptors() == before


@pytest.fixture
def seen(guest: Guest) -> Iterator[Qemu]:
    with Qemu.find(UUID) as seen:
        yield seen


def everything(_: Bdf) -> bool:
    return True


def ours(guest: Guest) -> list[str]:
    """What of the guest's folder this process has open."""
    return [os.path.basename(t) for _, t in descriptors() if t.startswith(f"{guest.folder}/")]


def refuse(number: int) -> Callable[..., int]:
    def call(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return call


def test_it_is_found_by_its_uuid(guest: Guest, seen: Qemu) -> None:
    assert seen.pid == guest.child.pid
    assert not seen.ended


def test_none_is_found_for_another_uuid() -> None:
    with pytest.raises(HookError) as caught:
        Qemu.find("99999999-2222-3333-4444-555555555555")
    assert str(caught.value) == "99999999-2222-3333-4444-555555555555: no QEMU runs with this uuid"


def test_two_are_too_many(guest: Guest, tmp_path: Path) -> None:
    twin = Guest(tmp_path / "twin")
    try:
        with pytest.raises(HookError) as caught:
            Qemu.find(UUID)
    finally:
        twin.kill()
    low, high = sorted((guest.child.pid, twin.child.pid))
    assert str(caught.value) == f"{UUID}: more than one QEMU: {low}, {high}"


def test_one_that_has_just_ended_is_not_found(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pidfd_open", refuse(errno.ESRCH))
    with pytest.raises(HookError) as caught:
        Qemu.find(UUID)
    assert str(caught.value) == f"{UUID}: no QEMU runs with this uuid"


def test_a_number_that_is_another_process_by_now(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    pidfd_open = os.pidfd_open

    def late(pid: int) -> int:
        guest.kill()
        return pidfd_open(os.getpid())

    monkeypatch.setattr(os, "pidfd_open", late)
    with pytest.raises(HookError) as caught:
        Qemu.find(UUID)
    assert str(caught.value) == f"{UUID}: no QEMU runs with this uuid"


def test_a_kernel_without_pidfds(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pidfd_open", refuse(errno.ENOSYS))
    with pytest.raises(SysfsError) as caught:
        Qemu.find(UUID)
    assert str(caught.value) == (
        f"QEMU {guest.child.pid}: opening a pidfd: Function not implemented"
    )


def test_waiting_ends_with_it(guest: Guest, seen: Qemu) -> None:
    begin = time.monotonic()
    seen.wait(0.02)
    assert 0.02 <= time.monotonic() - begin < 5
    assert not seen.ended
    seen.wait(-1)
    guest.child.kill()
    begin = time.monotonic()
    seen.wait(30)
    assert time.monotonic() - begin < 5
    assert seen.ended


def test_a_duplicate_is_the_same_file_and_outlives_it(guest: Guest, seen: Qemu) -> None:
    guest.plug(30, "disk", NVME)
    (guest.folder / "disk").write_bytes(b"hello")
    assert seen.adopt(everything) == [NVME]
    assert seen.held == [NVME]
    device = seen.device(NVME)
    assert not os.get_inheritable(device.fd)
    assert device.who == NVME
    guest.kill()
    assert seen.ended
    assert os.pread(device.fd, 5, 0) == b"hello"
    assert not seen.has(NVME)
    assert not seen.has_another(NVME)
    seen.close(NVME)
    assert (seen.held, device.fd, ours(guest)) == ([], -1, [])


def test_what_is_held_is_not_taken_again(guest: Guest, seen: Qemu) -> None:
    guest.plug(30, "disk", NVME)
    assert seen.adopt(everything) == [NVME]
    assert seen.adopt(everything) == []
    assert guest.looked == ["disk"]
    assert ours(guest) == ["disk"]
    guest.plug(31, "second", OTHER)
    assert seen.adopt(everything) == [OTHER]
    assert seen.held == [NVME, OTHER]


def test_only_vfio_devices_are_duplicated(
    guest: Guest, seen: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu, "pidfd_getfd", lambda *_: pytest.fail("none of them is one"))
    assert seen.adopt(everything) == []


def test_what_is_no_controller_is_let_go_and_remembered(guest: Guest, seen: Qemu) -> None:
    guest.plug(30, "gpu")
    assert seen.adopt(everything) == []
    assert ours(guest) == []
    assert seen.adopt(everything) == []
    assert guest.looked == ["gpu"]


def test_what_is_not_wanted_is_remembered_until_it_is(guest: Guest, seen: Qemu) -> None:
    guest.plug(30, "disk", NVME)
    assert seen.adopt(lambda _: False) == []
    assert seen.adopt(lambda _: False) == []
    assert (guest.looked, ours(guest)) == (["disk"], [])
    assert seen.adopt(everything) == [NVME]


def test_a_number_that_comes_round_is_looked_at_again(guest: Guest, seen: Qemu) -> None:
    guest.plug(30, "gpu")
    seen.adopt(everything)
    guest.plug(30, "disk", NVME)
    assert seen.adopt(everything) == [NVME]


def test_one_that_was_away_meanwhile_is_looked_at_again(guest: Guest, seen: Qemu) -> None:
    guest.plug(30, "gpu")
    seen.adopt(everything)
    guest.do("close 30")
    seen.adopt(everything)
    guest.plug(30, "gpu")
    seen.adopt(everything)
    assert guest.looked == ["gpu", "gpu"]


def test_a_controller_that_is_new_on_the_host_may_be_any(guest: Guest, seen: Qemu) -> None:
    """All vfio devices look alike in /proc: the number and its target do not tell them apart."""
    guest.plug(30, "device")
    seen.adopt(everything)
    guest.is_what["device"] = (NVME,)
    assert seen.adopt(everything) == []
    guest.nearby = (NVME,)
    assert seen.adopt(everything) == [NVME]


def test_two_candidates_are_left_alone_and_told_once(
    guest: Guest, seen: Qemu, caplog: pytest.LogCaptureFixture
) -> None:
    guest.plug(30, "disk", NVME, OTHER)
    for _ in range(3):
        assert seen.adopt(everything) == []
        guest.nearby += (NVME,)
    assert ours(guest) == []
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            f"QEMU {seen.pid}: descriptor 30: 0000:03:00.0 or 0000:04:00.0: left alone",
        )
    ]
    assert seen.has_another(NVME)
    assert not seen.has_another(Bdf(0, 5, 0, 0))


def test_one_that_does_not_say_is_tried_again_and_told_once(
    guest: Guest, seen: Qemu, caplog: pytest.LogCaptureFixture
) -> None:
    guest.is_what["disk"] = DeviceGone("QEMU 1: descriptor 30: reads all ones")
    guest.plug(30, "disk")
    assert seen.adopt(everything) == seen.adopt(everything) == []
    assert seen.has_another(NVME)
    assert ours(guest) == []
    assert [record.getMessage() for record in caplog.records] == [
        "QEMU 1: descriptor 30: reads all ones: left alone"
    ]
    guest.is_what["disk"] = (NVME,)
    assert seen.adopt(everything) == [NVME]


def test_a_number_that_is_something_else_by_now(
    guest: Guest, seen: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU closes the device and opens another file between the listing and the duplicate."""
    guest.plug(30, "disk", NVME)
    real = qemu.pidfd_getfd
    monkeypatch.setattr(qemu, "pidfd_getfd", lambda pidfd, _: real(pidfd, 20))
    assert seen.adopt(everything) == []
    assert guest.looked == []
    monkeypatch.setattr(qemu, "pidfd_getfd", real)
    assert seen.adopt(everything) == [NVME]


@pytest.mark.parametrize("number", [errno.EBADF, errno.ESRCH])
def test_a_descriptor_that_goes_meanwhile(
    guest: Guest, seen: Qemu, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    guest.plug(30, "disk", NVME)
    monkeypatch.setattr(qemu, "pidfd_getfd", refuse(number))
    assert seen.adopt(everything) == []
    assert not seen.has_another(NVME)


@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.EPERM, "Operation not permitted"), (errno.ENOSYS, "Function not implemented")],
)
def test_a_kernel_that_forbids_it(
    guest: Guest, seen: Qemu, monkeypatch: pytest.MonkeyPatch, number: int, told: str
) -> None:
    guest.plug(30, "disk", NVME)
    monkeypatch.setattr(qemu, "pidfd_getfd", refuse(number))
    with pytest.raises(SysfsError) as caught:
        seen.adopt(everything)
    assert str(caught.value) == f"QEMU {seen.pid}: duplicating descriptor 30: {told}"
    assert seen.has_another(NVME)


def test_a_security_module_that_forbids_to_look(
    guest: Guest, seen: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.plug(30, "disk", NVME)
    seen.adopt(everything)
    with monkeypatch.context() as patch:
        patch.setattr(os, "readlink", refuse(errno.EACCES))
        with pytest.raises(SysfsError) as caught:
            seen.adopt(everything)
        assert seen.has(NVME)
        assert seen.has_another(NVME)
    told = f"QEMU {seen.pid}: listing its descriptors: Permission denied"
    assert str(caught.value) == told


def test_unplugged(guest: Guest, seen: Qemu) -> None:
    guest.plug(30, "disk", NVME)
    seen.adopt(everything)
    assert seen.has(NVME)
    assert not seen.has_another(NVME)
    guest.do("close 30")
    assert not seen.has(NVME)
    assert not seen.has_another(NVME)
    assert seen.held == [NVME]


def test_unplugged_and_the_number_taken(guest: Guest, seen: Qemu) -> None:
    guest.plug(30, "disk", NVME)
    seen.adopt(everything)
    guest.do("dup 20 30")
    assert not seen.has(NVME)


def test_unplugged_and_plugged_at_the_same_number(guest: Guest, seen: Qemu) -> None:
    """The link is the same, as of any vfio device; only kcmp tells."""
    guest.plug(30, "disk", NVME)
    seen.adopt(everything)
    guest.plug(30, "disk")
    assert not seen.has(NVME)
    assert seen.has_another(NVME)
    assert seen.adopt(everything) == []
    seen.close(NVME)
    assert seen.adopt(everything) == [NVME]
    assert seen.has(NVME)


def test_has_another_trusts_no_memory(guest: Guest, seen: Qemu) -> None:
    guest.plug(30, "disk", NVME)
    guest.plug(31, "device")
    seen.adopt(everything)
    guest.is_what["device"] = (NVME,)
    assert seen.has_another(NVME)


def test_its_node_may_be_taken_out_of_dev(guest: Guest, seen: Qemu) -> None:
    guest.plug(30, "disk", NVME)
    seen.adopt(everything)
    (guest.folder / "disk").unlink()
    assert seen.has(NVME)
    guest.do("close 30")
    assert not seen.has(NVME)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_without_kcmp_the_link_has_to_do(
    guest: Guest, seen: Qemu, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(qemu, "same_file", refuse(number))
    guest.plug(30, "disk", NVME)
    seen.adopt(everything)
    assert seen.has(NVME)
    guest.do("dup 20 30")
    assert not seen.has(NVME)


@pytest.mark.parametrize("number", [errno.EBADF, errno.ESRCH])
def test_closed_between_the_link_and_kcmp(
    guest: Guest, seen: Qemu, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    guest.plug(30, "disk", NVME)
    seen.adopt(everything)
    monkeypatch.setattr(qemu, "same_file", refuse(number))
    assert not seen.has(NVME)


def test_a_first_thread_that_ends_first_hides_nothing(guest: Guest, seen: Qemu) -> None:
    """/proc shows nothing open then, and the other threads still have it all."""
    guest.plug(30, "disk", NVME)
    seen.adopt(everything)
    guest.do("leave")
    while os.listdir(f"/proc/{seen.pid}/fd"):
        time.sleep(0.001)
    assert not seen.ended
    assert seen.has(NVME)
    assert seen.has_another(NVME)
    assert seen.adopt(everything) == []
    guest.kill()
    assert seen.ended
    assert not seen.has(NVME)


def test_one_that_ends_while_we_look(
    guest: Guest, seen: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.plug(30, "disk", NVME)
    seen.adopt(everything)
    guest.kill()
    for ask in (seen.has, seen.has_another):
        answers = iter((False, True, True))
        with monkeypatch.context() as patch:
            patch.setattr(Qemu, "_poll", lambda *_: next(answers))  # noqa: B023
            assert not ask(NVME)


def test_a_process_that_has_its_number_is_not_it(
    guest: Guest, seen: Qemu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guest.plug(30, "disk", NVME)
    seen.adopt(everything)
    guest.kill()
    twin = Guest(tmp_path / "twin")
    twin.do(f"open 30 {guest.folder / 'disk'}")
    monkeypatch.setattr(seen, "_pid", twin.child.pid)
    monkeypatch.setattr(qemu, "same_file", refuse(errno.ENOSYS))
    assert not seen.has(NVME)
    with monkeypatch.context() as patch:
        patch.setattr(os, "readlink", refuse(errno.EACCES))
        assert not seen.has_another(NVME)
    twin.kill()


def test_the_system_calls_say_what_is_wrong(guest: Guest) -> None:
    pidfd = os.pidfd_open(guest.child.pid)
    fd = qemu.pidfd_getfd(pidfd, 20)
    try:
        assert qemu.same_file(guest.child.pid, 20, fd)
        assert not qemu.same_file(guest.child.pid, 1, fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            qemu.pidfd_getfd(pidfd, 99)
        with pytest.raises(OSError, match="Bad file descriptor"):
            qemu.same_file(guest.child.pid, 99, fd)
        guest.kill()
        with pytest.raises(OSError, match="No such process"):
            qemu.pidfd_getfd(pidfd, 20)
        with pytest.raises(OSError, match="No such process"):
            qemu.same_file(guest.child.pid, 20, fd)
    finally:
        os.close(fd)
        os.close(pidfd)


def test_a_pipe_ends_with_the_last_duplicate(guest: Guest, seen: Qemu) -> None:
    """As a vfio device does: that is what all this is for."""
    fifo = guest.folder / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        guest.plug(30, "fifo", NVME)
        assert seen.adopt(everything) == [NVME]
        os.close(reader)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        poll = select.poll()
        poll.register(reader, 0)
        guest.kill()
        assert poll.poll(0) == []
        seen.close(NVME)
        assert poll.poll(0) == [(reader, select.POLLHUP)]
    finally:
        os.close(reader)


def test_an_error_inside_closes_all(guest: Guest) -> None:
    guest.plug(30, "disk", NVME)
    with pytest.raises(KeyError), Qemu.find(UUID) as seen:
        assert seen.adopt(everything) == [NVME]
        raise KeyError
    assert ours(guest) == []
    seen.close_all()  # once more is nothing


def test_what_is_not_held_is_a_mistake(seen: Qemu) -> None:
    for ask in (seen.device, seen.has, seen.close):
        with pytest.raises(KeyError):
            ask(NVME)


def test_kcmp_on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "SYS_KCMP", {})
    with pytest.raises(OSError, match="Function not implemented"):
        qemu.same_file(os.getpid(), 0, 0)
