# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset install`: lay down package, hook and command, or say what is amiss with them.

The hook counts from the next call of libvirt's on. A daemon that has never found a hook has to be
told (see ``doctor.reading``); one that has is left alone.
"""

import itertools
import os
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from ..doctor.facts import Daemon
from ..doctor.reading import Reading, reading
from ..errors import HookError
from ..host import Host
from ..linux import daemons, installed, manifest
from ..linux.daemons import Runner
from ..linux.installed import LIBRARY, PACKAGE, PYTHON
from ..linux.manifest import Manifest
from . import files, laying
from .files import LOCAL, PACKAGED
from .laying import Item, State

MANY = 3
"""More files of the package than these are told by their number."""

DONE = {
    State.MISSING: "installed",
    State.OUTDATED: "updated",
    State.MODE: "mode put right",
    State.OBSOLETE: "removed",
}
TO_DO = {
    State.MISSING: "would be installed",
    State.OUTDATED: "would be updated",
    State.MODE: "its mode would be put right",
    State.CHANGED: f"{State.CHANGED}: would be kept",
    State.OBSOLETE: "would be removed",
}


def run(arguments: Namespace, host: Host) -> int:
    """Do it, or with --check or --dry-run only say it.

    :raises HookError: it cannot be done.
    """
    with told():
        installation = Installation(
            files.tree(), os.path.abspath(arguments.root) if arguments.root else ""
        )
        if arguments.check:
            return installation.check()
        return installation.install(arguments.dry_run)


@contextmanager
def told() -> Iterator[None]:
    """Make what the kernel refuses an error of ours."""
    try:
        yield
    except OSError as error:
        who = error.filename2 or error.filename or "install"
        raise HookError(f"{who}: {error.strerror}") from error


def say(lines: Iterable[str]) -> None:
    """Print a line each."""
    for line in lines:
        print(line)


def summary(said: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line a file, but one for many of the package of which the same is to be said."""
    found = list(said)
    package = f"{LIBRARY}/{PACKAGE}"
    many = Counter(what for path, what in found if path.startswith(package))
    lines = dict.fromkeys(
        f"{package}: {many[what]} files {what}"
        if path.startswith(package) and many[what] > MANY
        else f"{path}: {what}"
        for path, what in found
    )
    return list(lines)


class Installation:
    """One installation, on this machine or in a packager's directory.

    :param tree: the checkout.
    :param stage: the packager's directory; empty: this machine.
    :param root: where this machine's / is; for tests.
    """

    def __init__(
        self, tree: str, stage: str = "", root: str = "", run: Runner = daemons.ask
    ) -> None:
        self._tree = tree
        self._staged = bool(stage)
        self._root = stage or root
        self._run = run
        known = None if self._staged else manifest.load(self._root)
        self._known = known or Manifest()
        self._is_ours = known is not None

    def check(self) -> int:
        """Say what is missing, changed or outdated; 1 if anything is.

        :raises HookError: nothing is known of what should be there.
        """
        if files.is_checkout(self._tree):
            items = [each for each in self._items() if each.state is not State.SAME]
            amiss = summary((each.path, each.state) for each in items)
        elif self._is_ours:
            amiss = summary(self._differences())
        else:
            self._refuse_what_is_a_packages("check a package with dpkg -V or rpm -V")
            files.listed(self._tree, LOCAL)  # says that this is no checkout
        amiss += self._shadows()
        say(amiss or ["all is installed"])
        return int(bool(amiss))

    def install(self, dry_run: bool) -> int:
        """Lay it down; 1 if something was kept as somebody has changed it.

        :raises HookError: a package has done so already, or there is no checkout.
        :raises OSError: it cannot be written.
        """
        self._refuse_what_is_a_packages("remove the package first, with apt or dnf")
        items = self._items()
        todo = [each for each in items if each.state is not State.SAME]
        if dry_run:
            say(summary((each.path, TO_DO[each.state]) for each in todo) or ["all is installed"])
            return 0
        readers = self._readers()
        self._note(items)
        say(summary([(item.path, self._apply(item)) for item in todo]))
        if not self._staged:
            self._settle(items, readers)
        say(self._shadows() + ([] if todo else ["all is installed"]))
        return int(any(each.state is State.CHANGED for each in todo))

    def _items(self) -> list[Item]:
        listed = files.listed(self._tree, PACKAGED if self._staged else LOCAL)
        return list(laying.compare(self._tree, listed, self._root, self._known.files))

    def _differences(self) -> Iterator[tuple[str, State]]:
        """As ``check`` of an installation, whose checkout is gone."""
        for path, digests in self._known.files.items():
            found = manifest.digest(self._root + path)
            if found not in digests:
                yield path, State.CHANGED if found else State.MISSING

    def _shadows(self) -> list[str]:
        """Other copies of the package that the hook would rather use."""
        ours = f"{LIBRARY}/{PACKAGE}"
        found = itertools.takewhile(lambda path: path != ours, installed.packages(self._root))
        where = [path for path in found if path.startswith("/etc/")]
        return [f"{path}: the hook uses this copy, not {ours}: remove it" for path in where]

    def _refuse_what_is_a_packages(self, hint: str) -> None:
        there = os.path.exists(f"{self._root}{LIBRARY}/{PACKAGE}")
        if there and not self._is_ours and not self._staged:
            raise HookError(f"{LIBRARY}: not laid down by install: no {manifest.PATH}", hint)

    def _note(self, items: Iterable[Item]) -> None:
        """What is about to be laid down is ours from now on; what was still is."""
        if self._staged:
            return
        missing = laying.missing_directories((each.path for each in items), self._root)
        known = self._known.directories
        known.extend(path for path in missing if path not in known)
        laying.make_directories(LIBRARY, self._root)
        for item in items:
            if item.state is not State.CHANGED:
                before = self._known.files.get(item.path, ())
                self._known.files[item.path] = list(dict.fromkeys((*before, item.digest)))
        manifest.save(self._known, self._root)

    def _apply(self, item: Item) -> str:
        """Bring one to where it belongs; return in words what was done."""
        match item.state:
            case State.OBSOLETE:
                os.unlink(self._root + item.path)
            case State.CHANGED if item.file.link:
                return f"{item.state}: kept"
            case State.CHANGED:
                beside = laying.lay_beside(self._tree, item, self._root)
                self._known.files[beside] = [item.digest]
                return f"{item.state}: kept; the new one is {beside}"
            case _:
                laying.lay(self._tree, item, self._root)
        return DONE[item.state]

    def _settle(self, items: Iterable[Item], readers: Sequence[Daemon]) -> None:
        """Forget what was replaced, compile, label, and tell the daemons."""
        for item in items:
            if item.state is not State.CHANGED:
                self._known.files[item.path] = [item.digest]
        for path in [each for each in self._known.files if not os.path.lexists(self._root + each)]:
            del self._known.files[path]
        self._known.readers[:] = [(each.pid, each.ticks) for each in readers]
        manifest.save(self._known, self._root)
        # The hook runs as root, and would write them itself, but not before it was slow once.
        package = f"{self._root}{LIBRARY}/{PACKAGE}"
        self._run((PYTHON, "-I", "-m", "compileall", "-q", package))
        paths = [path for path in self._known.files if not path.startswith(f"{LIBRARY}/")]
        self._run(("restorecon", "-R", LIBRARY, *paths))
        for daemon in daemons.running(self._root, self._run):
            if (daemon.pid, daemon.ticks) not in self._known.readers:
                daemons.reload(daemon)
                print(f"{daemon.name} ({daemon.pid}): reloaded, for it had read no hook")

    def _readers(self) -> list[Daemon]:
        """The daemons that have found a hook by now, ours or another; a stage has none."""
        entries = installed.entries(self._root)
        return [
            each
            for each in daemons.running(self._root, self._run)
            if reading(each, entries, set(self._known.readers)) is Reading.YES
        ]
