"""The ways in which families turn queries and keys: how many channels, which pairs, in which dtype.

q [B, N, S, D], k [B, K, S, D], tables cos and sin [P, S, R] of the R channels that are turned. What a checkpoint holds
does not tell these apart, what a layer keeps does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from oomph.ops.elementwise import cast, wider
from oomph.ops.fused import liger_rotary, unsloth_rotary
from oomph.ops.indexing import view
from oomph.ops.joining import cat, stack_last
from oomph.ops.rotary import apply_partial_rotary, apply_rotary, rotate_half, unsqueeze_heads
from oomph.ops.slices import every_other, part
from oomph.ops.unsloth import unsloth_rotary_both
from oomph.tape.sym import Sym, new


def joined(tensors: Sequence[Sym]) -> Sym:
    """Return torch.cat(tensors, -1): one new tensor of the widest dtype, nothing is cast before.

    Saves nothing. Source: ATen/native/TensorShape.cpp, cat; autocast leaves its arguments alone on CUDA.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(lambda a, b: joined([a, b]), fp32(4, 128), (4, 128)).allocated
    4096
    """
    return cat(tensors, -1, reduce(wider, [one.dtype for one in tensors]))


def rotary_olmo(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Mirror OLMo's apply_rotary_pos_emb: Llama's with tables in fp32, so that products are, cast back at the end.

    Each of q and k takes two tensors of its size, three in fp32 and the cast. Saves only the tables. Source:
    transformers 5.23, models/olmo2/modeling_olmo2.py.

    >>> from oomph.tape.testing import Given, cost
    >>> table = Given((1, 4, 64), "fp32", trains=False)
    >>> cost(rotary_olmo, (2, 8, 4, 64), (2, 2, 4, 64), table, table)
    Cost(allocated=87040, saved=2048, backward=107520)
    """
    q_type, k_type = q.dtype, k.dtype
    cos = unsqueeze_heads(cos)
    sin = unsqueeze_heads(sin)
    q_embed = (q * cos) + (rotate_half(q) * sin)
    k_embed = (k * cos) + (rotate_half(k) * sin)
    return cast(q_embed, q_type), cast(k_embed, k_type)


def rotary_phi3(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Mirror Phi-3's apply_rotary_pos_emb: the first channels of a head, as many as the tables have, are turned, the
    others put behind them, which copies all even if there are none.

    Saves only the tables; backward makes the whole of q and k again for each of their two parts. Source: transformers
    5.23, models/phi3/modeling_phi3.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(rotary_phi3, (2, 8, 4, 64), (2, 2, 4, 64), frozen(1, 4, 32), frozen(1, 4, 32))
    Cost(allocated=33280, saved=512, backward=43520)
    """
    cos = unsqueeze_heads(cos)
    sin = unsqueeze_heads(sin)
    rotary_dim = cos.shape[-1]
    q_rot, q_pass = part(q, 0, rotary_dim), part(q, rotary_dim, q.shape[-1])
    k_rot, k_pass = part(k, 0, rotary_dim), part(k, rotary_dim, k.shape[-1])
    q_embed = joined([(q_rot * cos) + (rotate_half(q_rot) * sin), q_pass])
    k_embed = joined([(k_rot * cos) + (rotate_half(k_rot) * sin), k_pass])
    return q_embed, k_embed


def rotary_nemotron(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Mirror Nemotron's apply_rotary_pos_emb: Phi-3's, but parts are put together after all are turned.

    Saves only the tables. Source: transformers 5.23, models/nemotron/modeling_nemotron.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(rotary_nemotron, (2, 8, 4, 64), (2, 2, 4, 64), frozen(1, 4, 32), frozen(1, 4, 32)).allocated
    33280
    """
    cos = unsqueeze_heads(cos)
    sin = unsqueeze_heads(sin)
    rot_dim = cos.shape[-1]
    q, q_pass = part(q, 0, rot_dim), part(q, rot_dim, q.shape[-1])
    k, k_pass = part(k, 0, rot_dim), part(k, rot_dim, k.shape[-1])
    q_embed = (q * cos) + (rotate_half(q) * sin)
    k_embed = (k * cos) + (rotate_half(k) * sin)
    return joined([q_embed, q_pass]), joined([k_embed, k_pass])


def _rotate_pairs(x: Sym) -> Sym:
    """Mirror the rotate_half of models that turn neighbouring channels: stacked, then flattened."""
    x1 = every_other(x, 0)
    x2 = every_other(x, 1)
    return view(stack_last([-x2, x1]), x.shape)


def _doubled(table: Sym) -> Sym:
    """Mirror table[..., : D // 2].repeat_interleave(2, dim=-1): a copy, of a table that has no history."""
    return new(table.tape, table.shape, table.dtype, op="repeat_interleave")


def rotary_helium(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Mirror Helium's apply_rotary_pos_emb: neighbouring channels are turned, with tables rearranged in every layer.

    Saves the layer's own tables, which Llama's layers share. Source: transformers 5.23,
    models/helium/modeling_helium.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(rotary_helium, (2, 8, 4, 64), (2, 2, 4, 64), frozen(1, 4, 64), frozen(1, 4, 64))
    Cost(allocated=47104, saved=1024, backward=46080)
    """
    cos = unsqueeze_heads(cos)
    sin = unsqueeze_heads(sin)
    cos = _doubled(cos)
    sin = _doubled(sin)
    q_embed = (q * cos) + (_rotate_pairs(q) * sin)
    k_embed = (k * cos) + (_rotate_pairs(k) * sin)
    return q_embed, k_embed


def rotary_glm(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Mirror GLM's apply_rotary_pos_emb: Helium's on the first channels of a head, the others put behind them.

    Saves the layer's own tables. Source: transformers 5.23, models/glm/modeling_glm.py, models/glm4/modeling_glm4.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(rotary_glm, (2, 8, 4, 64), (2, 2, 4, 64), frozen(1, 4, 32), frozen(1, 4, 32))
    Cost(allocated=33792, saved=512, backward=43520)
    """
    cos = unsqueeze_heads(cos)
    sin = unsqueeze_heads(sin)
    cos = _doubled(cos)
    sin = _doubled(sin)
    return _turned_in_part(q, k, cos, sin)


def rotary_glm4v(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Mirror GLM-4V's apply_rotary_pos_emb: GLM's, with tables that are as wide as what they turn.

    Saves only the tables. Source: transformers 5.23, models/glm4v/modeling_glm4v.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(rotary_glm4v, (2, 8, 4, 64), (2, 2, 4, 64), frozen(1, 4, 32), frozen(1, 4, 32))
    Cost(allocated=33280, saved=512, backward=43520)
    """
    cos = unsqueeze_heads(cos)
    sin = unsqueeze_heads(sin)
    return _turned_in_part(q, k, cos, sin)


def _turned_in_part(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Return q and k with pairs of their first channels turned, as many as the tables have."""
    rotary_dim = cos.shape[-1]
    q_rot, q_pass = part(q, 0, rotary_dim), part(q, rotary_dim, q.shape[-1])
    k_rot, k_pass = part(k, 0, rotary_dim), part(k, rotary_dim, k.shape[-1])
    q_embed = (q_rot * cos) + (_rotate_pairs(q_rot) * sin)
    k_embed = (k_rot * cos) + (_rotate_pairs(k_rot) * sin)
    q_embed = joined([q_embed, q_pass])
    k_embed = joined([k_embed, k_pass])
    return q_embed, k_embed


def rotary_cohere(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Mirror Cohere's apply_rotary_pos_emb: neighbouring channels are turned in fp32, the result cast back.

    Each of q and k takes six fp32 tensors of its size and the cast. Saves only the tables. Source: transformers 5.23,
    models/cohere/modeling_cohere.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(rotary_cohere, (2, 8, 4, 64), (2, 2, 4, 64), frozen(1, 4, 64), frozen(1, 4, 64))
    Cost(allocated=122880, saved=1024, backward=122880)
    """
    dtype = q.dtype
    q = cast(q, "fp32")
    k = cast(k, "fp32")
    cos = unsqueeze_heads(cos)
    sin = unsqueeze_heads(sin)
    q_embed = (q * cos) + (_rotate_pairs(q) * sin)
    k_embed = (k * cos) + (_rotate_pairs(k) * sin)
    return cast(q_embed, dtype), cast(k_embed, dtype)


def rotary_ernie(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Mirror ERNIE-4.5's apply_rotary_pos_emb: Helium's with fp32 tables, both factors cast to fp32, the result back.

    Saves the layer's own tables. Source: transformers 5.23, models/ernie4_5/modeling_ernie4_5.py.

    >>> from oomph.tape.testing import Given, cost
    >>> table = Given((1, 4, 64), "fp32", trains=False)
    >>> cost(rotary_ernie, (2, 8, 4, 64), (2, 2, 4, 64), table, table).saved
    2048
    """
    original_dtype = q.dtype
    cos = unsqueeze_heads(cos)
    sin = unsqueeze_heads(sin)
    cos = _doubled(cos)
    sin = _doubled(sin)
    q_embed = (cast(q, "fp32") * cos) + (cast(_rotate_pairs(q), "fp32") * sin)
    k_embed = (cast(k, "fp32") * cos) + (cast(_rotate_pairs(k), "fp32") * sin)
    return cast(q_embed, original_dtype), cast(k_embed, original_dtype)


def rotary_modernbert(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Mirror ModernBERT's apply_rotary_pos_emb: Llama's, each factor cast to fp32, the result back.

    Saves only the tables. Source: transformers 5.23, models/modernbert/modeling_modernbert.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(rotary_modernbert, (2, 8, 4, 64), (2, 8, 4, 64), frozen(1, 4, 64), frozen(1, 4, 64)).saved
    1024
    """
    original_dtype = q.dtype
    cos = unsqueeze_heads(cos)
    sin = unsqueeze_heads(sin)
    q_embed = (cast(q, "fp32") * cos) + (rotate_half(cast(q, "fp32")) * sin)
    k_embed = (cast(k, "fp32") * cos) + (rotate_half(cast(k, "fp32")) * sin)
    return cast(q_embed, original_dtype), cast(k_embed, original_dtype)


def rotary_nanochat(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Mirror nanochat's apply_rotary_pos_emb: Llama's turned the other way, the first half negated behind the second.

    Saves only the tables. Source: transformers 5.23, models/nanochat/modeling_nanochat.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(rotary_nanochat, (2, 8, 4, 64), (2, 2, 4, 64), frozen(1, 4, 64), frozen(1, 4, 64))
    Cost(allocated=46080, saved=1024, backward=46080)
    """
    cos = unsqueeze_heads(cos)
    sin = unsqueeze_heads(sin)
    q_embed = (q * cos) + (_rotate_half_back(q) * sin)
    k_embed = (k * cos) + (_rotate_half_back(k) * sin)
    return q_embed, k_embed


def _rotate_half_back(x: Sym) -> Sym:
    """Mirror nanochat's rotate_half."""
    half = x.shape[-1] // 2
    x1 = part(x, 0, half)
    x2 = part(x, half, x.shape[-1])
    return cat((x2, -x1), -1)


def apply_rotary_trailing(x: Sym, cos: Sym, sin: Sym) -> Sym:
    """Mirror DeepSeek-V4's apply_rotary_pos_emb: the last R channels of x [B, N, S, D] turned as pairs in fp32 by cos
    and sin [P, S, R / 2], which are widened for it, and put behind the others.

    Saves the widened tables: x itself is not kept. Source: transformers 5.23,
    models/deepseek_v4/modeling_deepseek_v4.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(apply_rotary_trailing, (2, 8, 4, 64), frozen(1, 4, 8), frozen(1, 4, 8)).saved
    256
    """
    cos = unsqueeze_heads(_each_twice(cos))
    sin = unsqueeze_heads(_each_twice(sin))
    rope_dim, size = cos.shape[-1], x.shape[-1]
    nope, rope = part(x, 0, size - rope_dim), part(x, size - rope_dim, size)
    rotated = cast((cast(rope, "fp32") * cos) + (cast(_rotate_pairs(rope), "fp32") * sin), x.dtype)
    return cat([nope, rotated], -1)


def _each_twice(table: Sym) -> Sym:
    """Mirror table.repeat_interleave(2, dim=-1): a copy, of a table that has no history."""
    return new(table.tape, (*table.shape[:-1], table.shape[-1] * 2), table.dtype, op="repeat_interleave")


ROTARY: dict[str, Callable[[Sym, Sym, Sym, Sym], tuple[Sym, Sym]]] = {
    "llama": apply_rotary,
    "olmo": rotary_olmo,
    "phi3": rotary_phi3,
    "nemotron": rotary_nemotron,
    "helium": rotary_helium,
    "glm": rotary_glm,
    "glm4v": rotary_glm4v,
    "cohere": rotary_cohere,
    "ernie4_5": rotary_ernie,
    "modernbert": rotary_modernbert,
    "nanochat": rotary_nanochat,
    "partial": apply_partial_rotary,
    "liger": liger_rotary,
    "liger in fp32": liger_rotary,
    "foak": unsloth_rotary,
    "unsloth": unsloth_rotary_both,
}
FP32_TABLES = ("olmo", "ernie4_5", "liger in fp32")


def rotate(kind: str, q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Return q and k turned as a family does it: its apply_rotary_pos_emb. Saves what that one saves.

    Source: transformers 5.23, models/<kind>.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda *args: rotate("llama", *args), (2, 8, 4, 64), (2, 2, 4, 64), *[frozen(1, 4, 64)] * 2).saved
    1024
    """
    return ROTARY[kind](q, k, cos, sin)
