"""Numbers along contexts: what is decided by comparing them, and how far; a graph's memory played on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomph.engines.llamacpp.along import Along, Span
from oomph.engines.llamacpp.graph import compute_buffers, reserve
from oomph.engines.llamacpp.graph_setup import CPU
from tests.engines.llamacpp.graphs import MODELS, setup_of

SMALL = st.integers(-50, 50)
COMPARED = {
    "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "reflected": lambda a, b: b < a, "bool": lambda a, b: bool(a),
}  # fmt: skip


@given(SMALL, SMALL, SMALL, SMALL, st.sampled_from(sorted(COMPARED)))
def test_within_the_span_a_comparison_comes_out_alike_and_next_to_it_otherwise(
    value: int, slope: int, other: int, others_slope: int, compared: str
) -> None:
    """Every comparison of two numbers, or of a number and an int; of equality the span may be shorter."""
    span = Span()
    of: Any = span.number(other, others_slope) if others_slope else other
    found = COMPARED[compared](span.number(value, slope), of)

    def at(step: int) -> bool:
        there = of.at(step) if isinstance(of, Along) else of
        return bool(COMPARED[compared](value + slope * step, there))

    for step in range(max(span.low, -60), min(span.high, 60) + 1):
        assert at(step) == found
    for beyond in (span.low - 1, span.high + 1) if compared in ("<", "<=", ">", ">=", "reflected") else ():
        assert abs(beyond) > 1000 or at(beyond) != found


@given(SMALL, SMALL, SMALL, SMALL, st.integers(-20, 20))
def test_arithmetic_is_that_of_every_step(a: int, b: int, c: int, d: int, step: int) -> None:
    """Sums, differences, products with ints, quotients where a step comes out even."""
    span = Span()
    x, y = span.number(a, b), span.number(c, d)
    there, other = x.at(step), y.at(step)
    assert [(x + y).at(step), (x - y).at(step), (3 * x).at(step), (7 - x).at(step)] == [
        there + other, there - other, 3 * there, 7 - there,
    ]  # fmt: skip
    assert (span.number(a, 4 * b) // 4).at(step) == (a + 4 * b * step) // 4


@pytest.mark.parametrize("name", ["llama", pytest.param("qwen3next", marks=pytest.mark.slow)])
def test_what_was_played_for_one_context_is_what_playing_another_gives(name: str) -> None:
    """Contexts one after the other, as they come: each is what a graph of its own takes with all its layers."""
    setup = setup_of(MODELS[name], 2048)
    for cells in (512, 4096, 768, 1024, 1280, 8192, 1536, 131072, 100096):
        at = replace(setup, cells=cells, n_ctx=cells)
        whole, one = reserve(at, 512, at.n_outputs_max), reserve(at, at.n_seq_max, at.n_seq_max)
        assert compute_buffers(at) == {CPU: max(whole[CPU], one[CPU])}
