# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is installed: entries of libvirt's hooks' directory, our package, the interpreter.

Source: libvirt src/util/virhook.c, virHookCall, 9.0: hooks/qemu, then qemu.d sorted by bytes.
"""

import json
import os
import stat
from collections.abc import Iterable, Iterator

from ..doctor.facts import Entry, Interpreter
from .daemons import Runner
from .reads import names

HOOKS = "/etc/libvirt/hooks"
HOOK = f"{HOOKS}/qemu.d/50-nvme-reset"
LIBRARY = "/usr/lib/virt-nvme-reset"
"""As INSTALLED in the hook."""
PYTHON = "/usr/bin/python3"
PACKAGE = "libvirt_hooks"

_PROBE = (
    "import json, sys\n"
    "try:\n"
    "    import lxml.etree\n"
    "    error = ''\n"
    "except Exception as found:\n"
    "    error = str(found)\n"
    "print(json.dumps([sys.version_info[:3], error]))\n"
)


def entries(root: str = "") -> tuple[Entry, ...]:
    """Return what libvirt finds for a QEMU guest, in its order."""
    folder = f"{HOOKS}/qemu.d"
    inside = sorted(names(root + folder), key=os.fsencode)
    paths = (f"{HOOKS}/qemu", *(f"{folder}/{name}" for name in inside))
    return tuple(each for each in (_entry(root, path) for path in paths) if each is not None)


def _entry(root: str, path: str) -> Entry | None:
    try:
        link, seen = os.lstat(root + path), os.stat(root + path)
    except OSError:  # gone, or a link that leads nowhere: libvirt passes it over
        return None
    target = ""
    if stat.S_ISLNK(link.st_mode):
        target = "/" + os.path.relpath(os.path.realpath(root + path), os.path.realpath(root or "/"))
    regular = stat.S_ISREG(seen.st_mode)
    return Entry(
        path=path,
        regular=regular,
        mode=stat.S_IMODE(seen.st_mode),
        owner=seen.st_uid,
        changed=max(link.st_ctime, seen.st_ctime),
        target=target,
        first_line=_first_line(root + path) if regular else "",
    )


def _first_line(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.readline(200).decode("utf-8", "backslashreplace").rstrip("\n")
    except OSError:
        return ""


def packages(root: str = "") -> tuple[str, ...]:
    """Return each package that the hook could use, the one that it does use first.

    As run() of the hook looks for it; site-packages come last.
    """
    above = os.path.dirname(os.path.dirname(HOOK))
    places = (above, os.path.dirname(above), LIBRARY, *_site(root))
    found = (f"{place}/{PACKAGE}" for place in places)
    return tuple(path for path in found if os.path.exists(f"{root}{path}/hook.py"))


def _site(root: str) -> Iterator[str]:
    for library in ("/usr/local/lib", "/usr/lib"):
        for version in names(root + library):
            if version.startswith("python3"):
                yield from (f"{library}/{version}/{kind}-packages" for kind in ("dist", "site"))


def writable(paths: Iterable[str], root: str = "", owner: int = 0) -> tuple[str, ...]:
    """Tell what others than *owner* may change: *paths*, what is below, directories above."""
    wanted: dict[str, None] = {}
    for path in paths:
        wanted |= dict.fromkeys((*_above(path), path, *_below(root, path)))
    return tuple(said for path in wanted if (said := _open_to_all(root, path, owner)))


def _above(path: str) -> list[str]:
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[:at]) for at in range(1, len(parts))]


def _below(root: str, path: str) -> Iterator[str]:
    for folder, folders, files in os.walk(root + path):
        yield from (f"{folder.removeprefix(root)}/{name}" for name in (*folders, *files))


def _open_to_all(root: str, path: str, owner: int) -> str:
    try:
        seen = os.stat(root + path)
    except OSError:
        return ""
    if seen.st_uid != owner:
        return f"{path}: owner is uid {seen.st_uid} (expected {owner})"
    # Where the sticky bit is set, others may write beside it but not replace it.
    if seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not seen.st_mode & stat.S_ISVTX:
        return f"{path}: mode is {stat.S_IMODE(seen.st_mode):04o}"
    return ""


def interpreter(run: Runner, path: str = PYTHON) -> Interpreter:
    """Ask the hook's interpreter what it is, as the hook runs it but for -S."""
    said = run((path, "-I", "-c", _PROBE))
    try:
        version, error = json.loads(said)
        return Interpreter(path, tuple(map(int, version)), not error, str(error))
    except (ValueError, TypeError):
        return Interpreter(path, error="does not run")
