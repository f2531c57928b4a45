# SPDX-License-Identifier: LGPL-2.1-or-later
"""Prometheus' text format: families of samples to a file, in a stable order. Pure.

Source: prometheus.io, "Exposition formats", text format version 0.0.4. node_exporter's textfile
collector reads it, and refuses a family that is described twice.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

Labels = tuple[str, ...]
"""The values of a sample's labels, in the order of its family's names."""


class Kind(StrEnum):
    """What a family's values may do."""

    COUNTER = "counter"
    """Only grow, until the next boot."""
    GAUGE = "gauge"


@dataclass(frozen=True)
class Family:
    """What is measured: a name, what it means, and what tells its samples apart."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


def render(families: Mapping[Family, Mapping[Labels, float]]) -> str:
    """Return the file's text. A family without samples is described all the same."""
    return "".join(
        f"{line}\n" for family, samples in families.items() for line in _lines(family, samples)
    )


def _lines(family: Family, samples: Mapping[Labels, float]) -> Iterator[str]:
    yield f"# HELP {family.name} {_escaped(family.help)}"
    yield f"# TYPE {family.name} {family.kind}"
    for values, number in sorted(samples.items()):
        named = zip(family.labels, values, strict=True)
        labels = ",".join(f'{name}="{_quoted(value)}"' for name, value in named)
        braces = f"{{{labels}}}" if labels else ""
        yield f"{family.name}{braces} {_number(number)}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(round(value, 6))
