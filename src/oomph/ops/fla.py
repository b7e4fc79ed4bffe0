"""The delta rules of the package flash-linear-attention: in chunks with a backward pass, and token by token without.

Their kernels are launched from Python, so all that is allocated is in the Python code. Backward makes the states of
chunks again. Shape letters: B batch, S sequence, K key heads, V value heads, N chunks of C positions, D key head dim, E
value head dim.
"""

from __future__ import annotations

from typing import Any

from oomph.ops.delta_chunks import (
    CHUNK,
    chunk_indices,
    chunk_offsets,
    chunk_states,
    chunks_of,
    ended,
    for_values,
    last_state,
    unit,
    zeros_for_state,
)
from oomph.ops.elementwise import grad
from oomph.ops.indexing import contiguous
from oomph.ops.kernel import let_go
from oomph.tape.autograd import Gradients, Node, like, record
from oomph.tape.sizes import yes
from oomph.tape.sym import Sym, new

WIDEST = 128  # key head dims that a kernel of the H100 goes through at once


def fla_gated_delta_rule(
    q: Sym,
    k: Sym,
    v: Sym,
    g: Sym,
    beta: Sym,
    initial_state: Sym | None = None,
    final: bool = False,
    lengths: Sym | None = None,
) -> tuple[Sym, Sym | None]:
    """Return chunk_gated_delta_rule with use_qk_l2norm_in_kernel: [B, S, V, E] and, if asked for, the last state
    [B, V, D, E] in fp32.

    q and k [B, S, K, D], v [B, S, V, E], g and beta [B, S, V]; what does not lie in order is copied first. Saves q and
    k of length one with an fp32 number per head, v, the running sum of g in fp32, beta and one inverse [C, C] per chunk
    and head in q's dtype. Beside it are in q's dtype, for a moment: keys and values of all heads, new values, a state
    [D, E] per chunk. Backward makes these again, beside them gradients of all of them; key heads' are summed over the
    value heads they serve. `lengths`, where sequences of one row begin, int32 [sequences + 1], make chunks and last
    states of each, all taken to be as long as the longest, and tables of some bytes per chunk. Source: fla-core 0.6,
    ops/gated_delta_rule/chunk.py, chunk_fwd.py, wy_fast.py, ops/common/chunk_delta_h.py, chunk_o.py.

    >>> from oomph.tape.testing import cost, fp32
    >>> qk, v, g, beta = (1, 128, 2, 64), (1, 128, 4, 64), fp32(1, 128, 4), (1, 128, 4)
    >>> cost(lambda *given: fla_gated_delta_rule(*given)[0], qk, qk, v, g, beta)
    Cost(allocated=462848, saved=201728, backward=959488)
    """
    inputs = (q, k, v, g, beta) if initial_state is None else (q, k, v, g, beta, initial_state)
    node = record("ChunkGatedDeltaRuleFunction", inputs, _gated_backward, outputs=1 + final)
    with q.tape.no_grad():
        given = [contiguous(each) for each in inputs]
        kept, out, state = _gated_forward(given, final, lengths)
    return ended(node, given, kept, out, state, lengths)


def _gated_forward(given: list[Sym], final: bool, lengths: Sym | None) -> tuple[list[Any], Sym, Sym | None]:
    """Return what is saved, the output and the last state."""
    q, k, v, g, beta, *initial = given
    q, q_rstd = unit(q)
    k, k_rstd = unit(k)
    chunks = None if lengths is None else chunks_of(v.shape[1], lengths.shape[0] - 1)
    table = None if lengths is None or chunks is None else chunk_indices(lengths, chunks)
    g = like(g, "fp32", "empty_like")
    inverse = new(k.tape, (*v.shape[:3], CHUNK), k.dtype, op="zeros")
    w, u = for_values(k, v, k.dtype), like(v, v.dtype, "empty_like")
    if lengths is not None:
        chunk_offsets(lengths)
    h = chunk_states(v, k.shape[-1], k.dtype, chunks)
    state = last_state(v, k.shape[-1], "new_zeros", lengths) if final else None
    v_new = like(u, u.dtype, "empty_like")
    out = like(v_new, v.dtype, "empty_like")
    del w
    del u
    del h
    del v_new
    h0 = initial[0] if initial else None
    return [q, q_rstd, k, k_rstd, v, g, beta, beta, inverse, h0, lengths, table], out, state


def _gated_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    unused = zeros_for_state(node, gradients, saved)
    gradient = contiguous(grad(gradients))
    q, q_rstd, k, k_rstd, v, g, beta, _, inverse, initial, lengths, table = saved
    tape, width = q.tape, k.shape[-1]
    chunks = None if lengths is None else chunks_of(v.shape[1], lengths.shape[0] - 1)
    w, u = for_values(k, v, k.dtype), like(v, v.dtype, "empty_like")
    if lengths is not None:
        chunk_offsets(node.context.lengths)
    h = chunk_states(v, width, k.dtype, chunks)
    v_new = like(u, u.dtype, "empty_like")
    dv = like(gradient, gradient.dtype, "empty_like")
    dh = chunk_states(v, width, q.dtype, chunks)
    dh0 = None if initial is None else like(initial, "fp32", "empty_like")
    dv = like(dv, dv.dtype, "empty_like")
    dq, dk = for_values(k, v, q.dtype), for_values(k, v, k.dtype)
    parts = new(tape, (1 if yes(width <= WIDEST) else 2, *g.shape), "fp32", op="empty")
    dw = like(w, w.dtype, "empty_like")
    dq = _over_values(dq, k, node)
    dk = _over_values(dk, k, node)
    dg = new(tape, g.shape, "fp32", op="sum")
    del parts
    dk2, made, dg2, db = _of_wy(k, v, g, beta, node)
    dv = made
    del made
    dg = like(dg, "fp32", "empty_like")
    del w
    del u
    del h
    del v_new
    del dh
    del dw
    del dk2
    del dg2
    dq = like(q, q.dtype, "empty_like")
    dk = like(k, k.dtype, "empty_like")
    found: Gradients = [dq, dk, dv, dg, db, *([] if initial is None else [dh0])]
    del dq, dk, dv, dg, db, dh0
    let_go(saved)
    del q, q_rstd, k, k_rstd, v, g, beta, _, inverse, initial, lengths, table
    del gradient, unused
    gradients.clear()
    return found


def _over_values(gradient: Sym, k: Sym, node: Node) -> Sym:
    """Return a gradient [B, S, V, D] summed over the value heads of each key head, which autocast does in fp32."""
    if yes(gradient.shape[2] == k.shape[2]):
        return gradient
    return new(k.tape, k.shape, "fp32" if node.context.autocast else gradient.dtype, op="sum")


def _of_wy(k: Sym, v: Sym, g: Sym, beta: Sym, node: Node) -> tuple[Sym, Sym, Sym, Sym]:
    """Mirror prepare_wy_repr_bwd: gradients of keys, values, decay and beta."""
    dk = for_values(k, v, k.dtype)
    dv, dg, db = (like(each, each.dtype, "empty_like") for each in (v, g, beta))
    return _over_values(dk, k, node), dv, dg, db


def fla_gated_delta_step(
    q: Sym, k: Sym, v: Sym, g: Sym, beta: Sym, initial_state: Sym, final: bool = True
) -> tuple[Sym, Sym | None]:
    """Return fused_recurrent_gated_delta_rule of few tokens, shaped as in chunks: the output and a new last state in
    fp32. It has no backward. Source: fla-core 0.6, ops/gated_delta_rule/fused_recurrent.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> qk, v = frozen(1, 1, 2, 64), frozen(1, 1, 4, 64)
    >>> cost(fla_gated_delta_step, qk, qk, v, frozen(1, 1, 4), frozen(1, 1, 4), frozen(1, 4, 64, 64))
    Cost(allocated=66048, saved=0, backward=0)
    """
    given = [contiguous(each) for each in (q, k, v, g, beta, initial_state)]
    out = like(given[2], v.dtype, "empty_like")
    state = last_state(v, k.shape[-1], "new_empty") if final else None
    while given:
        given.pop()
    return out, state
