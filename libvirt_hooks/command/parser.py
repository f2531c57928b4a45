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
ROOT = Argument(
    ("--root",),
    {
        "metavar": "DIR",
        "help": "for packagers: below DIR, with /usr for /usr/local; nothing is compiled,"
        " labelled, noted or reloaded",
    },
)
DRY_RUN = Argument(
    ("-n", "--dry-run"), {"action": "store_true", "help": "only say what would be done"}
)

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
