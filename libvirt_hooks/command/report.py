# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virt-nvme-reset report`: one text file for a bug report."""

import os
import sys
from argparse import Namespace
from collections.abc import Iterable
from datetime import UTC, datetime

from .. import config, history, redaction, report, show
from ..bdf import Bdf
from ..errors import BadPolicy, HookError, SysfsError
from ..host import Host
from ..linux import events, policy_file, versions
from ..redaction import Redaction
from .names import find
from .parser import PROGRAM
from .policies import lenient

EVENTS = 200


def run(arguments: Namespace, host: Host) -> int:
    """Write it.

    :raises HookError: there is no such controller, or the file is there already.
    """
    bdf = find(host, arguments.bdf)
    # Without colons: scp would take what is before one for a host.
    path = arguments.file or f"{PROGRAM}-report-{bdf.nodedev}.txt"
    if path != "-" and os.path.lexists(path):
        raise _there(path)  # before anything takes its time
    text = _redaction(arguments, host).apply(_text(arguments, host, bdf))
    if path == "-":
        sys.stdout.write(text)
    else:
        _write(path, text)
        print(f"{path}: read it, then attach it")
    return 0


def _text(arguments: Namespace, host: Host, bdf: Bdf) -> str:
    policy = lenient(host)
    known = show.show(host, policy, bdf).splitlines()
    notes = [f"made {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"]
    if not arguments.with_names:
        notes.append("names of this host, its users and its guests are masked")
    if not arguments.serial:
        notes.append("what the drive calls itself is masked")
    sections = {
        "versions": [f"{name}: {version}" for name, version in versions.versions()],
        "controller": known,
        "configuration space": report.configuration(host, policy, bdf, arguments.serial),
        "policy": _policy(),
        "history": _history(bdf),
        "kernel": report.about(events.kernel(), bdf),
    }
    return report.compose(f"{PROGRAM} report on {bdf}", notes, sections)


def _policy() -> Iterable[str]:
    try:
        found = policy_file.examine()
        return config.describe(found.text, untrusted=found.untrusted)
    except (BadPolicy, SysfsError) as error:
        return [error.message]


def _history(bdf: Bdf) -> Iterable[str]:
    try:
        found = events.find(EVENTS, bdf=bdf)
    except HookError as error:
        return [error.message]
    return [text for text, _ in history.lines(found.events, registers=True)]


def _redaction(arguments: Namespace, host: Host) -> Redaction:
    found = Redaction()
    if not arguments.serial:
        for each in host.functions():
            if (identity := host.identity(each)) is not None:
                found.hide("serial", [identity.serial])
                found.hide("eui", identity.euis)
        found.recognise(redaction.SERIALS)
    if not arguments.with_names:
        name = os.uname().nodename
        found.hide("host", [name, name.partition(".")[0]])
        found.recognise(redaction.NAMES)
    return found


def _there(path: str) -> HookError:
    return HookError(f"{path}: writing: it is there already", "name another one with -f")


def _write(path: str, text: str) -> None:
    try:
        with open(path, "x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except FileExistsError as error:
        raise _there(path) from error
    except OSError as error:
        raise HookError(f"{path}: writing: {error.strerror}") from error
