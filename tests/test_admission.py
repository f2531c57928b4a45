# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which controllers may go to a guest, one line a case."""

from dataclasses import replace

import pytest

from libvirt_hooks.admission import Facts, refusal

from .observations import BDF

GOOD = Facts(
    bdf=BDF,
    present=True,
    class_code=0x010802,
    driver="nvme",
    open=False,
    owner=None,
    virtual_functions=0,
    denied=False,
)
OTHER = "11111111-2222-3333-4444-555555555555"


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param(GOOD, id="on the host's driver"),
        pytest.param(replace(GOOD, driver="vfio-pci"), id="idle on vfio-pci"),
        pytest.param(replace(GOOD, driver=None), id="without a driver"),
        pytest.param(replace(GOOD, owner=OTHER), id="a stale record decides nothing: libvirt does"),
    ],
)
def test_admitted(facts: Facts) -> None:
    assert refusal(facts) is None


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        pytest.param(
            replace(GOOD, present=False, class_code=0), "there is no such PCI function", id="absent"
        ),
        pytest.param(
            replace(GOOD, class_code=0x010601),
            "class 0x010601, expected 0x010802 (NVMe)",
            id="AHCI",
        ),
        pytest.param(
            replace(GOOD, denied=True), "denied by /etc/virt-nvme-reset.toml", id="policy"
        ),
        pytest.param(
            replace(GOOD, driver="vfio-pci", open=True, owner=OTHER),
            f"in use by the guest with uuid {OTHER}",
            id="another guest runs on it",
        ),
        pytest.param(
            replace(GOOD, driver="vfio-pci", open=True),
            "somebody has it open through vfio",
            id="open, by nobody we know",
        ),
        pytest.param(
            replace(GOOD, virtual_functions=4),
            "4 virtual functions are enabled, expected none",
            id="VFs",
        ),
    ],
)
def test_refused(facts: Facts, said: str) -> None:
    error = refusal(facts)
    assert error is not None
    assert error.message == f"0000:03:00.0: may not go to the guest: {said}"
    assert error.hint
