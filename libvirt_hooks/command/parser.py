# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be typed after virt-nvme-reset: every verb and its arguments, as data.

The parser is made of this, and so are the man page and the shells' completions.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from .. import __version__
from .terminal import size

PROGRAM = "virt-nvme-reset"
DESCRIPTION = (
    "Reset NVMe controllers that go to virtual machines, and never at the wrong moment. libvirt"
    " runs the hook by itself; this command is for looking and mending."
)
MOST_LINES = 5000
CONTROLLER = "such as 03:00.0, 0000:03:00.0, pci_0000_03_00_0 or nvme0"


# Named tuples, here and in what every verb loads: dataclasses take as long to import as Python
# takes to start, and who asks for --help waits for it.


class Argument(NamedTuple):
    """One argument, as argparse's add_argument takes it."""

    names: tuple[str, ...]
    settings: Mapping[str, Any] = MappingProxyType({})


class Verb(NamedTuple):
    """One verb; its module in this package has the same name, or *module*."""

    name: str
    help: str
    arguments: tuple[Argument, ...] = ()
    description: str = ""
    """If it is more than the help."""
    module: str = ""


BDF = Argument(("bdf",), {"metavar": "BDF", "help": CONTROLLER})
MAYBE_BDF = Argument(("bdf",), {"metavar": "BDF", "nargs": "?", "help": CONTROLLER})
OUTPUT = Argument(
    ("-o", "--output"),
    {"choices": ("text", "json"), "default": "text", "help": "for people, or for programs"},
)
ROOT = Argument(
    ("--root",),
    {
        "metavar": "DIR",
        "help": "for packagers: below DIR, with /usr for /usr/local; nothing is compiled,"
        " labelled, noted or reloaded",
    },
)
DOMAIN = Argument(
    ("domain",), {"metavar": "DOMAIN", "nargs": "?", "help": "a guest's name or uuid"}
)
XML = Argument(
    ("--xml",), {"metavar": "FILE", "help": "a guest's definition, instead of DOMAIN; - for stdin"}
)
CONNECT = Argument(
    ("-c", "--connect"),
    {"metavar": "URI", "default": "qemu:///system", "help": "the libvirt that knows DOMAIN"},
)
GUEST = (DOMAIN, XML, CONNECT)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:  # nan is in no range
        raise argparse.ArgumentTypeError(f"{text!r}, expected seconds, 0.1 to 3600")
    return seconds


INTERVAL = Argument(
    ("-n", "--interval"),
    {
        "metavar": "SECONDS",
        "type": _interval,
        "default": 2.0,
        "help": "between two looks: 0.1 to 3600, 2 if not given",
    },
)
DRY_RUN = Argument(
    ("-n", "--dry-run"), {"action": "store_true", "help": "say what would be done, and do nothing"}
)
YES = Argument(("-y", "--yes"), {"action": "store_true", "help": "do not ask"})


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 0 < number <= MOST_LINES:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number, 1 to {MOST_LINES}")
    return number


VERBS = (
    Verb("list", "list this machine's NVMe controllers", (OUTPUT,), module="listing"),
    Verb(
        "watch",
        "list them again and again",
        (INTERVAL,),
        "Show what list shows, live, on a terminal. Ctrl-C ends it.",
    ),
    Verb(
        "show",
        "show all that is known of one controller",
        (BDF, OUTPUT),
        "Show one controller: what it is, its registers where nobody else can be using it, the"
        " policy for it, and which resets a guest's life holds for it. Changes nothing.",
    ),
    Verb(
        "plan",
        "say what the hook would do in a guest's life, and what would refuse it",
        (*GUEST, OUTPUT),
        "Say, operation by operation, what the hook would do with each of a guest's controllers,"
        " which resets vfio does in between, what would refuse the start, and how long all of it"
        " may take. Changes nothing. Exit status 1 if something would refuse the start.",
    ),
    Verb(
        "reset",
        "disable and reset an idle controller",
        (BDF, YES, DRY_RUN),
        "Disable and reset a controller that nobody uses: on vfio-pci and not open, or without a"
        " driver. Asks before, on a terminal.",
    ),
    Verb(
        "recover",
        "undo what hooks have left behind; bring a controller back",
        (MAYBE_BDF,),
        "Without BDF: undo what is left of guests that are gone and of hooks that died. With BDF:"
        " bring one controller that nobody uses back, by every means there is.",
    ),
    Verb(
        "config",
        "print the policy that holds, and where each value is from",
        (*GUEST, OUTPUT),
        "Print the policy that holds, for all guests or for one, and where each value is from:"
        " /etc/virt-nvme-reset.toml, the metadata of the guest, or the default.",
    ),
    Verb(
        "doctor",
        "check that this machine can protect its drives, and say what to do",
        (OUTPUT,),
        "Check the host, the hook, the daemon that runs it, the policy, drives, guests and records:"
        " a line a check, PASS, WARN or FAIL, and what to do. Changes nothing. Exit status 1 if one"
        " failed.",
    ),
    Verb(
        "install",
        "lay down hook, package and command from a checkout",
        (
            ROOT,
            Argument(("--check",), {"action": "store_true", "help": "only say what is amiss"}),
            DRY_RUN,
        ),
        "Lay down the hook, its package, this command, man pages, completions and examples. A file"
        " that somebody has changed is kept, and the new one put beside it as .new. Reloads"
        " libvirt's daemon if that has not found any hook yet. With --check, exit status 1 if"
        " anything is missing, changed or outdated.",
    ),
    Verb(
        "uninstall",
        "put back what hooks have changed, and remove what install has laid down",
        (ROOT, DRY_RUN),
        "Put back every guard, then remove what install has laid down; the policy stays. Refused"
        " while a guest has a drive.",
    ),
    Verb(
        "history",
        "tell what the hook did, the last thing last",
        (
            MAYBE_BDF,
            Argument(
                ("-n", "--lines"),
                {"metavar": "N", "type": _count, "default": 50, "help": "at most so many events"},
            ),
            Argument(
                ("--since",),
                {"metavar": "TIME", "help": "not what was before, such as yesterday or 10:00"},
            ),
            OUTPUT,
        ),
        "Tell what the hook and its keepers did, by the journal; where there is none, by"
        " /var/log/virt-nvme-reset.log. With BDF: with one controller.",
    ),
    Verb(
        "report",
        "write all that is known of one controller to a file, for a bug report",
        (
            BDF,
            Argument(
                ("-f", "--file"),
                {"metavar": "FILE", "help": "where to, - for stdout; never an existing file"},
            ),
            Argument(
                ("--with-names",),
                {"action": "store_true", "help": "leave names of hosts and guests in it"},
            ),
            Argument(
                ("--serial",),
                {"action": "store_true", "help": "leave serial number and EUI in it"},
            ),
        ),
        "Write what `show`, `history`, `config` and the kernel's log say about one controller, its"
        " configuration space and the versions of everything to one text file: without names of"
        " hosts and guests, and without the drive's serial number. Changes nothing.",
    ),
    Verb("demo", "play a guest's life on simulated drives; touches nothing"),
)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read a command line; who makes a mistake in it is told, and the process ends.

    :returns: the ``verb``, and its arguments.
    """
    named = [verb for verb in VERBS if verb.name in argv[:1]]
    return build(named or VERBS).parse_args(argv)  # each verb's parser takes its time to make


def build(wanted: Sequence[Verb] = VERBS) -> argparse.ArgumentParser:
    """Return the parser, of all verbs or of those that are *wanted*."""
    # By itself argparse asks shutil for the width, and that loads every kind of archive there is.
    formatter = partial(argparse.HelpFormatter, width=size().columns - 2)
    parser = argparse.ArgumentParser(PROGRAM, description=DESCRIPTION, formatter_class=formatter)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in wanted:
        one = verbs.add_parser(
            verb.name,
            help=verb.help,
            description=verb.description or f"{_sentence(verb.help)}.",
            formatter_class=formatter,
        )
        for argument in verb.arguments:
            one.add_argument(*argument.names, **argument.settings)
    return parser


def module(name: str) -> str:
    """Return the name of the module of a verb, in this package."""
    return next(verb.module or verb.name for verb in VERBS if verb.name == name)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
