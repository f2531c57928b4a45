# SPDX-License-Identifier: LGPL-2.1-or-later
"""Prometheus' text format: what is rendered can be read back, whatever is in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_hooks.exposition import Family, Kind, Labels, render

from . import prometheus

COUNTER = Family("a_total", Kind.COUNTER, "One\nand \\ two.", ("x", "y"))
Samples = dict[Labels, float]
GAUGE = Family("b", Kind.GAUGE, "Now.")


def test_the_text() -> None:
    samples: Samples = {("b", "1"): 2.0, ("a", 'q"\\\n'): 0.25, ("a", ""): 3}
    assert render({COUNTER: samples, GAUGE: {(): 1}}) == (
        "# HELP a_total One\\nand \\\\ two.\n"
        "# TYPE a_total counter\n"
        'a_total{x="a",y=""} 3\n'
        'a_total{x="a",y="q\\"\\\\\\n"} 0.25\n'
        'a_total{x="b",y="1"} 2\n'
        "# HELP b Now.\n"
        "# TYPE b gauge\n"
        "b 1\n"
    )


def test_a_family_without_samples_is_described() -> None:
    assert render({COUNTER: {}}).count("\n") == 2


def test_labels_that_the_family_has_not_are_a_defect() -> None:
    with pytest.raises(ValueError, match="shorter"):
        render({COUNTER: {("a",): 1}})


@given(
    st.dictionaries(
        st.tuples(st.text(), st.text()), st.integers(0, 1 << 50) | st.floats(0, 1e12), max_size=5
    )
)
def test_whatever_is_rendered_is_read_back(samples: Samples) -> None:
    read = prometheus.parse(render({COUNTER: samples}))
    assert read == {
        ("a_total", (("x", x), ("y", y))): pytest.approx(number, abs=1e-6)
        for (x, y), number in samples.items()
    }


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a 1\n", id="not described"),
        pytest.param("# HELP a_total x\na_total 1\n", id="no type"),
        pytest.param("# HELP a_total x\n# TYPE a_total counter\na_total 1", id="cut off"),
        pytest.param("# HELP a_total x\n# TYPE a_total counter\na_total 1\na_total 2\n", id="2"),
        pytest.param('# HELP a_total x\n# TYPE a_total counter\na_total{x="a"b"} 1\n', id="quote"),
    ],
)
def test_the_reader_is_strict(text: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        prometheus.parse(text)
