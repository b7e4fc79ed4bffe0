"""Rotary position embedding as transformers computes it: unfused, from cos and sin tables."""

from __future__ import annotations

from oomph.ops.elementwise import cast, unary
from oomph.ops.indexing import cat, leading, slice_axis
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape


def rotary_tables(x: Sym, position_ids: Sym, head_dim: Size) -> tuple[Sym, Sym]:
    """Mirror LlamaRotaryEmbedding.forward: cos and sin [P, S, D] in x's dtype, computed in fp32 without gradient.

    position_ids [P, S] int64; P is 1 where all sequences have the same positions, else the batch.
    Saves nothing itself; the tables live as long as a layer's products keep them, once per model. Source: transformers,
    models/llama/modeling_llama.py.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(lambda x, positions: rotary_tables(x, positions, 64), (2, 4, 512), ids(1, 4))
    Cost(allocated=6672, saved=0, backward=0)
    """
    tape, (rows, length) = x.tape, position_ids.shape
    with tape.no_grad():
        positions = tape.empty((rows, length, 1), "fp32", op="_to_copy")
        freqs = tape.empty((rows, length, head_dim // 2), "fp32", op="mul")
        del positions
        emb = cat((freqs, freqs), -1)
        turned = unary(emb, "cos")
        cos = unary(turned, "mul")
        del turned
        turned = unary(emb, "sin")
        sin = unary(turned, "mul")
        del turned
        return cast(cos, x.dtype), cast(sin, x.dtype)


def rotary_buffers(tape: Tape, rotary_dim: Size) -> list[Sym]:
    """Return inv_freq and original_inv_freq, fp32 [D / 2] each: no parameters, not stored, but on the device.

    Source: transformers, models/llama/modeling_llama.py, LlamaRotaryEmbedding.__init__.

    >>> from oomph.tape.testing import cost, frozen
    >>> made = []
    >>> cost(lambda x: made.extend(rotary_buffers(x.tape, 64)), frozen(1))
    Cost(allocated=256, saved=0, backward=0)
    """
    return [tape.empty((rotary_dim // 2,), "fp32", op="inv_freq") for _ in range(2)]


def _rotate_half(x: Sym) -> Sym:
    """Mirror rotate_half."""
    x1 = slice_axis(x, -1, 0, x.shape[-1] // 2)
    x2 = slice_axis(x, -1, x.shape[-1] // 2, x.shape[-1])
    return cat((-x2, x1), -1)


def _unsqueeze_heads(table: Sym) -> Sym:
    """Return [P, S, D] as [P, 1, S, D]; tables have no history."""
    shape, strides = table.shape, table.strides
    return Sym((shape[0], 1, *shape[1:]), table.dtype, (strides[0], strides[0], *strides[1:]), table.storage)


def apply_rotary(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Mirror apply_rotary_pos_emb: q [B, N, S, D] and k [B, K, S, D] turned by cos and sin [P, S, D], unfused.

    Each of q and k takes five tensors of its size: a negated half and the halves joined, two products, their sum. Saves
    only the tables, for the products' backward: q and k themselves are not kept, since the tables want no gradient.
    Source: transformers, models/llama/modeling_llama.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(apply_rotary, (2, 8, 4, 64), (2, 2, 4, 64), frozen(1, 4, 64), frozen(1, 4, 64))
    Cost(allocated=46080, saved=1024, backward=46080)
    """
    cos = _unsqueeze_heads(cos)
    sin = _unsqueeze_heads(sin)
    q_embed = (q * cos) + (_rotate_half(q) * sin)
    k_embed = (k * cos) + (_rotate_half(k) * sin)
    return q_embed, k_embed


def apply_partial_rotary(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Mirror GPT-NeoX's apply_rotary_pos_emb: the first R numbers of each head are turned, the rest joined on.

    q and k [B, N, S, D], cos and sin [P, S, R]. Each of q and k takes four and a half tensors
    of R numbers per head and one of D.
    Saves only the tables; backward makes zeros of the whole q for each of its slices. Source: transformers,
    models/gpt_neox/modeling_gpt_neox.py, apply_rotary_pos_emb.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(apply_partial_rotary, (2, 8, 4, 64), (2, 8, 4, 64), frozen(1, 4, 16), frozen(1, 4, 16))
    Cost(allocated=34816, saved=256, backward=51200)
    """
    cos = _unsqueeze_heads(cos)
    sin = _unsqueeze_heads(sin)
    rotary_dim, size = cos.shape[-1], q.shape[-1]
    q_rot, q_pass = leading(q, rotary_dim), slice_axis(q, -1, rotary_dim, size)
    k_rot, k_pass = leading(k, rotary_dim), slice_axis(k, -1, rotary_dim, size)
    q_embed = (q_rot * cos) + (_rotate_half(q_rot) * sin)
    k_embed = (k_rot * cos) + (_rotate_half(k_rot) * sin)
    q_embed = cat((q_embed, q_pass), -1)
    k_embed = cat((k_embed, k_pass), -1)
    return q_embed, k_embed
