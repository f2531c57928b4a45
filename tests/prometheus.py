# SPDX-License-Identifier: LGPL-2.1-or-later
"""A strict reader of Prometheus' text format 0.0.4, written from its description alone."""

import re
from collections.abc import Mapping

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
NUMBER = r"-?(?:[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)|NaN|[+-]Inf"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? ({NUMBER})")

Sample = tuple[str, tuple[tuple[str, str], ...]]
Samples = Mapping[Sample, float]


def unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), text)


def parse(text: str) -> dict[Sample, float]:
    """Return the samples; fail on whatever a collector could stumble over."""
    assert text.endswith("\n")
    samples: dict[Sample, float] = {}
    described: list[str] = []
    kind = ""
    lines = text.removesuffix("\n").split("\n")
    for line in lines:
        if found := re.fullmatch(rf"# HELP ({NAME}) (.+)", line):
            assert found[1] not in described, f"{found[1]}: described twice"
            assert re.sub(r"\\[\\n]", "", found[2]).count("\\") == 0
            described.append(found[1])
            kind = ""
        elif found := re.fullmatch(rf"# TYPE ({NAME}) (counter|gauge)", line):
            assert found[1] == described[-1] and not kind, f"{line}: not beside its HELP"
            kind = found[2]
        else:
            found = SAMPLE.fullmatch(line)
            assert found, f"no sample: {line!r}"
            assert found[1] == described[-1] and kind, f"{line}: not below its TYPE"
            assert kind == "gauge" or found[1].endswith("_total")
            labels = tuple((name, unescaped(value)) for name, value in _labels(found[2] or ""))
            assert len(dict(labels)) == len(labels), f"{line}: a label twice"
            assert (found[1], labels) not in samples, f"{line}: twice"
            samples[found[1], labels] = float(found[found.lastindex or 0])
    return samples


def _labels(text: str) -> list[tuple[str, str]]:
    return re.findall(LABEL, text)


def value(text: str, name: str, **labels: str) -> float:
    """One sample's number; 0 if there is none, as who adds them up would have it."""
    return parse(text).get((f"virt_nvme_reset_{name}", tuple(labels.items())), 0)
