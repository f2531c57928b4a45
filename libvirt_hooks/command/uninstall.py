# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset uninstall`: put back what hooks have changed, then leave nothing.

What the administrator has written stays: the policy, and the udev rule where it was made active.
"""

import os
import shutil
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress

from .. import journal, keepers, recovery
from ..doctor.drives import RULE, RULES
from ..errors import DeviceBusy, HookError
from ..host import Host
from ..linux import manifest
from ..linux.installed import HOOK, LIBRARY
from ..linux.manifest import Manifest
from ..linux.records import RUN
from ..policy import PATH
from . import laying
from .install import say, summary, told
from .output import complain
from .policies import lenient


def run(arguments: Namespace, host: Host) -> int:
    """Do it, or with --dry-run only say it.

    :raises HookError: a guest has a drive, or something could not be put back.
    """
    with told():
        stage = os.path.abspath(arguments.root) if arguments.root else ""
        return uninstall(host, arguments.dry_run, stage)


def uninstall(host: Host, dry_run: bool, stage: str = "", root: str = "") -> int:
    """Put back, then remove; 1 if something was kept as somebody has changed it.

    :param stage: another root directory, whose guests are nobody's; empty: this machine.
    :raises HookError: see ``run``.
    :raises OSError: a file could not be removed.
    """
    root = stage or root
    known = manifest.load(root)
    if known is None:
        raise HookError(
            f"uninstall: not laid down by install: no {manifest.PATH}",
            "remove the package with apt or dnf, and what was copied with rm",
        )
    if not stage:
        _refuse_with_guests(host)
    if dry_run:
        say(summary((path, "would be removed") for path in known.files))
        return 0
    if not stage:
        _restore(host)
    kept = list(_remove(known, [HOOK], root))
    if not stage:
        _refuse_with_guests(host)  # one may have been started meanwhile; none can be any more
    kept += _remove(known, [path for path in reversed(known.files) if path != HOOK], root)
    _clean(known, root, bool(stage))
    stays = [*kept, *_left(root)]
    say([*stays, "all else is removed" if stays else "all is removed"])
    return int(bool(kept))


def _refuse_with_guests(host: Host) -> None:
    for owner in journal.owners(host):
        if journal.is_running(host, owner):
            which = ", ".join(map(str, owner.bdfs))
            raise DeviceBusy(
                f"uninstall: refused: the guest with uuid {owner.uuid} has {which}",
                "shut that guest down first; one that is gone is believed to be after"
                f" {journal.ON_ITS_WAY:.0f} s",
            )
    for keeper in keepers.find_all(host):
        raise DeviceBusy(
            f"uninstall: refused: process {keeper.process[0]} keeps drives of guest {keeper.uuid}",
            "shut that guest down first",
        )


def _restore(host: Host) -> None:
    """Finish what hooks have left: the guards first of all, for nobody knows of them afterwards."""
    for said in recovery.recover_all(host, lenient(host)):
        if isinstance(said, HookError):
            complain(said)
        else:
            print(said)
    if left := journal.journaled(host):
        which = ", ".join(map(str, left))
        raise HookError(
            f"uninstall: refused: something is to be put back on {which}",
            "virt-nvme-reset recover says why it cannot be",
        )


def _remove(known: Manifest, paths: list[str], root: str) -> Iterator[str]:
    """Remove these; yield what was kept."""
    for path in paths:
        if kept := laying.take(path, known.files.get(path, ()), root):
            yield kept


def _clean(known: Manifest, root: str, staged: bool) -> None:
    """Remove what no list has: compiled modules, records, and then empty directories of ours."""
    for folder, folders, _ in os.walk(root + LIBRARY):
        if "__pycache__" in folders:
            folders.remove("__pycache__")
            shutil.rmtree(f"{folder}/__pycache__")
    for path in (manifest.PATH, f"{manifest.PATH}{laying.NEW}"):
        with suppress(FileNotFoundError):
            os.unlink(root + path)
    if not staged:
        shutil.rmtree(root + RUN, ignore_errors=True)
    inside = {path for path, _, _ in os.walk(root + LIBRARY)}
    ours = {root + path for path in known.directories} | inside
    for path in sorted(ours, key=len, reverse=True):
        with suppress(OSError):  # somebody else has something in it
            os.rmdir(path)


def _left(root: str) -> Iterator[str]:
    for path in (PATH, f"{RULES}{RULE}"):
        if os.path.lexists(root + path):
            yield f"{path}: yours, left as it is"
