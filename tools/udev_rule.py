# SPDX-License-Identifier: LGPL-2.1-or-later
"""packaging/udev's rule, of the table of drives: the guard of the lethal ones from boot on.

Run: python -m tools.udev_rule. Source: udev(7); kernel drivers/pci/pci.c, reset_method_store (v6.1)
and drivers/pci/quirks.c, pci_dev_reset_methods (v6.1).
"""

from pathlib import Path

from libvirt_hooks.quirks import QUIRKS

RULE = Path(__file__).parent.parent / "packaging" / "udev" / "61-virt-nvme-reset-guard.rules"
KERNEL_KNOWS = frozenset({(0x144D, 0xA804)})
"""Lethal drives with a reset of their own in pci_dev_reset_methods: that one must stay."""

HEAD = """\
# SPDX-License-Identifier: LGPL-2.1-or-later
# Guard drives that a function-level reset kills, from boot on: also when they are hot-plugged into
# a running guest, which libvirt tells no hook. Not active where it lies; to have it:
#   install -m 644 /usr/share/virt-nvme-reset/61-virt-nvme-reset-guard.rules /etc/udev/rules.d/
#   udevadm control --reload && udevadm trigger --action=add --subsystem-match=pci
# The kernel refuses the write where the drive is not alone on its bus; then only the hook guards.
# Made by tools/udev_rule.py of libvirt_hooks/quirks.py.

"""


def draw() -> str:
    """Return the text of the rule."""
    lethal = sorted(ids for ids, quirk in QUIRKS.items() if quirk.flr_lethal_while_enabled)
    return HEAD + "".join(_line(*ids) for ids in lethal if ids not in KERNEL_KNOWS)


def _line(vendor: int, device: int) -> str:
    terms = (
        'ACTION=="add"',
        'SUBSYSTEM=="pci"',
        'ATTR{class}=="0x010802"',
        f'ATTR{{vendor}}=="{vendor:#06x}"',
        f'ATTR{{device}}=="{device:#06x}"',
        'ATTR{reset_method}="bus"',
    )
    return ", ".join(terms) + "\n"


if __name__ == "__main__":
    RULE.write_text(draw())
