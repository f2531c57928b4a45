# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook in the rig: installed by copy as the README says, run by hand, and what it leaves.

Other scripts beside it in qemu.d play the neighbour that refuses a start or breaks a drive.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from .rig import COMMAND_TIMEOUT, Result, Rig

FOLDER = "/etc/libvirt/hooks"
SCRIPT = f"{FOLDER}/qemu.d/50-nvme-reset"
CHECKOUT = "/run/rig/checkout"
COMMAND = f"{CHECKOUT}/bin/virt-nvme-reset"
STATE = "/run/virt-nvme-reset"
POLICY = "/etc/virt-nvme-reset.toml"
IDENTIFIER = "virt-nvme-reset"
WARNING = 4  # syslog(3); less is worse


def install(rig: Rig) -> None:
    """Copy the hook to where libvirt looks, and make libvirt look."""
    rig.run(
        f"mkdir -p {FOLDER}/qemu.d && cp -r {CHECKOUT}/libvirt_hooks {FOLDER}/"
        f" && find {FOLDER} -name __pycache__ -prune -exec rm -r {{}} +"
        f" && cp {CHECKOUT}/hooks/qemu.d/50-nvme-reset {SCRIPT} && chmod 755 {SCRIPT}"
    )
    _reload(rig)


def uninstall(rig: Rig) -> None:
    rig.run(f"rm -rf {FOLDER}/libvirt_hooks {SCRIPT} {STATE}")
    _reload(rig)


@contextmanager
def neighbour(rig: Rig, name: str, operation: str, shell: str) -> Iterator[None]:
    """Have another script in qemu.d that runs *shell* at one operation."""
    path = f"{FOLDER}/qemu.d/{name}"
    script = f'#!/bin/sh\n[ "$2" = {operation} ] || exit 0\n{shell}\n'
    rig.run(f"cat > {path} && chmod 755 {path}", stdin=script)
    try:
        yield
    finally:
        rig.run(["rm", "-f", path])


@contextmanager
def policy(rig: Rig, text: str, mode: str = "644") -> Iterator[None]:
    """Have the administrator's file say *text* as long as the block lasts."""
    rig.run(f"cat > {POLICY} && chmod {mode} {POLICY}", stdin=text)
    try:
        yield
    finally:
        rig.run(["rm", POLICY])


def command(rig: Rig, *words: str, timeout: float = COMMAND_TIMEOUT) -> Result:
    """Run the command as a person does, whatever its status."""
    return rig.run([COMMAND, *words], timeout=timeout, check=False)


def call(rig: Rig, domain: str, operation: str, sub_operation: str, xml: str) -> Result:
    """Run the hook as libvirtd does, but alone."""
    command = [SCRIPT, domain, operation, sub_operation, "-"]
    return rig.run(command, stdin=xml, env={"LC_ALL": "C"}, check=False)


def said(result: Result) -> list[str]:
    """What the hook has said on stderr, line by line; libvirt puts its own words before it."""
    words = result.stderr.rpartition("unexpected exit status 1: ")[2]
    return [line for line in words.splitlines() if line]


def left_behind(rig: Rig) -> list[str]:
    """What lies below /run/virt-nvme-reset, but for the locks, which are for ever."""
    command = f"cd {STATE} 2>/dev/null && find * -path locks -prune -o -type f -print"
    return sorted(rig.run(command, check=False).stdout.split())


def state_exists(rig: Rig) -> bool:
    return rig.run(["test", "-e", STATE], check=False).returncode == 0


def clear(rig: Rig) -> None:
    rig.run(f"rm -rf {STATE}")


def now(rig: Rig) -> int:
    """The rig's time in microseconds, to read the journal from."""
    return int(rig.run(["date", "+%s%6N"]).stdout)


def journal(rig: Rig, since: int) -> list[dict[str, str]]:
    """What the hook has logged, with all fields.

    Not by journalctl's cursors: together with a match they lose the first entry (systemd 252).
    """
    rig.run("journalctl --sync")
    command = ["journalctl", "-q", "-o", "json", "-t", IDENTIFIER]
    entries = [json.loads(line) for line in rig.run(command).stdout.splitlines()]
    return [entry for entry in entries if int(entry["__REALTIME_TIMESTAMP"]) >= since]


def complaints(rig: Rig, since: int) -> list[str]:
    """What the hook has logged as a warning or worse."""
    return [each["MESSAGE"] for each in journal(rig, since) if int(each["PRIORITY"]) <= WARNING]


def _reload(rig: Rig) -> None:
    # Not a reload: libvirtd answers before it has looked for hooks again (seen: a guest was started
    # without any, and its drive died).
    rig.run("systemctl restart libvirtd && virsh -q uri")
