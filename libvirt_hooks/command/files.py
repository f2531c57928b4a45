# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an installation is made of: each file of the tree, where it goes, and its mode.

`install` lays it down, and so do the packages: `python3 -m libvirt_hooks.command.files` prints it,
a line a file: mode, source, destination; for a link ``link``, what it leads to, and where it is.

The layout is one for Debian and Fedora. The hook is a file in qemu.d, for AppArmor's profile of
libvirtd judges a link by its target, and lets it execute /etc/libvirt/hooks and the system's bin
directories only; SELinux knows the directory, too (virt_hook_t). Its package is where the hook
looks for it, on a path without a version of Python, readable to every confined daemon (lib_t).
"""

import glob
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import HookError
from ..linux.installed import HOOK, LIBRARY
from .parser import PROGRAM

DATA = f"/usr/share/{PROGRAM}"
DOCS = f"/usr/share/doc/{PROGRAM}"


@dataclass(frozen=True)
class File:
    """One file, or a link."""

    source: str
    """Below the tree; of a link: what it leads to."""
    destination: str
    mode: int = 0o644
    link: bool = False


@dataclass(frozen=True)
class Prefix:
    """Where goes what people call, and read."""

    command: str
    share: str


PACKAGED = Prefix("/usr/bin", "/usr/share")
LOCAL = Prefix("/usr/local/sbin", "/usr/local/share")
"""What is below /usr/local is the administrator's; libvirt's daemons run nothing of it."""

Where = Callable[[Prefix, str], str]


def _man(prefix: Prefix, name: str) -> str:
    return f"{prefix.share}/man/man{name.removesuffix('.gz')[-1]}/{name}"


def _bash(prefix: Prefix, name: str) -> str:
    return f"{prefix.share}/bash-completion/completions/{PROGRAM}"


def _zsh(prefix: Prefix, name: str) -> str:
    return f"{prefix.share}/zsh/site-functions/_{PROGRAM}"


def _fish(prefix: Prefix, name: str) -> str:
    return f"{prefix.share}/fish/vendor_completions.d/{PROGRAM}.fish"


RULES: tuple[tuple[str, Where, int], ...] = (
    ("libvirt_hooks/**/*.py", lambda _, name: f"{LIBRARY}/{name}", 0o644),
    ("bin/virt-nvme-reset", lambda _, name: f"{LIBRARY}/{name}", 0o755),
    ("docs/man/*.[0-9]", lambda prefix, name: _man(prefix, os.path.basename(name)), 0o644),
    ("docs/man/*.[0-9].gz", lambda prefix, name: _man(prefix, os.path.basename(name)), 0o644),
    ("completions/*.bash", _bash, 0o644),
    ("completions/_*", _zsh, 0o644),
    ("completions/*.zsh", _zsh, 0o644),
    ("completions/*.fish", _fish, 0o644),
    ("docs/*.toml.example", lambda _, name: f"{DOCS}/{os.path.basename(name)}", 0o644),
    ("packaging/udev/*.rules", lambda _, name: f"{DATA}/{os.path.basename(name)}", 0o644),
    # Last: a hook without its package refuses guests.
    ("hooks/qemu.d/50-nvme-reset", lambda *_: HOOK, 0o755),
)
"""What in the tree goes where; what is not in the tree is not installed."""


def tree() -> str:
    """Return the directory that this package lies in, a checkout or an installation."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def is_checkout(where: str) -> bool:
    """Is there all that can be installed?"""
    return os.path.exists(f"{where}/hooks/qemu.d/50-nvme-reset")


def listed(where: str, prefix: Prefix) -> tuple[File, ...]:
    """Return every file of the tree at *where*, in the order in which they are to be laid down.

    :raises HookError: that is no checkout.
    """
    if not is_checkout(where):
        raise HookError(
            f"{where}: not a checkout: no hooks/qemu.d/50-nvme-reset",
            "run bin/virt-nvme-reset of a checkout, or of a release's archive",
        )
    return tuple(_listed(where, prefix))


def _listed(where: str, prefix: Prefix) -> Iterator[File]:
    for pattern, place, mode in RULES:
        for name in sorted(glob.glob(pattern, root_dir=where, recursive=True)):
            yield File(name, place(prefix, name), mode)
        if pattern.startswith("bin/"):
            yield File(f"{LIBRARY}/{pattern}", f"{prefix.command}/{PROGRAM}", 0o777, link=True)


def main() -> int:
    """Print the list for packages."""
    for each in listed(tree(), PACKAGED):
        kind = "link" if each.link else f"{each.mode:04o}"
        print(kind, each.source, each.destination)
    return 0


if __name__ == "__main__":
    sys.exit(main())
