# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which controllers may go to a guest, one line a case."""

import re
from dataclasses import replace

import pytest

from libvirt_hooks.admission import RULES, Facts, refusal, refusals
from libvirt_hooks.snapshot import Process
from libvirt_hooks.usage import Use

from .observations import BDF

GOOD = Facts(bdf=BDF, present=True, class_code=0x010802, driver="nvme", open=False)
OTHER = "11111111-2222-3333-4444-555555555555"
HOME = Use("mount", "nvme0n1p2:/home", "umount /home")
SWAP = Use("swap", "nvme0n1p3", "swapoff /dev/nvme0n1p3", 1)
ROOT = Use("root", "nvme0n1p1:/")
QEMU = Process(4211, "qemu-system-x86")


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param(GOOD, id="on the host's driver"),
        pytest.param(replace(GOOD, driver="vfio-pci"), id="idle on vfio-pci"),
        pytest.param(replace(GOOD, driver="mlx5_vfio_pci"), id="on another driver of vfio's"),
        pytest.param(replace(GOOD, driver=None), id="without a driver"),
        pytest.param(replace(GOOD, owner=OTHER), id="a stale record decides nothing: libvirt does"),
    ],
)
def test_admitted(facts: Facts) -> None:
    assert refusal(facts) is None


REFUSED = [
    pytest.param(
        replace(GOOD, present=False, class_code=0), "there is no such PCI function", id="absent"
    ),
    pytest.param(
        replace(GOOD, class_code=0x010601),
        "class 0x010601, expected 0x010802 (NVMe)",
        id="AHCI",
    ),
    pytest.param(
        replace(GOOD, driver="uio_pci_generic"),
        "driver is uio_pci_generic, expected nvme, vfio-pci or none",
        id="SPDK's",
    ),
    pytest.param(
        replace(GOOD, uses=(ROOT, HOME)),
        "in use by the host: root@nvme0n1p1:/, mount@nvme0n1p2:/home",
        id="the host runs from it",
    ),
    pytest.param(
        replace(GOOD, denied="144d:a802"),
        "denied by /etc/virt-nvme-reset.toml: 144d:a802",
        id="policy",
    ),
    pytest.param(
        replace(GOOD, mismatch="serial is 'B', expected 'A'"),
        "not the drive that this guest expects: serial is 'B', expected 'A'",
        id="another drive",
    ),
    pytest.param(
        replace(GOOD, stuck="writing '1' to reset: not done since 12:00:00"),
        "an earlier hook is still in the kernel with it: writing '1' to reset: not done since"
        " 12:00:00",
        id="stuck",
    ),
    pytest.param(
        replace(GOOD, unknown="opening /dev/nvme0n1: Input/output error"),
        "nobody can say whether the host uses it: opening /dev/nvme0n1: Input/output error",
        id="unknown",
    ),
    pytest.param(
        replace(GOOD, dead="does not answer"),
        "given up in this boot: does not answer",
        id="dead",
    ),
    pytest.param(
        replace(GOOD, driver="vfio-pci", open=True, owner=OTHER),
        f"in use by the guest with uuid {OTHER}",
        id="another guest runs on it",
    ),
    pytest.param(
        replace(GOOD, driver="vfio-pci", open=True),
        "open through vfio",
        id="open, by nobody we know",
    ),
    pytest.param(
        replace(GOOD, driver="vfio-pci", users=(QEMU,)),
        "open through vfio, by 4211 (qemu-system-x86)",
        id="its group is open",
    ),
    pytest.param(
        replace(GOOD, driver="vfio-pci", users=tuple(Process(pid, "dd") for pid in range(1, 7))),
        "open through vfio, by 1 (dd), by 2 (dd), by 3 (dd), by 4 (dd)",
        id="open by more than a line can tell",
    ),
    pytest.param(
        replace(GOOD, uses=(HOME, SWAP)),
        "in use by the host: mount@nvme0n1p2:/home, swap@nvme0n1p3",
        id="the host uses it",
    ),
    pytest.param(
        replace(GOOD, virtual_functions=1),
        "1 virtual functions are enabled, expected none",
        id="a VF",
    ),
]


@pytest.mark.parametrize(("facts", "said"), REFUSED)
def test_refused(facts: Facts, said: str) -> None:
    error = refusal(facts)
    assert error is not None
    assert error.message == f"0000:03:00.0: may not go to the guest: {said}"
    assert error.hint


def test_every_rule_has_a_case() -> None:
    cases = [facts for case in REFUSED if isinstance(facts := case.values[0], Facts)]
    found = {at for at, rule in enumerate(RULES) if any(rule.applies(each) for each in cases)}
    assert found == set(range(len(RULES)))


def test_the_root_is_kept_whatever_else_speaks_against_it() -> None:
    error = refusal(replace(GOOD, uses=(ROOT,), denied="144d:a802", dead="x"))
    assert error is not None
    assert "root@" in error.message
    assert error.hint == "it is the disk that this host runs from: give the guest another one"


def test_the_remedy_is_one_sentence() -> None:
    error = refusal(replace(GOOD, uses=(HOME, SWAP)))
    assert error is not None
    assert error.hint == "umount /home, then swapoff /dev/nvme0n1p3"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param(GOOD, [], id="none"),
        pytest.param(
            replace(GOOD, denied="144d:a802", uses=(HOME,), virtual_functions=2),
            [
                "denied by /etc/virt-nvme-reset.toml: 144d:a802",
                "in use by the host: mount@nvme0n1p2:/home",
                "2 virtual functions are enabled, expected none",
            ],
            id="all of them, in order",
        ),
        pytest.param(
            replace(GOOD, uses=(ROOT, HOME)),
            ["in use by the host: root@nvme0n1p1:/, mount@nvme0n1p2:/home"],
            id="what two rules say once",
        ),
        pytest.param(
            replace(GOOD, present=False, class_code=0),
            ["there is no such PCI function"],
            id="what is not there has no class",
        ),
    ],
)
def test_every_reason(facts: Facts, expected: list[str]) -> None:
    said = [each.message.partition("go to the guest: ")[2] for each in refusals(facts)]
    assert said == expected


@pytest.mark.parametrize(
    ("facts", "idle"),
    [
        pytest.param(GOOD, False, id="the host's driver cleans it"),
        pytest.param(replace(GOOD, driver=None), True, id="without a driver"),
        pytest.param(replace(GOOD, driver="vfio-pci"), True, id="on vfio-pci"),
        pytest.param(replace(GOOD, driver="vfio-pci", owner=OTHER), False, id="another guest's"),
    ],
)
def test_what_is_left_to_us_to_clean(facts: Facts, idle: bool) -> None:
    assert facts.is_idle is idle


def test_every_rule_has_a_word_of_its_own() -> None:
    kinds = [rule.kind for rule in RULES]
    assert len(set(kinds)) == len(kinds)
    assert all(re.fullmatch("[a-z]+(-[a-z]+)*", kind) for kind in kinds)


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        (replace(GOOD, present=False), "absent"),
        (replace(GOOD, class_code=0x010601), "not-nvme"),
        (replace(GOOD, denied="144d:a802"), "denied"),
        (replace(GOOD, uses=(ROOT,)), "host-root"),
        (replace(GOOD, uses=(HOME,)), "host"),
        (replace(GOOD, open=True, owner=OTHER), "guest"),
        (replace(GOOD, open=True), "open"),
        (replace(GOOD, dead="x"), "dead"),
    ],
)
def test_a_refusal_says_which_rule_it_was(facts: Facts, kind: str) -> None:
    refused = refusal(facts)
    assert refused is not None
    assert refused.reason == kind
