# SPDX-License-Identifier: LGPL-2.1-or-later
"""The man pages of docs/man, from their templates (NAME.in). Run: python -m tools.manual.

Verbs and options are those of command.parser; keys, types, defaults and ranges those of the
policy's tables, and what a key means is what is written below it there. A line of a template that
is only ``@NAME@`` is where a part made here goes. Source: mdoc(7), of mandoc.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from libvirt_hooks import __version__, guest_policy, policy, policy_file, quirks
from libvirt_hooks.command import parser

FOLDER = Path(__file__).parent.parent / "docs" / "man"

MEANING = {
    "deny": "Drives that no guest is given, by their ids or by their address.",
    "bdf": "The address of the drive, in any way that a PCI address is written.",
    "serial": "The serial number that it must have.",
    "eui": "The EUI-64 or NGUID that one of its namespaces must have.",
}
"""Of what has no sentence below it in its class."""
EXAMPLES = {"deny": '["144d:a802", "0000:03:00.0"]'}
LIMITS: Mapping[str, tuple[str, float]] = {
    "Policy": ("More than 0 and at most {:g} seconds", policy.MOST_SECONDS),
    "Drive": ("0 to {:g} seconds", policy.MOST_PAUSE),
}
"""How the seconds of a table are limited; tests/test_manual.py tries them."""

Lines = Iterator[str]


def pages() -> dict[str, str]:
    """Return every page by its file name."""
    return {path.stem: _fill(path.read_text()) for path in sorted(FOLDER.glob("*.in"))}


def _fill(template: str) -> str:
    lines: list[str] = []
    for line in template.splitlines():
        part = PARTS.get(line.strip("@")) if re.fullmatch("@[A-Z]+@", line) else None
        lines += part() if part else [line.replace("@VERSION@", __version__)]
    return "\n".join(lines) + "\n"


def synopsis() -> Lines:
    """What can be typed, a line a verb."""
    for verb in parser.VERBS:
        yield ".Nm"
        yield f".Cm {verb.name}"
        for argument in verb.arguments:
            yield f".{_optional(argument)}{_macros(argument)}"
    yield ".Nm"
    yield r".Fl Fl version | Fl Fl help"


def verbs() -> Lines:
    """Each verb, what it does, and its arguments."""
    yield '.Bl -tag -width "recover"'
    for verb in parser.VERBS:
        yield f".It Cm {verb.name}"
        yield from _text(verb.description or _sentence(verb.help))
        options = [each for each in verb.arguments if each.settings.get("help") and _said(each)]
        if options:
            yield '.Bl -tag -width "-o"'
            for argument in options:
                yield f".It {_macros(argument)}"
                yield from _text(_sentence(str(argument.settings["help"])))
                default = argument.settings.get("default")
                if isinstance(default, str | int | float):
                    yield f"The default is {_escaped(str(default).removesuffix('.0'))}."
            yield ".El"
    yield ".El"


def keys() -> Lines:
    """The keys of the file that stand above the first table."""
    kinds = get_type_hints(policy.Policy)
    names = (name for name in policy_file._FILE if name != "drive")
    yield from _table(policy.Policy, [name for name in names if not _is_table(kinds[name])])


def tables() -> Lines:
    """The other tables of the file than that of drives, each with its heading."""
    for name, kind in get_type_hints(policy.Policy).items():
        if _is_table(kind):
            yield f".Ss {_sentence(name)[:-1]}"
            yield "In the table"
            yield f".Ql [{name}]"
            yield "\\(em"
            yield from _text(kind.__doc__ or "")
            yield from _table(kind, list(get_type_hints(kind)))


def drive() -> Lines:
    """The keys of a drive's table."""
    yield from _table(policy.Drive, list(policy_file._DRIVE))


def guest() -> Lines:
    """The attributes of a guest's own policy."""
    *first, last = guest_policy._POLICY
    for name in first:
        yield f".Va {name}{' ,' if name != first[-1] else ''}"
    yield "and"
    yield f".Va {last}"


def expect() -> Lines:
    """The attributes of a drive that a guest expects."""
    yield '.Bl -tag -width "serial"'
    for name in guest_policy._EXPECT:
        yield f".It Va {name}"
        yield from _text(MEANING[name])
    yield ".El"


def _is_table(kind: object) -> bool:
    return hasattr(kind, "__dataclass_fields__") or hasattr(kind, "_fields")


def _table(kind: type, names: Sequence[str]) -> Lines:
    types, words = get_type_hints(kind), {**_words(quirks), **_words(policy)}
    yield '.Bl -tag -width "mode"'
    for name in names:
        what = _kept(types[name])
        yield f".It Va {name} No = {_values(what, name)}"
        meaning = words.get(f"{kind.__name__}.{name}") or words.get(f"Quirk.{name}")
        meaning = MEANING.get(name) or meaning or words[what.__name__]
        yield from _text(meaning.replace("None: ", "without it, "))
        if issubclass(what, StrEnum):
            yield from _choices(what, words)
        if what is float:
            limit, most = LIMITS[kind.__name__]
            yield f"{limit.format(most)}."
        yield from _default(kind, name)
    yield ".El"


def _choices(kind: type[StrEnum], words: Mapping[str, str]) -> Lines:
    yield '.Bl -tag -width "refuse-lethal" -compact'
    for member in kind:
        yield f".It {_quoted(member.value)}"
        yield from _text(words[f"{kind.__name__}.{member.name}"])
    yield ".El"


def _default(kind: type, name: str) -> Lines:
    value = getattr(kind(), name)
    if kind is not policy.Drive:
        if value is not None:
            yield f"The default is {_toml(value)}."
    elif name in get_type_hints(quirks.Quirk):
        yield "The default is what the table of known drives says."
    elif name == "guard":
        yield f"The default is {_toml(policy.GuardChoice.AUTO)}."
    else:
        yield f"The default is {_toml(policy.Close.HOLDER)} for a drive that an FLR can kill while"
        yield "it is enabled; for others there is nothing to do."


def _words(module: ModuleType) -> dict[str, str]:
    """The docstrings below the names of a module's classes, which Python itself does not keep."""
    words = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef):
            words[node.name] = ast.get_docstring(node) or ""
            for said, text in zip(node.body, node.body[1:], strict=False):
                match said, text:
                    case (
                        ast.Assign(targets=[ast.Name(id=name)])
                        | ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(meaning))),
                    ):
                        words[f"{node.name}.{name}"] = meaning
    return words


def _kept(hint: Any) -> type:
    """A field's type without the None that says that nothing is said."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    (kind,) = (each for each in kinds if each is not NoneType)
    found: type = get_origin(kind) or kind
    return found


def _values(kind: type, name: str) -> str:
    if issubclass(kind, StrEnum):
        return " | ".join(_quoted(member.value) for member in kind)
    if kind is bool:
        return "Cm true | false"
    if kind is float:
        return "Ar seconds"
    if kind is str:
        return f"{_quoted('...')}"
    return "No " + EXAMPLES[name].replace('"', "\\(dq")


def _quoted(text: str) -> str:
    return f"\\(dq{text}\\(dq"


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case str():
            return f'"{value}"'
        case tuple():
            return "an empty list"
    raise TypeError(value)


def _optional(argument: parser.Argument) -> str:
    must = not argument.names[0].startswith("-") and argument.settings.get("nargs") not in (
        "?",
        "*",
    )
    return "" if must or argument.settings.get("required") else "Op "


def _macros(argument: parser.Argument) -> str:
    """An argument as mdoc's macros: ``Fl o Ar file``."""
    settings = argument.settings
    value = str(settings.get("metavar") or argument.names[-1].strip("-"))
    if "choices" in settings:
        named = f"Cm {' | '.join(settings['choices'])}"
    else:
        named = f"Ar {value}" + (" ..." if settings.get("nargs") in ("*", "+") else "")
    if not argument.names[0].startswith("-"):
        return named
    flags = " | ".join("Fl " + name.replace("--", "Fl ", 1).lstrip("-") for name in argument.names)
    return flags if "action" in settings else f"{flags} {named}"


def _said(argument: parser.Argument) -> bool:
    """Has it something of its own to say? What a BDF is, the page says once."""
    return argument.settings.get("help") != parser.CONTROLLER


def _text(text: str) -> Lines:
    """Prose: a line a sentence, as mdoc wants it, with nothing in it that roff would obey."""
    for sentence in re.split(r"(?<=[.:?]) (?=[A-Z])", " ".join(text.split())):
        yield from _wrapped(_escaped(sentence.replace("`", "")))


def _wrapped(text: str) -> Lines:
    line = ""
    for word in text.split(" "):
        if line and len(line) + len(word) >= 79:
            yield line
            line = ""
        line = f"{line} {word}" if line else (f"\\&{word}" if word[:1] in ".'" else word)
    yield line


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("--", "\\-\\-")


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else f"{text}."


PARTS: Mapping[str, Callable[[], Lines]] = {
    "SYNOPSIS": synopsis,
    "VERBS": verbs,
    "KEYS": keys,
    "DRIVE": drive,
    "TABLES": tables,
    "GUEST": guest,
    "EXPECT": expect,
}


def main() -> None:
    """Write them."""
    for name, text in pages().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
