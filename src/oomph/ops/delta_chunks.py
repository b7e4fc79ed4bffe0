"""What the delta rules of flash-linear-attention have in common: their beginnings, their ends, states of chunks.

Shape letters: B batch, S sequence, V value heads, N chunks, D key head dim, E value head dim.
"""

from __future__ import annotations

from typing import Any

from oomph.ops.kernel import end_kept
from oomph.tape.autograd import Gradients, Node, like, made_by, save
from oomph.tape.sizes import Size, product
from oomph.tape.sym import Sym, new

CHUNK = 64  # positions; the functions' default


def ended(node: Node | None, given: list[Sym], kept: list[Any], out: Sym, state: Sym | None) -> tuple[Sym, Sym | None]:
    """End a forward: the copies of its arguments, then what was saved."""
    while given:
        given.pop()
    save(node, *kept)
    if node is not None:
        node.in_python, node.context = True, out.tape.autocast is not None and not out.tape.autocast_paused
    end_kept(kept, node)
    return made_by(out, node), state if state is None else made_by(state, node, 1)


def unit(x: Sym) -> tuple[Sym, Sym]:
    """Mirror l2norm_fwd: x [.., D] of length one, and an fp32 number per vector."""
    made = like(x, x.dtype, "empty_like")
    return made, new(x.tape, (product(x.shape[:-1]),), "fp32", op="empty")


def chunk_states(v: Sym, key_dim: Size, dtype: str) -> Sym:
    """Return a state [B, N, V, D, E] per chunk and head."""
    batch, length, heads, width = v.shape
    return new(v.tape, (batch, (length + CHUNK - 1) // CHUNK, heads, key_dim, width), dtype, op="new_empty")


def last_state(v: Sym, key_dim: Size, op: str) -> Sym:
    """Return a state [B, V, D, E] in fp32."""
    return new(v.tape, (v.shape[0], v.shape[2], key_dim, v.shape[3]), "fp32", op=op)


def for_values(k: Sym, v: Sym, dtype: str, op: str = "new_empty") -> Sym:
    """Return something of keys for each value head: [B, S, V, D]."""
    return new(k.tape, (*v.shape[:3], k.shape[-1]), dtype, op=op)


def zeros_for_state(node: Node, gradients: Gradients, saved: list[Any]) -> Sym | None:
    """Return the gradient of zeros that torch makes for a last state of which nothing came."""
    if node.outputs == 1 or gradients[1] is not None:
        return None
    return last_state(saved[4], saved[2].shape[-1], "zeros")
