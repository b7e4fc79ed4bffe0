"""What the delta rules of flash-linear-attention have in common: their beginnings, their ends, states of chunks.

Shape letters: B batch, S sequence, V value heads, N chunks, D key head dim, E value head dim.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from oomph.ops.kernel import end_kept, run
from oomph.tape.autograd import Gradients, Node, like, made_by, save
from oomph.tape.sizes import Size, product
from oomph.tape.sym import Sym, new
from oomph.tape.tape import Tape
from oomph.workspaces import OUTPUTS, Buffer, Freed

CHUNK = 64  # positions; the functions' default
REMEMBERED = 4  # results of each function: FLA_TENSOR_CACHE_SIZE


@dataclass(frozen=True)
class Call:
    """What a backward pass knows of its forward: whether autocast was on, and where sequences begin, int32
    [sequences + 1], if they are told apart: that very tensor, as checkpoints hand back what wants no gradient.
    """

    autocast: bool
    lengths: Sym | None


def ended(
    node: Node | None, given: list[Sym], kept: list[Any], out: Sym, state: Sym | None, lengths: Sym | None = None
) -> tuple[Sym, Sym | None]:
    """End a forward: the copies of its arguments, then what was saved."""
    while given:
        given.pop()
    save(node, *kept)
    if node is not None:
        casts = out.tape.autocast is not None and not out.tape.autocast_paused
        node.in_python, node.context = True, Call(casts, lengths)
    end_kept(kept, node)
    return made_by(out, node), state if state is None else made_by(state, node, 1)


def unit(x: Sym) -> tuple[Sym, Sym]:
    """Mirror l2norm_fwd: x [.., D] of length one, and an fp32 number per vector."""
    made = like(x, x.dtype, "empty_like")
    return made, new(x.tape, (product(x.shape[:-1]),), "fp32", op="empty")


def chunk_states(v: Sym, key_dim: Size, dtype: str, chunks: Size | None = None) -> Sym:
    """Return a state [B, N, V, D, E] per chunk and head, of as many chunks as a row has unless they are counted."""
    batch, length, heads, width = v.shape
    count = (length + CHUNK - 1) // CHUNK if chunks is None else chunks
    return new(v.tape, (batch, count, heads, key_dim, width), dtype, op="new_empty")


def last_state(v: Sym, key_dim: Size, op: str, lengths: Sym | None = None) -> Sym:
    """Return a state [B, V, D, E] in fp32, of each sequence where they are told apart."""
    rows = v.shape[0] if lengths is None else lengths.shape[0] - 1
    return new(v.tape, (rows, v.shape[2], key_dim, v.shape[3]), "fp32", op=op)


def for_values(k: Sym, v: Sym, dtype: str, op: str = "new_empty") -> Sym:
    """Return something of keys for each value head: [B, S, V, D]."""
    return new(k.tape, (*v.shape[:3], k.shape[-1]), dtype, op=op)


def zeros_for_state(node: Node, gradients: Gradients, saved: list[Any]) -> Sym | None:
    """Return the gradient of zeros that torch makes for a last state of which nothing came."""
    if node.outputs == 1 or gradients[1] is not None:
        return None
    return last_state(saved[4], saved[2].shape[-1], "zeros", node.context.lengths)


def chunks_of(tokens: Size, sequences: Size) -> Size:
    """Return how many chunks a row of sequences has that are all as long as the longest of them.

    >>> chunks_of(4096, 4), chunks_of(4096, 3)
    (64, 66)
    """
    longest = (tokens + sequences - 1) // sequences
    return sequences * ((longest + CHUNK - 1) // CHUNK)


def leave_memos(tape: Tape, batches: int, tokens: Size) -> None:
    """Put there what is still remembered of a step's last micro-batches of so many tokens."""
    for _ in range(min(batches, REMEMBERED)):
        lengths = new(tape, (tape.sequences + 1,), "int32", op="cu_seq_lens")
        chunk_indices(lengths, chunks_of(tokens, tape.sequences))
        chunk_offsets(lengths)


def chunk_indices(lengths: Sym, chunks: Size) -> Sym:
    """Mirror prepare_chunk_indices: of each chunk its sequence and its place in it, [N, 2] int32.

    `lengths` say where sequences begin, int32 [sequences + 1]. Source: fla-core 0.6, ops/utils/index.py.
    """
    return _remembered("chunk_indices", lengths, lambda: _indices(lengths, chunks))


def chunk_offsets(lengths: Sym) -> Sym:
    """Mirror prepare_chunk_offsets: how many chunks come before each sequence, int64 [sequences + 1]."""
    return _remembered("chunk_offsets", lengths, lambda: _offsets(lengths))


def _remembered(name: str, of: Sym, make: Callable[[], Sym]) -> Sym:
    """Return what a function made of this very tensor, if that is among the last ones (tensor_cache)."""
    known = of.tape.memos.setdefault(name, deque(maxlen=REMEMBERED))
    for argument, result in known:
        if argument is of:
            return result
    made = make()
    known.append((of, made))
    return made


def _lens(lengths: Sym) -> Sym:
    count = lengths.shape[0] - 1
    return _remembered("lens", lengths, lambda: new(lengths.tape, (count,), lengths.dtype, op="sub"))


def _indices(lengths: Sym, chunks: Size) -> Sym:
    tape = lengths.tape

    def made(count: Size, dtype: str, op: str) -> Sym:
        return new(tape, (count,), dtype, op=op)

    lens = _lens(lengths)
    sequences = lens.shape[0]
    rounded = made(sequences, "int32", "add")
    counts = made(sequences, "int32", "div")
    del rounded
    numbers = made(sequences, "int32", "arange")
    steps = (Buffer("cumsum", (sequences,), "int64"), OUTPUTS, Freed("cumsum"))
    repeated = run(tape, steps, lambda: made(chunks, "int32", "repeat_interleave"))
    of_sequence = made(chunks, "int32", "index_select")
    del repeated, numbers
    ends = made(sequences, "int64", "cumsum")
    begins = made(sequences + 1, "int64", "constant_pad_nd")
    del ends
    every = made(chunks, "int32", "arange")
    begin = made(chunks, "int64", "index")
    within = made(chunks, "int64", "sub")
    del every, begin
    del begins
    both = new(tape, (chunks, 2), "int64", op="stack")
    found = new(tape, (chunks, 2), "int32", op="_to_copy")
    del both
    del counts
    del of_sequence
    del within
    return found


def _offsets(lengths: Sym) -> Sym:
    tape, lens = lengths.tape, _lens(lengths)
    more = new(tape, lens.shape, "int32", op="add")
    less = new(tape, lens.shape, "int32", op="sub")
    del more
    counts = new(tape, lens.shape, "int32", op="floor_divide")
    del less
    padded = new(tape, lengths.shape, "int32", op="constant_pad_nd")
    del counts
    found = new(tape, lengths.shape, "int64", op="cumsum")
    del padded
    return found
