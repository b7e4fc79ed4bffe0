"""A map with an adapter on the tape, as scripts/record_*_golden.py run the real ones: forward and backward."""

from __future__ import annotations

from oomph.blocks.base import Block
from oomph.tape import Tape
from oomph.tape.autograd import run_engine
from oomph.tape.bound import Bound
from oomph.tape.sym import new
from oomph.tape.tape import autocast


def played(
    block: Block, dtype: str, shape: tuple[int, ...], input_dtype: str, low: str | None
) -> tuple[list[int], list[int]]:
    """Return the bytes of each allocation, and events: n allocates, ~n frees; under autocast to `low`, if any."""
    tape = Tape("trace")
    with tape.playing():
        bound = Bound(block, tape, dtype)
        x = tape.empty(shape, input_dtype)
        x.requires_grad = True
        before, start = len(tape.recorder.allocations), len(tape.recorder.events)
        with autocast(tape, low):
            h = x * 1.0
            out = bound(h)
            del h
        gradient = new(tape, out.shape, out.dtype)
        with tape.no_grad():
            run_engine(tape, out.node, [gradient])
        del out, gradient
        events = tape.recorder.events[start:]
    sizes = [one.n_bytes for one in tape.recorder.allocations[before:]]
    return sizes, [at - before if at >= 0 else at + before for at in events]
