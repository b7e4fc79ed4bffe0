"""Kimi's delta rule of the package flash-linear-attention: in chunks with a backward pass, and token by token without.

As in fla.py, with a decay for each channel. Shape letters: B batch, S sequence, N heads of D, C positions of a chunk.
"""

from __future__ import annotations

from typing import Any

from oomph.ops.delta_chunks import CHUNK, chunk_states, ended, for_values, last_state, unit, zeros_for_state
from oomph.ops.elementwise import cast, grad
from oomph.ops.indexing import contiguous
from oomph.ops.kernel import let_go
from oomph.tape.autograd import Gradients, Node, like, record
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, new

BLOCK = 16  # positions of a block on a chunk's diagonal, kept in fp32
CHANNELS = 32  # that a kernel goes through at once


def fla_kimi_delta_rule(
    q: Sym, k: Sym, v: Sym, g: Sym, beta: Sym, initial_state: Sym | None = None, final: bool = False
) -> tuple[Sym, Sym | None]:
    """Return chunk_kda with use_qk_l2norm_in_kernel: [B, S, N, D] and, if asked for, the last state [B, N, D, D] in
    fp32.

    q, k, v and g [B, S, N, D], beta [B, S, N]; what does not lie in order is copied first. Saves q and k of length one
    with an fp32 number per head, v, g as it came and its running sum in fp32, beta, and two matrices [C, C] per chunk
    and head in q's dtype. Backward makes keys, values and states of chunks again, and gradients of q, k and g in fp32,
    twice. Source: fla-core 0.6, ops/kda/chunk.py, chunk_fwd.py, chunk_bwd.py, chunk_intra.py, wy_fast.py.

    >>> from oomph.tape.testing import cost, fp32
    >>> qkv, g, beta = (1, 128, 2, 64), fp32(1, 128, 2, 64), (1, 128, 2)
    >>> cost(lambda *given: fla_kimi_delta_rule(*given)[0], qkv, qkv, qkv, g, beta)
    Cost(allocated=411648, saved=297472, backward=987648)
    """
    inputs = (q, k, v, g, beta) if initial_state is None else (q, k, v, g, beta, initial_state)
    node = record("ChunkKDAFunction", inputs, _backward, outputs=1 + final)
    with q.tape.no_grad():
        given = [contiguous(each) for each in inputs]
        kept, out, state = _forward(given, final)
    return ended(node, given, kept, out, state)


def _forward(given: list[Sym], final: bool) -> tuple[list[Any], Sym, Sym | None]:
    """Return what is saved, the output and the last state."""
    q, k, v, g_input, beta, *initial = given
    q, q_rstd = unit(q)
    k, k_rstd = unit(k)
    g = like(g_input, "fp32", "empty_like")
    scores, inverse = _of_chunk(k, CHUNK, k.dtype, "empty"), _of_chunk(k, CHUNK, k.dtype, "zeros")
    diagonal = _of_chunk(k, BLOCK, "fp32", "empty")
    w, u, kg = for_values(k, v, k.dtype, "empty"), like(v, v.dtype, "empty_like"), for_values(k, v, k.dtype, "empty")
    del diagonal
    h = chunk_states(v, k.shape[-1], k.dtype)
    state = last_state(v, k.shape[-1], "new_zeros") if final else None
    v_new = like(u, u.dtype, "empty_like")
    out = like(v_new, v.dtype, "zeros_like")
    del w
    del u
    del kg
    del v_new
    del h
    kept = [q, q_rstd, k, k_rstd, v, g, g_input, beta, beta, scores, inverse, initial[0] if initial else None]
    return kept, out, state


def _of_chunk(k: Sym, width: Size, dtype: str, op: str) -> Sym:
    return new(k.tape, (*k.shape[:3], width), dtype, op=op)


def _backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    unused = zeros_for_state(node, gradients, saved)
    gradient = contiguous(grad(gradients))
    q, q_rstd, k, k_rstd, v, g, g_input, beta, _, scores, inverse, initial = saved
    width = k.shape[-1]
    w, u = for_values(k, v, k.dtype, "empty"), like(v, v.dtype, "empty_like")
    qg, kg = for_values(k, v, k.dtype, "empty"), for_values(k, v, k.dtype, "empty")
    h = chunk_states(v, width, k.dtype)
    v_new = like(u, u.dtype, "empty_like")
    of_scores = _of_chunk(k, CHUNK, "fp32", "new_empty")
    dv = like(gradient, gradient.dtype, "empty_like")
    dh = chunk_states(v, width, k.dtype)
    dh0 = None if initial is None else like(initial, "fp32", "empty_like")
    dv = like(dv, dv.dtype, "empty_like")
    dq, dk = (for_values(k, v, "fp32") for _ in range(2))
    dv2 = like(v, v.dtype, "empty_like")
    dg, db, of_inverse = (like(each, "fp32", "empty_like") for each in (g, beta, inverse))
    dv = dv2
    del dv2
    made = [*(like(each, "fp32", "empty_like") for each in (dq, dk)), *_of_blocks(beta, dg)]
    dq, dk, db, dg = made
    made.clear()
    dg = like(dg, "fp32", "empty_like")
    del w
    del u
    del qg
    del kg
    del h
    del v_new
    del of_scores
    del dh
    del of_inverse
    dq = like(q, q.dtype, "empty_like")
    dk = like(k, k.dtype, "empty_like")
    found: Gradients = [dq, dk, dv, dg, cast(db, beta.dtype), *([] if initial is None else [dh0])]
    del dq, dk, dv, dg, dh0
    let_go(saved)
    del q, q_rstd, k, k_rstd, v, g, g_input, beta, _, scores, inverse, initial
    del db
    del gradient, unused
    gradients.clear()
    return found


def _of_blocks(beta: Sym, dg: Sym) -> tuple[Sym, Sym]:
    """Return gradients of beta, summed over parts of the channels, and of decays."""
    parts = new(beta.tape, ((dg.shape[-1] + CHANNELS - 1) // CHANNELS, *beta.shape), "fp32", op="new_empty")
    made = like(dg, "fp32", "empty_like")
    total = new(beta.tape, beta.shape, "fp32", op="sum")
    del parts
    return total, made


def fla_kimi_delta_step(
    q: Sym, k: Sym, v: Sym, g: Sym, beta: Sym, initial_state: Sym, final: bool = True
) -> tuple[Sym, Sym | None]:
    """Return fused_recurrent_kda of few tokens, shaped as in chunks: the output and a new last state in fp32. It has no
    backward. Source: fla-core 0.6, ops/kda/fused_recurrent.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> qkvg = frozen(1, 1, 2, 64)
    >>> cost(fla_kimi_delta_step, qkvg, qkvg, qkvg, qkvg, frozen(1, 1, 2), frozen(1, 2, 64, 64))
    Cost(allocated=33024, saved=0, backward=0)
    """
    given = [contiguous(each) for each in (q, k, v, g, beta, initial_state)]
    out = like(given[2], v.dtype, "zeros_like")
    state = last_state(v, k.shape[-1], "new_empty") if final else None
    while given:
        given.pop()
    return out, state
