# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be typed after virt-nvme-reset: every verb and its arguments, as data.

The parser is made of this, and so are the man page and the shells' completions.
"""

import argparse
from dataclasses import dataclass, field
from typing import Any

from .. import __version__

PROGRAM = "virt-nvme-reset"
DESCRIPTION = (
    "Reset NVMe controllers that go to virtual machines, and never at the wrong moment. libvirt"
    " runs the hook by itself; this command is for looking and mending."
)
MOST_LINES = 5000
CONTROLLER = "such as 03:00.0, 0000:03:00.0, pci_0000_03_00_0 or nvme0"


@dataclass(frozen=True)
class Argument:
    """One argument, as argparse's add_argument takes it."""

    names: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verb:
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


def _count(text: str) -> int:
    number = int(text)
    if not 0 < number <= MOST_LINES:
        raise argparse.ArgumentTypeError(f"{number}, expected 1 to {MOST_LINES}")
    return number


VERBS = (
    Verb("list", "list this machine's NVMe controllers", (OUTPUT,), module="listing"),
    Verb(
        "show",
        "show all that is known of one controller",
        (BDF,),
        "Show one controller: what it is, its registers where nobody else can be using it, the"
        " policy for it, and which resets a guest's life holds for it. Changes nothing.",
    ),
    Verb(
        "reset",
        "disable and reset an idle controller",
        (BDF,),
        "Disable and reset a controller that nobody uses: on vfio-pci and not open, or without a"
        " driver.",
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
        (Argument(("--xml",), {"metavar": "FILE", "help": "a domain: what holds for this guest"}),),
        "Print the policy that holds, and where each value is from: /etc/virt-nvme-reset.toml, the"
        " metadata of a guest, or the default.",
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


def build() -> argparse.ArgumentParser:
    """Return the parser: what it makes of a command line has the ``verb``, and its arguments."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        one = verbs.add_parser(
            verb.name, help=verb.help, description=verb.description or f"{_sentence(verb.help)}."
        )
        for argument in verb.arguments:
            one.add_argument(*argument.names, **argument.settings)
    return parser


def module(name: str) -> str:
    """Return the name of the module of a verb, in this package."""
    return next(verb.module or verb.name for verb in VERBS if verb.name == name)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
