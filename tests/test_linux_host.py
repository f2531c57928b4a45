# SPDX-License-Identifier: LGPL-2.1-or-later
"""LinuxHost: that it is a Host, and that its parts are joined."""

import os
import re
from pathlib import Path

import pytest

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.deadline import Deadline
from libvirt_hooks.errors import BadPolicy, DeviceBusy, SysfsError
from libvirt_hooks.host import Host
from libvirt_hooks.linux import policy_file
from libvirt_hooks.linux.host import LinuxHost

NVME = Bdf(0, 3, 0, 0)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    function = tmp_path / "devices" / str(NVME)
    function.mkdir(parents=True)
    (function / "resource0").write_bytes(bytes.fromhex("ff1f0014") + bytes(8188))
    (function / "class").write_text("0x010802\n")
    return LinuxHost(
        str(tmp_path / "devices"), str(tmp_path / "run"), str(tmp_path / "policy.toml")
    )


def test_a_job_reaches_all_of_it_from_its_worker(host: Host) -> None:
    def job(bdf: Bdf) -> str:
        with host.lock(bdf, 1.0), host.registers(bdf) as registers:
            host.doing("look")
            host.records.store("seen", str(bdf), str(os.getpid()).encode())
            return f"{host.read_attr(bdf, 'class')} {registers.read32(0):#x}"

    deadline = Deadline(host.monotonic, 5.0)
    assert host.each(host.functions(), job, deadline) == {NVME: "0x010802 0x14001fff"}
    pid = host.records.load("seen", str(NVME))
    assert pid is not None
    assert int(pid) != os.getpid()


def test_the_lock_is_below_run(host: Host, tmp_path: Path) -> None:
    with host.lock(NVME, 0.0):
        assert (tmp_path / "run" / "locks" / "0000:03:00.0").exists()
        with pytest.raises(DeviceBusy), host.lock(NVME, 0.0):
            pass


def test_the_boot_has_an_id(host: Host) -> None:
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", host.boot_id())


def test_the_clock_goes_on(host: Host) -> None:
    before = host.monotonic()
    host.sleep(0.01)
    assert host.monotonic() - before >= 0.01


def test_doing_outside_a_worker_is_nothing(host: Host) -> None:
    host.doing("anything")


def test_the_policy_is_the_file_s_text_or_none(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    assert host.policy() is None
    path.write_text("# é\n")
    assert LinuxHost(policy=str(path)).policy() == "# é\n"


def test_a_policy_that_cannot_be_read_does_not_count_as_none(host: Host, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_bytes(b"deny\xff")
    with pytest.raises(BadPolicy, match="not UTF-8: byte 4"):
        host.policy()
    (tmp_path / "policy.toml").unlink()
    (tmp_path / "policy.toml").mkdir()
    with pytest.raises(SysfsError, match="policy.toml: reading: Is a directory"):
        host.policy()


def test_the_policy_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with it is told by who reads it: twice is once too often."""
    reads: list[str] = []

    def read(path: str) -> None:
        reads.append(path)

    monkeypatch.setattr(policy_file, "read", read)
    host = LinuxHost(policy=str(tmp_path / "none"))
    assert (host.policy(), host.policy()) == (None, None)
    assert len(reads) == 1
