# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``virt-nvme-reset show`` prints, word by word, of controllers in every state."""

import pytest

from libvirt_hooks import journal, marks, policy
from libvirt_hooks.bdf import Bdf
from libvirt_hooks.errors import HookError, Refused, Stuck
from libvirt_hooks.journal import Undo
from libvirt_hooks.show import show
from libvirt_hooks.simulator.faults import Fault
from libvirt_hooks.simulator.host import SimHost
from libvirt_hooks.simulator.life import Life
from libvirt_hooks.simulator.models import ORDINARY, P3700, SM951, SM961

from .lives import BDF, OTHER, call, called

SECOND_FUNCTION = "0000:01:00.1"


def shown(host: SimHost, bdf: Bdf = BDF) -> str:
    """What is printed; looking has changed nothing, and broken no rule."""
    events, effects, records = len(host.trace), list(host.effects), host.records.all
    text = show(host, policy.load(host), bdf)
    assert (len(host.trace), host.effects, host.records.all) == (events, effects, records)
    assert host.violations == []
    assert max(map(len, text.splitlines())) <= 80
    return text + "\n"


def row(text: str, label: str) -> str:
    """One row, its lines joined."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines()[1:]:
        name = line[2:16].strip() or name
        found[name] = f"{found.get(name, '')} {line[16:]}".strip()
    return found[label]


def test_of_the_host_s() -> None:
    host = SimHost()
    host.add(BDF, SM951)
    assert (
        shown(host)
        == """\
0000:01:00.0  144d:a802
  drive         Samsung SM951, serial SIM00000
  driver        nvme, live
  power         D0
  reset_method  flr bus
  neighbours    none on its bus
  port          0000:00:01.0
  slot          none whose power can be switched
  IOMMU group   1, alone
  capabilities  FLR, PM NoSoftRst=1, MSI-X size=16
  registers     not read: driver nvme owns them
  quirk         sm951: dead after an FLR while enabled, until the host reboots
  source        linux-pci, 29 April to 1 July 2021, 'pci: add NVMe FLR quirk to
                the SM951 SSD'
  behaviour     flr_lethal_while_enabled
  owner         no guest
  marks         none
  policy        enforce, guard auto, close holder
  open          bus, disabled by the hook before: safe
  guest reboot  bus, as the guest leaves it: safe
  close         flr, disabled by the keeper before: safe
"""
    )


def test_of_a_guest_s() -> None:
    host = SimHost(policy='[drive."144d:a802"]\nclose = "guard"\n')
    host.add(BDF, SM951, beside=[SECOND_FUNCTION], slot="3")
    assert Life(host, [(BDF, True)], called).start()
    assert (
        shown(host)
        == """\
0000:01:00.0  144d:a802
  driver        vfio-pci, open, by 4211 (qemu-system-x86)
  power         D0
  reset_method  none, guarded; it was flr bus
  neighbours    0000:01:00.1
  port          0000:00:01.0
  slot          3
  IOMMU group   1, alone
  capabilities  FLR, PM NoSoftRst=1, MSI-X size=16
  registers     not read: vfio has it open
  quirk         sm951: dead after an FLR while enabled, until the host reboots
  source        linux-pci, 29 April to 1 July 2021, 'pci: add NVMe FLR quirk to
                the SM951 SSD'
  behaviour     flr_lethal_while_enabled
  owner         the guest with uuid 6f2c1a54-7f0e-4c55-9d0e-0c1b7a5f3e11
  marks         none
  policy        enforce, guard auto, close guard
  open          nothing, disabled by the hook before: safe (reset_method has
                none for it)
  guest reboot  nothing, as the guest leaves it: safe (reset_method has none for
                it, and its bus is shared)
  close         nothing, as the guest leaves it: safe (reset_method has none for
                it, and its bus is shared: reset only if vfio has all of it)
"""
    )


def test_of_one_that_is_awake() -> None:
    host = SimHost(policy='mode = "observe"\n[drive."01:00.0"]\nflr_lethal_while_enabled = true\n')
    host.add(BDF, ORDINARY, driver=None)
    assert (
        shown(host)
        == """\
0000:01:00.0  1b36:0010
  driver        none
  power         D0
  reset_method  flr bus
  neighbours    none on its bus
  port          0000:00:01.0
  slot          none whose power can be switched
  IOMMU group   1, alone
  capabilities  FLR, PM NoSoftRst=1, MSI-X size=16
  state         shut down
  CAP           0x004000200f013fff MQES=16383 TO=15 DSTRD=0 NSSRS=0 CSS=1
                MPSMIN=0 MPSMAX=4
  VS            0x00010400 MJR=1 MNR=4 TER=0
  CC            0x00464061 EN=1 CSS=6 MPS=0 AMS=0 SHN=1(normal) IOSQES=6
                IOCQES=4 CRIME=0
  CSTS          0x00000009 RDY=1 CFS=0 SHST=2(complete) NSSRO=0 PP=0
  AQA           0x001f001f ASQS=31 ACQS=31
  ASQ           0x0000000012345000
  ACQ           0x0000000012346000
  quirk         0000:01:00.0
  source        /etc/virt-nvme-reset.toml
  behaviour     flr_lethal_while_enabled
  owner         no guest
  marks         none
  policy        observe, guard auto, close holder
  open          flr, as the host's driver leaves it: not safe (would kill it)
  guest reboot  flr, as the guest leaves it: not safe (would kill it)
  close         flr, as the guest leaves it: not safe (would kill it)
"""
    )


def test_of_one_that_is_gone() -> None:
    host = SimHost(policy='deny = ["1b36:0010"]\n')
    host.add("0000:00:04.0", ORDINARY, "vfio-pci", Fault.CONFIG_FROZEN)
    bdf = Bdf.parse("0000:00:04.0")
    marks.mark_dead(host, bdf, HookError(f"{bdf}: not live after slot power"))
    assert (
        shown(host, bdf)
        == """\
0000:00:04.0  1b36:0010
  driver        vfio-pci
  power         D3cold
  reset_method  flr
  neighbours    none on its bus
  port          none: it is on a root bus
  slot          none whose power can be switched
  IOMMU group   0, alone
  state         gone: configuration space reads 0xffff
  quirk         none known
  owner         no guest
  marks         dead: not live after slot power
  policy        enforce, guard auto, close left to vfio, denied by 1b36:0010
  forecast      none: nobody can tell
"""
    )


def test_of_one_that_a_hook_has_taken_away() -> None:
    host = SimHost()
    journal.claim(host, OTHER, [BDF])
    Undo(host, BDF).keep("port", "0000:00:01.0")
    assert (
        shown(host)
        == """\
0000:01:00.0
  driver        none
  power         unknown
  reset_method  none
  neighbours    none on its bus
  port          0000:00:01.0
  slot          none whose power can be switched
  state         gone: there is no such PCI function any more
  quirk         none known
  owner         the guest with uuid 99999999-9999-9999-9999-999999999999
  marks         none
  policy        enforce, guard auto, close left to vfio
  forecast      none: nobody can tell
"""
    )


def test_of_one_that_is_not_to_be_looked_at() -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    assert call(host, "start", BDF) == 0
    host.occupy(BDF, 60.0)
    text = shown(host)
    assert row(text, "hardware") == "not looked at: lock: still taken after 5 s"
    assert row(text, "forecast") == "none: nobody can tell"
    assert "power" not in text


def test_of_one_that_is_stuck() -> None:
    host = SimHost()
    host.add(BDF, SM961, driver="vfio-pci")
    host._workers._runs_until[7] = 600.0
    marks.mark_stuck(host, BDF, Stuck(f"{BDF}: writing '1' to reset", pid=7, started=1))
    text = shown(host)
    assert row(text, "marks") == "stuck: writing '1' to reset"
    assert row(text, "hardware") == (
        "not looked at: left alone: an earlier hook is still in the kernel with it: writing '1' to"
        " reset (hint: wait for it; if it never ends, power the host off and on)"
    )


@pytest.mark.parametrize(
    ("awake", "state"),
    [
        pytest.param(False, "not read: asleep in D3hot", id="asleep: it is not woken"),
        pytest.param(True, "not read: mapping resource0: Operation not permitted", id="lockdown"),
    ],
)
def test_why_registers_are_not_read(awake: bool, state: str) -> None:
    host = SimHost(lockdown=awake)
    host.add(BDF, P3700, driver="vfio-pci")
    if awake:
        host.write_attr(BDF, "power/control", "on")
    text = shown(host)
    assert row(text, "registers") == state
    assert row(text, "behaviour") == "settle_after_reset 0.25 s"
    assert row(text, "close") == "device_specific, as the guest leaves it: safe"


@pytest.mark.parametrize(
    ("group", "said"),
    [
        pytest.param(None, "none: no IOMMU, or it is off", id="none"),
        pytest.param(("7", ()), "7, alone", id="alone"),
        pytest.param(
            ("7", (BDF._replace(function=1), BDF._replace(function=2))),
            "7, with 0000:01:00.1, 0000:01:00.2",
            id="with others",
        ),
    ],
)
def test_iommu_group(
    monkeypatch: pytest.MonkeyPatch, group: tuple[str, tuple[Bdf, ...]] | None, said: str
) -> None:
    host = SimHost()
    host.add(BDF, ORDINARY, driver=None)
    monkeypatch.setattr(host, "iommu_group", lambda bdf: group)
    assert row(shown(host), "IOMMU group") == said


def test_a_function_without_a_capability_that_matters() -> None:
    host = SimHost()
    host.add(BDF, ORDINARY, driver=None)
    host.function(BDF).config[0x06] = 0
    assert row(shown(host), "capabilities") == "none that matter"


def test_pristine_is_said() -> None:
    host = SimHost()
    host.add(BDF, ORDINARY, driver=None, pristine=True)
    assert row(shown(host), "state") == "disabled, pristine"


def test_what_the_drive_says_of_itself_is_no_control_sequence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = SimHost()
    host.add(BDF, ORDINARY)
    found = host.identity(BDF)
    assert found is not None
    monkeypatch.setattr(host, "identity", lambda bdf: type(found)("\x1b[2J" + "x" * 90, "a\nb", ()))
    text = shown(host)
    assert row(text, "drive").startswith(r"a\x0ab, serial \x1b[2Jxxx")


def test_a_record_that_is_none_of_ours_hides_nothing_else() -> None:
    host = SimHost()
    host.add(BDF, SM951, driver="vfio-pci")
    host.records.store(journal.JOURNAL, str(BDF), b"{")
    text = shown(host)
    assert row(text, "hardware").startswith("not looked at: journal/0000:01:00.0: not a record of")
    assert "(hint: remove /run/virt-nvme-reset/journal/0000:01:00.0" in row(text, "hardware")
    assert row(text, "policy") == "enforce, guard auto, close holder"


def test_a_worker_that_dies_of_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    host = SimHost()
    host.add(BDF, ORDINARY, driver=None)

    def dies(_: Bdf) -> None:
        host._workers._dead.add(host._workers._worker)
        host._workers.enter()

    monkeypatch.setattr(host, "registers", dies)
    with pytest.raises(HookError, match="worker killed by signal"):
        show(host, policy.load(host), BDF)


@pytest.mark.parametrize(
    ("bdf", "said"),
    [
        pytest.param(
            "0000:02:00.0", "may not be shown: there is no such PCI function", id="nobody"
        ),
        pytest.param(
            "0000:00:01.0",
            "may not be shown: class 0x060400, expected 0x010802 (NVMe)",
            id="a bridge",
        ),
    ],
)
def test_of_what_is_no_controller(bdf: str, said: str) -> None:
    host = SimHost()
    host.add(BDF, ORDINARY)
    with pytest.raises(Refused) as caught:
        show(host, policy.load(host), Bdf.parse(bdf))
    assert caught.value.message == f"{bdf}: {said}"
    assert caught.value.hint == "look for its address with: lspci -D -d ::0108"


@pytest.mark.parametrize("memory", ["owner", "mark", "journal"])
def test_whatever_is_remembered_of_one_that_is_away_shows_it(memory: str) -> None:
    host = SimHost()
    match memory:
        case "owner":
            journal.claim(host, OTHER, [BDF])
        case "mark":
            marks.mark_dead(host, BDF, HookError("x"))
        case "journal":
            Undo(host, BDF).keep("reset_method", "flr bus")
    assert row(shown(host), "state") == "gone: there is no such PCI function any more"
