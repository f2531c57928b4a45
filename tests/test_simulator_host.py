# SPDX-License-Identifier: LGPL-2.1-or-later
"""SimHost behaves like sysfs and the kernel behind it (facts/kernel.md section 3)."""

from errno import EACCES, EBUSY, EINVAL, EIO, ENOENT, ENOTTY, EPERM

import pytest

from libvirt_hooks.bdf import Bdf
from libvirt_hooks.deadline import Deadline
from libvirt_hooks.errors import DeviceBusy, RegistersUnreadable, Stuck, SysfsError
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.models import A80C, ORDINARY, P3700, SM951, SM961, SM2262, Model

A, B = Bdf(0, 3, 0, 0), Bdf(0, 4, 0, 0)


def machine(
    model: Model = SM951,
    driver: str | None = "vfio-pci",
    faults: Fault = Fault.NONE,
    pristine: bool = False,
) -> SimHost:
    host = SimHost()
    host.add(A, model, driver, faults, pristine=pristine)
    return host


def refused(host: SimHost, name: str, value: str) -> int:
    with pytest.raises(SysfsError) as caught:
        host.write_attr(A, name, value)
    return caught.value.number


def registers(host: SimHost) -> tuple[int, int]:
    with host.registers(A) as mapped:
        return mapped.read32(0x14), mapped.read32(0x1C)


def wake(host: SimHost) -> None:
    host.write_attr(A, "power/control", "on")


def disable(host: SimHost) -> None:
    with host.registers(A) as mapped:
        mapped.write32(0x14, mapped.read32(0x14) & ~0xC001)
        host.sleep(0.001)
        assert mapped.read32(0x1C) == 0


def test_the_lethal_state_sleeps_behind_lies() -> None:
    host = machine()
    assert host.read_attr(A, "power_state") == "D3hot"
    assert registers(host) == (0xFFFFFFFF, 0xFFFFFFFF)
    assert host.violations == [f"{A}: register read at {at:#x} in D3hot" for at in (0x14, 0x1C)]
    wake(host)
    assert host.read_attr(A, "power_state") == "D0"
    assert registers(host) == (0x00464061, 0x9)
    assert len(host.violations) == 2


def test_old_qemu_lies_with_zeros() -> None:
    assert registers(machine(faults=Fault.D3HOT_READS_ZERO)) == (0, 0)


def test_without_memory_decode_registers_read_ones() -> None:
    host = machine()
    wake(host)
    host.write_config(A, 0x04, b"\0\0")
    assert registers(host)[0] == 0xFFFFFFFF
    host.write_config(A, 0x04, b"\x02\0")
    assert registers(host)[0] == 0x00464061
    assert host.texts(A)[-2:] == ["config write COMMAND=0x0000", "config write COMMAND=0x0002"]


def test_a_function_that_no_driver_had_is_in_an_unknown_state() -> None:
    """pci_device_remove forgets the power state; the registers answer all the same."""
    host = machine(driver=None)
    assert host.read_attr(A, "power_state") == "unknown"
    assert registers(host) == (0x00464061, 0x9)
    disable(host)
    host.write_attr(A, "reset", "1")
    assert host.read_attr(A, "power_state") == "D0"


def test_the_whole_trace_of_disable_and_flr() -> None:
    host = machine()
    wake(host)
    disable(host)
    host.write_attr(A, "reset_method", "flr")
    host.write_attr(A, "reset", "1")
    assert host.function(A).controller.pristine
    assert host.read_config(A, 4, 2) == b"\x03\x01", "the kernel restores COMMAND"
    assert [(e.who, e.text) for e in host.trace] == [
        ("hook", "power/control=on"),
        ("kernel", "power_state=D0"),
        ("hook", "CC=0x00460060"),
        ("drive", "CSTS.RDY=0"),
        ("hook", "reset_method=flr"),
        ("hook", "reset=1"),
        ("kernel", "reset flr"),
    ]
    assert host.violations == []


def test_a_lethal_flr_takes_65_s_and_then_the_next_method() -> None:
    host = machine()
    wake(host)
    began = host.monotonic()
    assert refused(host, "reset", "1") == ENOTTY
    assert host.monotonic() - began == pytest.approx(2 * 65.535 + 0.1 + 0.112)
    assert host.texts(A)[2:] == [
        "reset=1",
        "reset flr",
        "FLR killed it",
        "not ready 65535ms; giving up",
        "bus reset",
        "not ready 65535ms; giving up",
        "reset: ENOTTY",
    ]
    assert host.read_config(A, 0, 4) == b"\xff" * 4
    assert host.read_attr(A, "vendor") == "0x144d", "sysfs remembers"


def test_flr_alone_waits_only_once() -> None:
    host = machine()
    wake(host)
    host.write_attr(A, "reset_method", "flr")
    began = host.monotonic()
    assert refused(host, "reset", "1") == ENOTTY
    assert host.monotonic() - began == pytest.approx(65.635)


def test_a_bus_reset_may_cure() -> None:
    host = machine(faults=Fault.BUS_RESET_CURES)
    wake(host)
    host.write_attr(A, "reset", "1")
    function = host.function(A)
    assert (function.lethal_flrs, function.bus_resets, function.frozen) == (1, 1, False)
    assert registers(host) == (0, 0)


def test_a_dead_function_cannot_wake() -> None:
    host = machine(faults=Fault.CONFIG_FROZEN)
    wake(host)
    assert host.read_attr(A, "power_state") == "D3cold"
    assert registers(host) == (0xFFFFFFFF, 0xFFFFFFFF)


@pytest.mark.parametrize(
    ("value", "after"),
    [
        pytest.param("flr", "flr", id="one"),
        pytest.param("bus flr\n", "bus flr", id="order is kept"),
        pytest.param("flr flr", "flr flr", id="duplicates are accepted"),
        pytest.param("\n", "", id="newline clears"),
        pytest.param(" ", "", id="blank clears"),
        pytest.param("\0", "", id="NUL clears"),
        pytest.param("", "flr bus", id="a zero-length write is a silent no-op"),
        pytest.param("default", "flr bus", id="default probes again"),
    ],
)
def test_reset_method(value: str, after: str) -> None:
    host = machine()
    host.write_attr(A, "reset_method", value)
    assert host.read_attr(A, "reset_method") == after


@pytest.mark.parametrize("value", ["pm", "device_specific", "FLR", "flr,bus", "none", "flr pm"])
def test_reset_method_refuses(value: str) -> None:
    host = machine()
    assert refused(host, "reset_method", value) == EINVAL
    assert host.read_attr(A, "reset_method") == "flr bus"


def test_reset_with_no_method() -> None:
    host = machine()
    wake(host)
    host.write_attr(A, "reset_method", "\n")
    assert refused(host, "reset", "1") == ENOTTY
    assert host.function(A).flrs == 0
    assert refused(host, "reset", "0") == EINVAL


def test_reset_method_survives_drivers_but_not_remove() -> None:
    host = machine(ORDINARY, "nvme")
    host.write_attr(A, "reset_method", "bus")
    host.write_attr(A, "driver_override", "vfio-pci")
    host.write_attr(A, "driver/unbind", str(A))
    host.write_attr(A, "subsystem/drivers_probe", str(A))
    assert host.driver(A) == "vfio-pci"
    assert host.read_attr(A, "reset_method") == "bus"
    host.write_attr(A, "remove", "1")
    assert A not in host.functions()
    assert host.read_attr(A, "class") is None
    host.write_attr(Bdf(0, 0, 3, 0), "rescan", "1")
    assert host.driver(A) == "nvme"
    assert host.read_attr(A, "reset_method") == "flr bus"
    assert host.read_attr(A, "driver_override") == "(null)"


def test_rescan_does_not_find_the_dead() -> None:
    host = machine(faults=Fault.CONFIG_FROZEN)
    host.write_attr(A, "remove", "1")
    host.write_attr(Bdf(0, 0, 3, 0), "rescan", "1")
    assert A not in host.functions()
    host.reboot()
    assert A in host.functions()


def test_bus_is_refused_beside_a_neighbour() -> None:
    host = SimHost()
    other = Bdf(0, 3, 0, 1)
    host.add(A, SM951, "vfio-pci", beside=[other])
    assert host.read_attr(A, "reset_method") == "flr bus", "probed before the other was there"
    assert host.read_attr(other, "reset_method") == "flr"
    assert refused(host, "reset_method", "bus") == EINVAL
    wake(host)
    assert refused(host, "reset", "1") == ENOTTY
    assert host.function(other).bus_resets == 0


def test_no_bus_on_the_root_bus() -> None:
    host = SimHost()
    host.add("0000:00:05.0", ORDINARY)
    assert host.read_attr(Bdf(0, 0, 5, 0), "reset_method") == "flr"


def test_reset_subordinate_goes_past_reset_method() -> None:
    host = machine(faults=Fault.BUS_RESET_CURES)
    host.write_attr(A, "reset_method", "\n")
    host.write_attr(Bdf(0, 0, 3, 0), "reset_subordinate", "1")
    assert host.function(A).bus_resets == 1
    assert host.violations == []


@pytest.mark.parametrize(
    ("faults", "number"), [(Fault.RESET_EIO, EIO), (Fault.RESET_ENOTTY, ENOTTY)]
)
def test_resets_that_fail_at_once(faults: Fault, number: int) -> None:
    host = machine(faults=faults)
    wake(host)
    assert refused(host, "reset", "1") == number
    assert registers(host) == (0x00464061, 0x9)
    assert host.monotonic() < 0.1


def test_no_reset_method_at_all() -> None:
    host = machine(faults=Fault.NO_RESET_METHOD)
    assert host.read_attr(A, "reset_method") is None
    assert refused(host, "reset", "1") == ENOENT


def test_the_kernels_quirk_saves_the_sm961() -> None:
    host = machine(SM961)
    wake(host)
    assert host.read_attr(A, "reset_method") == "device_specific flr bus"
    host.write_attr(A, "reset", "1")
    assert host.function(A).lethal_flrs == 0
    assert host.function(A).controller.pristine


def test_gone_after_flr() -> None:
    host = machine(ORDINARY, faults=Fault.GONE_AFTER_FLR)
    wake(host)
    host.write_attr(A, "reset_method", "flr")
    assert refused(host, "reset", "1") == ENOTTY
    assert "gone after FLR" in host.texts(A)


def test_false_immediate_readiness() -> None:
    host = machine(A80C)
    wake(host)
    began = host.monotonic()
    host.write_attr(A, "reset", "1")
    assert host.monotonic() == began, "the kernel believes it and does not wait"
    assert host.read_config(A, 0, 2) == b"\xff\xff"
    host.sleep(0.15)
    assert host.read_config(A, 0, 2) == b"\x4d\x14"
    assert registers(host) == (0, 0)


@pytest.mark.parametrize(("method", "works"), [("flr", False), ("device_specific", True)])
def test_p3700_must_be_left_alone_after_flr(method: str, works: bool) -> None:
    host = machine(P3700)
    wake(host)
    disable(host)
    host.write_attr(A, "reset_method", method)
    host.write_attr(A, "reset", "1")
    host.read_config(A, 0, 2)
    assert host.function(A).controller.cannot_enable is not works


def test_sm2262_grows_its_msix_table() -> None:
    host = machine(SM2262)
    wake(host)
    host.write_attr(A, "reset_method", "flr")
    host.write_attr(A, "reset", "1")
    assert host.read_config(A, 0xB2, 2)[0] == 21
    host.write_attr(A, "reset_method", "bus")
    host.write_attr(A, "reset", "1")
    assert host.read_config(A, 0xB2, 2)[0] == 15


def test_flr_through_configuration_space() -> None:
    host = machine()
    wake(host)
    host.write_config(A, 0x78, b"\x00\x80")
    assert host.function(A).frozen


def test_a_live_disk_survives_a_reset_through_sysfs() -> None:
    host = machine(SM951, "nvme")
    host.write_attr(A, "reset", "1")
    assert host.nvme_state(A) == "live"
    assert (host.function(A).flrs, host.function(A).lethal_flrs) == (1, 0)


def test_a_claimed_bar_cannot_be_mapped() -> None:
    host = machine(SM951, "nvme")
    with pytest.raises(RegistersUnreadable, match="Invalid argument"), host.registers(A):
        pass
    assert host.violations == [f"{A}: registers touched while nvme owns it"]


def test_lockdown() -> None:
    host = SimHost(lockdown=True)
    host.add(A, SM951, None)
    with pytest.raises(RegistersUnreadable, match="not permitted"), host.registers(A):
        pass
    with pytest.raises(SysfsError) as caught:
        host.write_config(A, 4, b"\2\0")
    assert caught.value.number == EPERM


def test_a_mapping_ends_with_its_context() -> None:
    host = machine(driver=None)
    with host.registers(A) as mapped:
        mapped.read32(0x16)
    assert host.violations[0] == f"{A}: read at 0x16: unaligned, or outside the first 4 KiB"
    with pytest.raises(ValueError, match="closed"):
        mapped.read32(0x14)


def test_attributes_refuse_as_in_sysfs() -> None:
    host = machine()
    with pytest.raises(SysfsError) as caught:
        host.read_attr(A, "reset")
    assert caught.value.number == EACCES
    assert refused(host, "enable", "1") == EBUSY
    assert refused(host, "vendor", "1") == EACCES
    assert refused(host, "no_such", "1") == ENOENT
    assert host.read_attr(A, "no_such") is None
    assert host.read_attr(B, "class") is None


def test_sr_iov() -> None:
    host = SimHost()
    host.add(A, ORDINARY, total_vfs=4)
    assert host.read_attr(A, "sriov_numvfs") == "0"
    host.write_attr(A, "sriov_numvfs", "2")
    assert host.read_attr(A, "sriov_numvfs") == "2"
    assert refused(host, "sriov_numvfs", "3") == EBUSY


def test_functions_and_the_ports_above_them() -> None:
    host = machine()
    port = Bdf(0, 0, 3, 0)
    assert list(host.functions()) == [port, A]
    assert host.read_attr(port, "class") == "0x060400"
    assert host.read_config(port, 0x19, 1) == b"\x03"
    assert host.driver(port) == "pcieport"


def test_the_lock_is_not_reentrant() -> None:
    host = machine()
    with host.lock(A, 1), pytest.raises(DeviceBusy), host.lock(A, 2):
        pass
    assert host.monotonic() == 2
    with host.lock(A, 0):
        pass


def test_the_lock_waits_for_another_hook() -> None:
    host = machine()
    host.occupy(A, 3)
    with pytest.raises(DeviceBusy), host.lock(A, 1):
        pass
    with host.lock(A, 5):
        assert host.monotonic() == 3


def test_jobs_run_at_once() -> None:
    host = machine()
    host.add(B, SM951, "vfio-pci")

    def job(bdf: Bdf) -> str:
        host.sleep(1 if bdf == A else 2)
        if bdf == B:
            raise DeviceBusy("busy")
        return f"at {host.monotonic():g}"

    results = host.each([A, B], job, Deadline(host.monotonic, 10))
    assert results[A] == "at 1"
    assert isinstance(results[B], DeviceBusy)
    assert host.monotonic() == 2


def test_a_job_that_hangs_in_the_kernel_is_left_behind() -> None:
    host = machine()
    host.add(B, ORDINARY, "vfio-pci")
    reached = []

    def job(bdf: Bdf) -> str:
        with host.lock(bdf, 1):
            host.write_attr(bdf, "power/control", "on")
            host.write_attr(bdf, "reset", "1")
            reached.append(bdf)
        return "reset"

    results = host.each([A, B], job, Deadline(host.monotonic, 8))
    stuck = results[A]
    assert isinstance(stuck, Stuck)
    assert results[B] == "reset"
    assert reached == [B]
    assert host.monotonic() == pytest.approx(8.3)
    assert host.runs(stuck.pid, stuck.started)
    with pytest.raises(DeviceBusy), host.lock(A, 10):
        pass
    seconds = [event.seconds for event in host.trace]
    assert seconds == sorted(seconds)


def test_a_job_may_ask_for_more_time() -> None:
    host = machine()

    def job(bdf: Bdf) -> str:
        host.doing("waiting for RDY")
        host.extend(5)
        host.sleep(4 if bdf == A else 8)
        return "done"

    results = host.each([A, B], job, Deadline(host.monotonic, 2))
    assert results[A] == "done"
    assert str(results[B]).startswith(f"{B}: waiting for RDY: not done at 5.3 s")
    assert host.monotonic() == pytest.approx(5.3)


def test_policy_is_the_administrators_text() -> None:
    assert machine().policy() is None
    assert SimHost(policy="deny = []").policy() == "deny = []"


def test_records_end_with_the_boot() -> None:
    host = machine()
    host.records.store("owners", "b", b"2")
    host.records.store("owners", "a", b"1")
    assert host.records.names("owners") == ["a", "b"]
    assert host.records.load("owners", "a") == b"1"
    host.records.drop("owners", "a")
    host.records.drop("owners", "a")
    before = host.boot_id()
    host.reboot()
    assert host.records.names("owners") == []
    assert host.boot_id() != before
