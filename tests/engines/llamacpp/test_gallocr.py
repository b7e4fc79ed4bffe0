"""ggml's allocator: its addresses against those of the real one, and whose memory lasts how long."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomph.engines.llamacpp import ggml
from oomph.engines.llamacpp.gallocr import ENDLESS, Buffer, Step, lifetimes, place
from oomph.engines.llamacpp.ggml import F32, Graph, Tensor

RUNS = json.loads(Path(__file__).with_name("gallocr_golden.json").read_text())["runs"]
ROW = 256  # bytes of the rows of these tests: 64 F32


def _steps(*ends: Tensor) -> list[Step]:
    graph = Graph()
    for end in ends:
        graph.expand(end)
    return lifetimes(graph.nodes, graph.leafs, lambda tensor, _: tensor.n_bytes)[0]


def _peak(*ends: Tensor) -> int:
    buffer = Buffer(1)
    place(_steps(*ends), [buffer])
    return buffer.n_bytes


def _row() -> Tensor:
    return ggml.graph_input(F32, 64)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run['alignment']}-{run['max_chunk']}")
def test_addresses_are_those_of_ggml(run: dict[str, list[list[int]]]) -> None:
    """Random requests get the chunk and offset that the real allocator gave, zero bytes and several chunks included."""
    limit = int(str(run["max_chunk"]))
    buffer = Buffer(int(str(run["alignment"])), ENDLESS if limit < 0 else limit)
    got: list[tuple[tuple[int, int], int]] = []
    for step in run["steps"]:
        if len(step) == 1:
            buffer.give(*got[step[0]])
        else:
            got.append((buffer.take(step[0]), step[0]))
            assert list(got[-1][0]) == step[1:], f"request {len(got)} of {step[0]} bytes"
    assert [chunk.used for chunk in buffer.chunks] == run["used"]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5000)), max_size=40), st.sampled_from((1, 32, 128)))
def test_nothing_overlaps_and_all_comes_back(wishes: list[tuple[bool, int]], alignment: int) -> None:
    """What is in use never overlaps; when all is free again there is one block."""
    buffer, live = Buffer(alignment), []
    for frees, n_bytes in wishes:
        if frees and live:
            buffer.give(*live.pop(n_bytes % len(live)))
        else:
            live.append((buffer.take(n_bytes), n_bytes))
        ends = sorted((offset, offset + buffer.aligned(size)) for (_, offset), size in live)
        assert all(end <= start for (_, end), (start, _) in pairwise(ends))
    for address, n_bytes in live:
        buffer.give(address, n_bytes)
    assert all(len(chunk.free) == 1 for chunk in buffer.chunks)


def test_a_result_takes_over_an_operand_that_nothing_else_reads() -> None:
    """A chain of element-wise operations stays in one block, a product with a matrix needs a second."""
    x = _row()
    assert _peak(ggml.unary(ggml.like(x, "SCALE"))) == ROW
    weight = ggml.stored(F32, (64, 64), "CPU", weight=True)
    assert _peak(ggml.mul_mat(weight, _row())) == 2 * ROW


def test_a_result_never_takes_over_what_is_read_again() -> None:
    """A residual keeps its block."""
    x = _row()
    assert _peak(ggml.like(x, "ADD", ggml.unary(x))) == 2 * ROW


def test_a_result_never_takes_over_a_reshaped_operand() -> None:
    """A view has no memory of its own, so that what is computed of it is put elsewhere."""
    x = _row()
    assert _peak(ggml.unary(ggml.reshape(x, 8, 8))) == 2 * ROW


def test_outputs_are_never_free_nor_taken_over() -> None:
    """An output keeps its block to the end."""
    x = _row()
    x.output = True
    after = ggml.unary(ggml.unary(x))
    assert _peak(after) == 2 * ROW


def test_memory_behind_a_view_lasts_as_long_as_the_view() -> None:
    """A tensor is free when the last view of it was read."""
    x = ggml.mul_mat(ggml.stored(F32, (64, 64), "CPU", weight=True), _row())
    half = ggml.view(x, 32)
    steps = _steps(ggml.like(ggml.unary(x), "MUL", ggml.cont(half, 32)))
    freed = [step.slot for step in steps if not step.taken]
    assert freed == [0, 1, 3], "the input, then x, then the half that was multiplied in"


def test_what_lies_elsewhere_already_takes_nothing() -> None:
    """Weights and caches are not the allocator's."""
    cache = ggml.stored(F32, (64, 100), "CPU", weight=False)
    assert _steps(ggml.set_rows(cache, _row(), ggml.graph_input(ggml.I64, 1)))[0].n_bytes == ROW


def test_equal_states_mean_equal_memory() -> None:
    """The states that are told at marks are the same exactly when what is free and what is used lies the same."""
    steps = [Step(True, 0, 0, 64), Step(True, 0, 1, 64), Step(False, 0, 1, 64), Step(True, 0, 2, 64)]
    first, second, third = place([*steps, Step(False, 0, 2, 64)], [Buffer(32)], [1, 3, 4])
    assert first[1] == second[1] != third[1]
    assert first != second, "the buffer has grown between them"
