# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks of policy, drives, guests and records. Pure."""

from .facts import Drive, Facts
from .findings import Verdict, failed, passed, warned

RULE = "61-virt-nvme-reset-guard.rules"
OFFERED = f"/usr/share/virt-nvme-reset/{RULE}"
RULES = "/etc/udev/rules.d/"
RECONNECT = "systemctl restart libvirtd (or virtqemud): guests run on, and the hook looks at each"


def policy(facts: Facts) -> Verdict:
    """One that is broken refuses guests; one that is not trusted is not obeyed."""
    file = facts.machine.policy
    if file.untrusted:
        return failed(
            f"{file.path} is ignored: {file.untrusted}",
            f"chown root:root {file.path} && chmod 644 {file.path}",
        )
    if file.error:
        return failed(file.error, file.hint or f"correct or remove {file.path}")
    return passed(file.path if file.there else f"no {file.path}: defaults hold")


def guards(facts: Facts) -> Verdict:
    """A guest that reboots, or ends, would kill these."""
    owned = [each for each in facts.drives if each.guest is not None]
    bare = [each for each in owned if each.lethal and not each.kernel_knows and not each.guarded]
    if bare:
        return failed(f"none on {_list(bare)}, which a guest has", RECONNECT)
    return passed(f"{len(owned)} of {len(facts.drives)} drives are with guests")


def keepers(facts: Facts) -> Verdict | None:
    """Without one the guard decides alone which reset comes at QEMU's end."""
    wanted = [each for each in facts.drives if each.guest is not None and each.wants_keeper]
    missing = [each for each in wanted if not each.kept]
    if missing:
        return warned(
            f"none for {_list(missing)}",
            f"journalctl -t virt-nvme-reset says why; then {RECONNECT}",
        )
    return passed(_list(wanted)) if wanted else None


def host_uses(facts: Facts) -> Verdict | None:
    """Drives in guests' definitions that the host uses: those guests would be refused."""
    if facts.host_uses is None:
        return None
    if facts.host_uses:
        seen = "; ".join(f"{each.guest}: {each.bdf}: {each.uses}" for each in facts.host_uses)
        running = [each for each in facts.host_uses if each.running]
        verdict = failed if running else warned
        first = (running or facts.host_uses)[0]
        return verdict(seen, f"virt-nvme-reset show {first.bdf}; the host has to let go of it")
    return passed("none")


def leftovers(facts: Facts) -> Verdict:
    """Records that belong to nobody any more."""
    if facts.leftovers:
        seen = "; ".join(each.what for each in facts.leftovers)
        return warned(seen, facts.leftovers[0].advice)
    return passed("none")


def hot_plug(facts: Facts) -> Verdict | None:
    """No hook runs for it; a udev rule sets the guard from boot on."""
    lethal = [each for each in facts.drives if each.lethal and not each.kernel_knows]
    if not lethal:
        return None
    active = facts.machine.udev_rule
    if active:
        return passed(active)
    offer = f"install -m 644 {OFFERED} {RULES}"
    if slotted := [each for each in lethal if each.hot_pluggable]:
        return warned(f"{_list(slotted)}: in a hot-plug slot, no udev rule guards it", offer)
    return passed(
        f"{_list(lethal)}: guarded from a guest's start on",
        f"if you attach it to running guests: {offer}",
    )


def _list(drives: list[Drive]) -> str:
    return ", ".join(f"{each.bdf} ({each.ids})" for each in drives)
