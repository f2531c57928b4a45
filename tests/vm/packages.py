# SPDX-License-Identifier: LGPL-2.1-or-later
"""The .deb: built on the host as by `make deb`, and put on and off inside the rig.

``footprint`` tells what anything has left behind in the rig.
"""

from __future__ import annotations

import subprocess

from .outer import CHECKOUT
from .rig import Rig

NAME = "virt-nvme-reset"
COMMAND = f"/usr/bin/{NAME}"
LIBRARY = f"/usr/lib/{NAME}"
# dpkg compiles every module, under TCG.
TIMEOUT = 200.0
# The image has dpkg leave these out of every package, to be small.
ALL_OF_IT = ("--path-include=/usr/share/man/*", "--path-include=/usr/share/doc/*")

PLACES = ("/etc", "/usr", "/var", "/run", "/root", "/tmp")
# Where a machine that runs, libvirt and dpkg write meanwhile.
BUSY = (
    *(f"/run/{name}" for name in ("rig", "systemd", "udev", "libvirt", "log", "lock", "user")),
    *("/etc/libvirt/qemu", "/var/lib/libvirt", "/var/log", "/var/cache/libvirt"),
    # libvirt's own of guests that were: a profile each, and the pid of its log daemon.
    *("/etc/apparmor.d/libvirt", "/run/virtlogd.pid"),
    *("/var/lib/dpkg", "/var/lib/systemd", "/var/lib/apt", "/var/cache/apt", "/tmp/systemd-*"),
)


def build() -> str:
    """Build it, and return where the rig sees it.

    :raises RuntimeError: it cannot be built, or lintian finds an error.
    """
    made = subprocess.run(
        ["packaging/build", "deb"],
        cwd=CHECKOUT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if made.returncode != 0:
        raise RuntimeError(f"packaging/build deb failed:\n{made.stdout}")
    return f"/run/rig/checkout/{made.stdout.splitlines()[-1]}"


def install(rig: Rig, package: str) -> None:
    rig.run(["dpkg", "-i", *ALL_OF_IT, package], timeout=TIMEOUT)


def remove(rig: Rig) -> None:
    rig.run(["dpkg", "-r", NAME], timeout=TIMEOUT)


def purge(rig: Rig) -> None:
    rig.run(["dpkg", "-P", NAME], timeout=TIMEOUT)


def footprint(rig: Rig) -> frozenset[str]:
    """Every path of the rig, but for BUSY ones."""
    prune = " -o ".join(f"-path '{path}'" for path in BUSY)
    found = rig.run(f"find {' '.join(PLACES)} \\( {prune} \\) -prune -o -print")
    return frozenset(found.stdout.splitlines())
