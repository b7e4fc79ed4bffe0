"""Gradient checkpointing on the tape: orders of events derived by hand from torch/utils/checkpoint.py."""

from __future__ import annotations

from typing import Any

import pytest

from oomph import ops
from oomph.tape import Tape
from oomph.tape.autograd import backward, run_engine
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym
from oomph.tape.tape import autocast


def allocated(tape: Tape) -> list[str]:
    """The operations that allocated, in order."""
    return [one.op for one in tape.recorder.allocations]


def twice(x: Sym) -> Sym:
    """silu(silu(x)): saves x and the first result."""
    return ops.silu(ops.silu(x))


@pytest.mark.parametrize(
    ("kind", "rerun"),
    [
        # The last operation's result is made again, and lives through the inner pass.
        ("reentrant", ["silu", "silu", "Silu_backward", "Silu_backward"]),
        # The rerun stops once the second silu has saved its input, before it allocates.
        ("non-reentrant", ["silu", "Silu_backward", "Silu_backward"]),
        ("none", ["Silu_backward", "Silu_backward"]),
    ],
)
def test_what_a_rerun_allocates(kind: Any, rerun: list[str]) -> None:
    """Forward is the same; backward makes again what was not saved."""
    tape = Tape()
    with tape.playing():
        x = tape.parameter((), "fp32")
        checkpointing = Checkpointing(kind)
        y = checkpointing(tape, twice, x) if checkpointing.takes(0) else twice(x)
        backward(y)
        assert x.grad is not None
        assert allocated(tape) == ["parameter", "silu", "silu", "ones_like", *rerun]


def test_an_inner_pass_is_over_before_the_outer_one_goes_on() -> None:
    """A weight used in a checkpointed function has its gradient before the function's input is asked for it.

    Outer graph: silu, checkpoint (x · w). Inner pass: the product's two gradients; w's ends in w at once.
    """
    tape, seen = Tape(), []
    with tape.playing():
        x, w = tape.parameter((), "fp32"), tape.parameter((), "fp32")
        y = Checkpointing("reentrant")(tape, lambda hidden: hidden * w, ops.silu(x))
        tape.on_node = lambda sequence: seen.append((sequence, w.grad is not None, x.grad is not None))
        backward(y)
        tape.on_node = None
        assert x.grad is not None
    # The product of the rerun was recorded last: number 2, after silu (0) and the checkpoint (1).
    assert seen == [(1, False, False), (2, False, False), (0, True, False)]


def test_a_rerun_has_an_autocast_cache_of_its_own() -> None:
    """A weight used twice is cast once in the forward pass, and once more in the rerun outside of autocast."""
    tape = Tape()

    def casts() -> int:
        return sum(one.shape == (8, 8) and one.dtype == "bf16" for one in tape.recorder.allocations)

    with tape.playing():
        x, w = tape.parameter((3, 8), "fp32"), tape.parameter((8, 8), "fp32")
        with autocast(tape, "bf16"):
            y = Checkpointing("reentrant")(tape, lambda hidden: ops.linear(ops.linear(hidden, w), w), x)
        assert casts() == 1
        made = len(tape.recorder.allocations)
        run_engine(tape, y.node, [tape.empty(y.shape, y.dtype)])
        rerun = [one for one in tape.recorder.allocations[made:] if one.op == "_to_copy" and one.dtype == "bf16"]
        assert [one.shape for one in rerun] == [(8, 8), (3, 8)]
        assert tape.autocast is None


def test_every_nth_layer_from_the_first() -> None:
    """Layers 0, n, 2n ... as the trace's job takes them; none with kind none."""
    assert [layer for layer in range(7) if Checkpointing("reentrant", 3).takes(layer)] == [0, 3, 6]
    assert not any(Checkpointing("none", 1).takes(layer) for layer in range(7))


def test_a_checkpoint_of_inputs_without_gradients_has_none() -> None:
    """Reentrant only: the function runs unrecorded, so its weights get nothing unless an input wants a gradient."""
    tape = Tape()
    with tape.playing():
        x, w = tape.empty((), "fp32"), tape.parameter((), "fp32")
        assert not Checkpointing("reentrant")(tape, lambda hidden: hidden * w, x).requires_grad
        assert Checkpointing("non-reentrant")(tape, lambda hidden: hidden * w, x).requires_grad
        mixed = Checkpointing("reentrant")(tape, lambda hidden, mask: hidden * mask, ops.silu(w), x)
        backward(mixed)
        assert w.grad is not None
        assert x.grad is None


def test_a_deep_graph_goes_before_the_tensor_it_hangs_on() -> None:
    """torch takes a graph down node by node; what a checkpoint keeps at its bottom dies before the loss does."""
    tape = Tape()
    with tape.playing():
        x = tape.parameter((), "fp32")
        kept = tape.empty((2,), "int64", op="kept")

        def layer(hidden: Sym, kept: Sym = kept) -> Sym:
            return ops.silu(hidden)

        y = Checkpointing("reentrant")(tape, layer, x)
        for _ in range(200):
            y = y * 2.0
        backward(y)
        del layer, kept
        before = tape.recorder.position
        del y
        ends = [tape.recorder.allocations[~event].op for event in tape.recorder.events[before:]]
    assert ends == ["kept", "mul"]
