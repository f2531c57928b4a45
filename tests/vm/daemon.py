# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirtd in the rig, as systemd runs it: restarted, stopped and started under running guests."""

from __future__ import annotations

from .rig import Rig

# With its sockets: any of them would start it again.
UNITS = "libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket"
TIMEOUT = 120.0
ANSWERS = "virsh -q uri >/dev/null"


def pid(rig: Rig) -> int:
    return int(rig.run(["pidof", "libvirtd"]).stdout)


def restart(rig: Rig) -> None:
    rig.run(f"systemctl restart libvirtd.service && {ANSWERS}", timeout=TIMEOUT)


def stop(rig: Rig) -> None:
    rig.run(f"systemctl stop {UNITS}", timeout=TIMEOUT)


def start(rig: Rig) -> None:
    rig.run(f"systemctl start {UNITS} && {ANSWERS}", timeout=TIMEOUT)
