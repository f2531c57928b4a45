# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which versions of what there are, for a bug report. Nothing that names the machine."""

import os
import platform
from collections.abc import Iterator

from .. import __version__
from . import tools

NOT_FOUND = "not found"

PROGRAMS = {
    "libvirt": ("/usr/sbin/libvirtd", "/usr/sbin/virtqemud"),
    "QEMU": (
        f"/usr/bin/qemu-system-{platform.machine()}",
        "/usr/bin/qemu-kvm",
        "/usr/libexec/qemu-kvm",
    ),
}
"""Where each is; the first that is there is asked."""


def versions() -> Iterator[tuple[str, str]]:
    """Return what there is, and its version."""
    kernel = os.uname()
    yield "virt-nvme-reset", __version__
    yield "kernel", f"{kernel.release} {kernel.version} {kernel.machine}"
    for name, paths in PROGRAMS.items():
        yield name, _asked(paths)
    yield "python", platform.python_version()
    yield "lxml", _lxml()


def _asked(paths: tuple[str, ...]) -> str:
    program = tools.find(paths)
    said = tools.run([program, "--version"]) if program else None
    lines = said.out.splitlines() if said else []
    return lines[0] if lines else NOT_FOUND


def _lxml() -> str:
    try:
        from lxml.etree import LXML_VERSION
    except ImportError:
        return NOT_FOUND
    return ".".join(map(str, LXML_VERSION[:3]))  # four would be masked as an address
