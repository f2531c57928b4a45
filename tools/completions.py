# SPDX-License-Identifier: LGPL-2.1-or-later
"""The shells' completions, from the command's parser. Run: python -m tools.completions.

shtab writes them, and its own functions are in them, which are under its licence; only who changes
a verb needs it. Controllers are not completed: asking for them takes longer than to type one.
"""

from argparse import ArgumentParser, _SubParsersAction
from pathlib import Path

import shtab

from libvirt_hooks.command import parser

FOLDER = Path(__file__).parent.parent / "completions"
LICENCE = "# SPDX-License-Identifier: Apache-2.0"

NAMES = {
    "bash": f"{parser.PROGRAM}.bash",
    "zsh": f"_{parser.PROGRAM}",
    "fish": f"{parser.PROGRAM}.fish",
}
"""Each shell's; what it is to be called where the shell looks for it, whoever installs it knows."""

FILES = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY}
"""What an argument's metavar says about it."""


def scripts() -> dict[str, str]:
    """Return every script by its file name."""
    return {name: _script(shell) for shell, name in NAMES.items()}


def _script(shell: str) -> str:
    lines = shtab.complete(_prepared(parser.build()), shell).rstrip().split("\n")
    lines.insert(1 if lines[0].startswith("#compdef") else 0, LICENCE)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _prepared(built: ArgumentParser) -> ArgumentParser:
    """Mark the arguments that are files, and have a verb described as in --help, on one line."""
    for action in built._actions:
        if action.metavar in FILES:
            action.complete = FILES[action.metavar]  # type: ignore[attr-defined]
        if isinstance(action, _SubParsersAction):
            for choice in action._choices_actions:
                verb = action.choices[choice.dest]
                verb.description = choice.help
                _prepared(verb)
    return built


def main() -> None:
    """Write them."""
    for name, text in scripts().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
