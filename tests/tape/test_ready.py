"""The engine's queue: what was recorded last comes first, and ties come as C++'s heap hands them out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomph.tape.ready import ReadyQueue


@given(st.lists(st.integers(0, 5), max_size=40))
def test_ranks_come_out_in_descending_order(ranks: list[int]) -> None:
    """Whatever goes in comes out once, the highest rank first."""
    queue: ReadyQueue[int] = ReadyQueue()
    for at, rank in enumerate(ranks):
        queue.push(rank, at)
    found = [queue.pop() for _ in range(len(queue))]
    assert sorted(found) == list(range(len(ranks)))
    assert [ranks[at] for at in found] == sorted(ranks, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 12])
def test_leaves_of_one_node_come_in_torch_s_order(count: int) -> None:
    """A function hands gradients to many leaves at once, while an older node waits: the engine's own order."""
    import torch

    class Spread(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, *inputs: torch.Tensor) -> torch.Tensor:
            return inputs[0] * 1

        @staticmethod
        def backward(ctx: object, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(gradients[0].clone() for _ in range(count + 1))

    order: list[int] = []
    leaves = [torch.zeros(2, requires_grad=True) for _ in range(count + 1)]
    for at, leaf in enumerate(leaves):
        leaf.register_hook(lambda gradient, at=at: order.append(at))
    out = Spread.apply(leaves[0] * 2, *leaves[1:])
    out.sum().backward()

    queue: ReadyQueue[int] = ReadyQueue()
    queue.push(0, 0)
    for at in range(1, count + 1):
        queue.push(1, at)
    assert order == [queue.pop() for _ in range(count + 1)]
