"""Rotary position embedding as transformers computes it: unfused, from cos and sin tables."""

from __future__ import annotations

from collections.abc import Callable

from oomph.ops.elementwise import cast, unary
from oomph.ops.joining import cat
from oomph.ops.slices import every_other, part, slice_axis, split
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, view_of
from oomph.tape.tape import Tape


def rotary_tables(x: Sym, position_ids: Sym, head_dim: Size, dtype: str | None = None) -> tuple[Sym, Sym]:
    """Mirror LlamaRotaryEmbedding.forward: cos and sin [P, S, D] in x's dtype, or another, computed in fp32 without
    gradient.

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
        cos, sin = _of_angles(emb)
        return cast(cos, dtype or x.dtype), cast(sin, dtype or x.dtype)


def rotary_tables_2d(position_ids: Sym, head_dim: Size, per_axis: Size, dtype: str = "fp32") -> tuple[Sym, Sym]:
    """Mirror PixtralVisionRotaryEmbedding.forward, and Qwen2_5_VLVisionRotaryEmbedding's: cos and sin [T, D] of rows
    and columns [T, 2] with angles [T, 2, per_axis], in fp32 without gradient.

    Saves nothing itself. Source: transformers 5.23, models/pixtral/modeling_pixtral.py,
    models/qwen2_5_vl/modeling_qwen2_5_vl.py.

    Positions are 6·2·4 B, angles and four of their cosines and sines 6·2·16·4 B each, half a table 6·32·4 B.
    >>> from oomph.tape.testing import cost, ids
    >>> cost(lambda positions: rotary_tables_2d(positions, 64, 16), ids(6, 2))
    Cost(allocated=8496, saved=0, backward=0)
    """
    tape, total = position_ids.tape, position_ids.shape[0]

    def both(freq: Sym) -> Sym:
        freq_hw = tape.empty((total, head_dim // 2), "fp32", op="cat")
        return cat((freq_hw, freq_hw), -1)

    with tape.no_grad():
        positions = tape.empty((*position_ids.shape, 1), "fp32", op="_to_copy")
        freqs = tape.empty((*position_ids.shape, per_axis), "fp32", op="mul")
        del positions
        cos, sin = _of_angles(freqs)
        cos = both(cos)
        sin = both(sin)
        return cast(cos, dtype), cast(sin, dtype)


def _of_angles(angles: Sym) -> tuple[Sym, Sym]:
    """Return the cosine and the sine of angles, each scaled out of place."""
    turned = unary(angles, "cos")
    cos = unary(turned, "mul")
    del turned
    turned = unary(angles, "sin")
    sin = unary(turned, "mul")
    del turned
    return cos, sin


def rotary_tables_anew(x: Sym, position_ids: Sym, head_dim: Size, longrope: bool = False) -> tuple[Sym, Sym]:
    """Mirror PhimoeRotaryEmbedding.forward: cos and sin [P, S, D] in x's dtype, of frequencies made in each forward
    pass in host memory, of which a GPU knows the copy alone; with LongRoPE the longest sequence is looked at.

    Saves nothing itself. Source: transformers 5.23, models/phimoe/modeling_phimoe.py.

    Two int64 numbers, the frequencies, and what rotary_tables makes.
    >>> from oomph.tape.testing import cost, ids
    >>> cost(lambda x, positions: rotary_tables_anew(x, positions, 64), (2, 4, 512), ids(1, 4)).allocated
    6816
    """
    tape, (rows, length) = x.tape, position_ids.shape
    half = (head_dim // 2,)
    with tape.no_grad():
        longest = tape.empty((), "int64", op="max")
        seq_len = tape.empty((), "int64", op="add")
        del longest
        if longrope:
            longer = tape.empty((), "bool", op="gt")
            del longer
        inv_freq = None
        if tape.on != "gpu":
            inv_freq = longrope_frequencies(tape, head_dim) if longrope else _frequencies(tape, head_dim)
        positions = tape.empty((rows, length, 1), "fp32", op="_to_copy")
        copied = tape.empty(half, "fp32", op="_to_copy") if tape.on == "gpu" else None
        freqs = tape.empty((rows, length, *half), "fp32", op="mul")
        del positions, copied
        emb = cat((freqs, freqs), -1)
        cos, sin = _of_angles(emb)
        tables = cast(cos, x.dtype), cast(sin, x.dtype)
        del seq_len, inv_freq
        return tables


def _frequencies(tape: Tape, size: Size) -> Sym:
    """Mirror compute_default_rope_parameters: 1.0 / base ** (torch.arange(0, D, 2, dtype=torch.float) / D)."""
    half = (size // 2,)
    positions = tape.empty(half, "fp32", op="arange")
    share = tape.empty(half, "fp32", op="div")
    del positions
    power = tape.empty(half, "fp32", op="pow")
    del share
    reciprocal = tape.empty(half, "fp32", op="reciprocal")
    inv_freq = tape.empty(half, "fp32", op="mul")
    del reciprocal, power
    return inv_freq


SECTIONS = 3  # time, height and width


def section_tables(x: Sym, position_ids: Sym, head_dim: Size) -> tuple[Sym, Sym]:
    """Mirror Qwen3_5TextRotaryEmbedding.forward: cos and sin [B, S, D] in x's dtype, of positions of time, height and
    width, whose sections are written over those of time.

    x [B, S, H]; position_ids [P, S] int64, in text the same for all three axes. Saves nothing itself. Source:
    transformers 5.23, models/qwen3_5/modeling_qwen3_5.py.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(lambda x, positions: section_tables(x, positions, 64), (2, 4, 512), ids(1, 4)).allocated
    21600
    """
    batch, length = x.shape[:2]
    grid = Sym((SECTIONS, batch, length), position_ids.dtype, (0, 0, 1), position_ids.storage)
    return rotary_tables_3d(x, grid, head_dim, interleaved=True)


def rotary_tables_3d(x: Sym, position_ids: Sym, head_dim: Size, interleaved: bool) -> tuple[Sym, Sym]:
    """Mirror Qwen2_5_VLRotaryEmbedding.forward or, `interleaved`, Qwen3VLTextRotaryEmbedding.forward: cos and sin
    [B, S, D] in x's dtype, computed in fp32 without gradient for time, height and width at once.

    position_ids [3, B, S] int64 or fp32. Of the three angles of a channel one counts: Qwen2-VL joins sections of them,
    in a tensor, Qwen3-VL writes them over the first in place.
    Saves nothing itself; the tables live as long as a layer's products keep them, once per model. Source: transformers
    5.23, models/qwen2_5_vl/modeling_qwen2_5_vl.py, models/qwen3_vl/modeling_qwen3_vl.py.

    Angles as fp32 of 3·2·4·32 numbers and of each of these two, twice; positions; sections, tables and casts of both.
    >>> from oomph.tape.testing import cost, ids
    >>> cost(lambda x, positions: rotary_tables_3d(x, positions, 64, False), (2, 4, 512), ids(3, 2, 4))
    Cost(allocated=23648, saved=0, backward=0)
    """
    tape, (_, batch, length) = x.tape, position_ids.shape
    half = (batch, length, head_dim // 2)

    def one_of_three(freq: Sym) -> Sym:
        freqs_thw = freq if interleaved else tape.empty(half, "fp32", op="cat")
        first = Sym(half, "fp32", freqs_thw.strides[-len(half) :], freqs_thw.storage)
        del freqs_thw
        return cat((first, first), -1)

    with tape.no_grad():
        positions = position_ids  # Qwen3-Omni's are fp32 where there is a mask
        if position_ids.dtype != "fp32":
            positions = tape.empty((*position_ids.shape, 1), "fp32", op="_to_copy")
        freqs = tape.empty((*position_ids.shape, head_dim // 2), "fp32", op="mul")
        del positions
        cos, sin = _of_angles(freqs)
        sin = one_of_three(sin)
        cos = one_of_three(cos)
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


def longrope_frequencies(tape: Tape, size: Size) -> Sym:
    """Return LongRoPE's inverse frequencies for long sequences, fp32 [D/2]: made in the first forward pass, kept since.

    Mirror: ext_factors = torch.tensor(long_factor); shape = torch.arange(0, D, 2).float() / D;
    1.0 / (ext_factors * base**shape)

    Beside the result: the factors, positions as int64 and fp32, their share, the power, the product and its reciprocal.
    Source: transformers 5.23, modeling_rope_utils.py, _compute_longrope_parameters.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda x: longrope_frequencies(x.tape, 128), frozen(1))
    Cost(allocated=2304, saved=0, backward=0)
    """
    half = (size // 2,)
    ext_factors = tape.empty(half, "fp32", op="lift_fresh")
    positions = tape.empty(half, "int64", op="arange")
    floats = tape.empty(half, "fp32", op="_to_copy")
    del positions
    inv_freq_shape = tape.empty(half, "fp32", op="div")
    del floats
    power = tape.empty(half, "fp32", op="pow")
    product = tape.empty(half, "fp32", op="mul")
    del power
    reciprocal = tape.empty(half, "fp32", op="reciprocal")
    inv_freq = tape.empty(half, "fp32", op="mul")
    del reciprocal, product
    del ext_factors, inv_freq_shape
    return inv_freq


def choose_frequencies(position_ids: Sym, size: Size, make: Callable[[], None]) -> None:
    """Play what LongRoPE does in each forward pass: the longest sequence, and a choice of frequencies, copied in place;
    `make` makes those for long sequences if they are not there yet.

    Two int64 numbers, a boolean, the frequencies chosen, fp32 [D/2]; all die. Source: transformers 5.23,
    modeling_rope_utils.py, longrope_frequency_update.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(lambda x: choose_frequencies(x, 128, lambda: None), ids(1, 16))
    Cost(allocated=273, saved=0, backward=0)
    """
    tape = position_ids.tape
    longest = tape.empty((), "int64", op="max")
    seq_len = tape.empty((), "int64", op="add")
    del longest
    make()
    condition = tape.empty((), "bool", op="gt")
    inv_freq = tape.empty((size // 2,), "fp32", op="where")
    del condition
    del seq_len, inv_freq


def look_at_length(position_ids: Sym) -> None:
    """Play what a dynamic rotary embedding does in each forward pass: the longest sequence, compared with what its
    frequencies are made for, twice; no longer one is played.

    Two int64 numbers and two booleans; all die. Source: transformers 5.23, modeling_rope_utils.py,
    dynamic_frequency_update.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(look_at_length, ids(1, 16))
    Cost(allocated=18, saved=0, backward=0)
    """
    tape = position_ids.tape
    longest = tape.empty((), "int64", op="max")
    seq_len = tape.empty((), "int64", op="add")
    del longest
    for op in ("gt", "lt"):
        answer = tape.empty((), "bool", op=op)
        del answer
    del seq_len


def position_scales(position_ids: Sym, dtype: str) -> Sym:
    """Mirror get_llama_4_attn_scale, cast: 1 + beta * log(1 + floor(positions / most)) of int64 [P, S], [P, 1, S, 1].

    Saves nothing itself; the product with queries keeps the result. Source: transformers 5.23,
    models/ministral3/modeling_ministral3.py.

    Six tensors of 16·4 B one after the other, the last in bf16.
    >>> from oomph.tape.testing import cost, ids
    >>> cost(lambda x: position_scales(x, "bf16"), ids(1, 16)).allocated
    416
    """
    scaling = unary(position_ids.tape.empty(position_ids.shape, "fp32", op="div"), "floor")
    for op in ("add", "log", "mul", "add"):
        scaling = unary(scaling, op)
    rows, length = scaling.shape
    return cast(view_of(scaling, (rows, 1, length, 1), (length, length, 1, 1)), dtype)


def rotate_half(x: Sym) -> Sym:
    """Mirror rotate_half: the second half, negated, before the first. Two tensors, of half of x and of all.

    Saves nothing; backward makes all of x again for each half. Source: transformers, models/llama/modeling_llama.py.

    >>> from oomph.tape.testing import cost
    >>> cost(rotate_half, (2, 8, 4, 64))
    Cost(allocated=12288, saved=0, backward=20480)
    """
    x1 = slice_axis(x, -1, 0, x.shape[-1] // 2)
    x2 = slice_axis(x, -1, x.shape[-1] // 2, x.shape[-1])
    return cat((-x2, x1), -1)


def unsqueeze_heads(table: Sym, axis: int = 1) -> Sym:
    """Return a table [P, S, D] as [P, 1, S, D], or with the `axis` of heads elsewhere: a view; tables have no history.

    Source: transformers, models/llama/modeling_llama.py, apply_rotary_pos_emb.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(unsqueeze_heads, frozen(1, 4, 64)).allocated
    0
    """
    shape, strides = table.shape, table.strides
    wide = (*strides[:axis], strides[axis - 1], *strides[axis:])
    return Sym((*shape[:axis], 1, *shape[axis:]), table.dtype, wide, table.storage)


def half_tables(x: Sym, position_ids: Sym, head_dim: Size) -> tuple[Sym, Sym]:
    """Mirror GptOssRotaryEmbedding.forward: cos and sin [P, S, D / 2] in x's dtype, computed in fp32 without gradient.

    Saves nothing itself; the tables live as long as a layer's products keep them. Source: transformers 5.23,
    models/gpt_oss/modeling_gpt_oss.py.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(lambda x, positions: half_tables(x, positions, 64), (2, 4, 512), ids(1, 4))
    Cost(allocated=3088, saved=0, backward=0)
    """
    tape, (rows, length) = x.tape, position_ids.shape
    with tape.no_grad():
        positions = tape.empty((rows, length, 1), "fp32", op="_to_copy")
        emb = tape.empty((rows, length, head_dim // 2), "fp32", op="mul")
        del positions
        cos, sin = _of_angles(emb)
        return cast(cos, x.dtype), cast(sin, x.dtype)


def apply_rotary_halves(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Mirror gpt-oss' apply_rotary_pos_emb: halves of q [B, N, S, D] and k turned by cos and sin [P, S, D / 2].

    Each of q and k takes four products, a difference and a sum of half its size, and the result. Saves only the tables.
    Source: transformers 5.23, models/gpt_oss/modeling_gpt_oss.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(apply_rotary_halves, (2, 8, 4, 64), (2, 2, 4, 64), frozen(1, 4, 32), frozen(1, 4, 32))
    Cost(allocated=40960, saved=512, backward=35840)
    """
    cos = unsqueeze_heads(cos)
    sin = unsqueeze_heads(sin)
    q_embed = _turned_halves(q, cos, sin)
    k_embed = _turned_halves(k, cos, sin)
    return q_embed, k_embed


def _turned_halves(x: Sym, cos: Sym, sin: Sym) -> Sym:
    """Mirror _apply_rotary_emb."""
    first_half, second_half = split(x, x.shape[-1] // 2, 2)
    first_ = first_half * cos - second_half * sin
    second_ = second_half * cos + first_half * sin
    return cat((first_, second_), -1)


def apply_rotary_interleaved(q: Sym, k: Sym, cos: Sym, sin: Sym, heads: int = 1) -> tuple[Sym, Sym]:
    """Mirror apply_rotary_pos_emb_interleave: pairs of neighbours of q [B, N, S, D] and k [B, 1, S, D], or with the
    axis of `heads` elsewhere, turned by the first half of cos and sin [P, S, D], unfused.

    Each of q and k takes four products, a difference and a sum of half its size, and the result. Saves only the tables.
    Source: transformers 5.23, models/deepseek_v3/modeling_deepseek_v3.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(apply_rotary_interleaved, (2, 8, 4, 64), (2, 1, 4, 64), frozen(1, 4, 64), frozen(1, 4, 64))
    Cost(allocated=36864, saved=1024, backward=41472)
    """
    cos = unsqueeze_heads(slice_axis(cos, -1, 0, cos.shape[-1] // 2), heads)
    sin = unsqueeze_heads(slice_axis(sin, -1, 0, sin.shape[-1] // 2), heads)
    q1, q2 = every_other(q, 0), every_other(q, 1)
    k1, k2 = every_other(k, 0), every_other(k, 1)
    q_embed = cat([q1 * cos - q2 * sin, q2 * cos + q1 * sin], -1)
    k_embed = cat([k1 * cos - k2 * sin, k2 * cos + k1 * sin], -1)
    return q_embed, k_embed


def apply_rotary(q: Sym, k: Sym, cos: Sym, sin: Sym, heads: int = 1) -> tuple[Sym, Sym]:
    """Mirror apply_rotary_pos_emb: q [B, N, S, D] and k [B, K, S, D], or with the axis of `heads` elsewhere, turned by
    cos and sin [P, S, D], unfused.

    Each of q and k takes five tensors of its size: a negated half and the halves joined, two products, their sum. Saves
    only the tables, for the products' backward: q and k themselves are not kept, since the tables want no gradient.
    Source: transformers, models/llama/modeling_llama.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(apply_rotary, (2, 8, 4, 64), (2, 2, 4, 64), frozen(1, 4, 64), frozen(1, 4, 64))
    Cost(allocated=46080, saved=1024, backward=46080)
    """
    cos = unsqueeze_heads(cos, heads)
    sin = unsqueeze_heads(sin, heads)
    q_embed = (q * cos) + (rotate_half(q) * sin)
    k_embed = (k * cos) + (rotate_half(k) * sin)
    return q_embed, k_embed


def apply_partial_rotary(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Mirror GPT-NeoX's apply_rotary_pos_emb: the first R numbers of each head are turned, the rest joined on.

    q and k [B, N, S, D], cos and sin [P, S, R]. Each of q and k takes four and a half tensors of R numbers per head and
    one of D. Saves only the tables; backward makes zeros of the whole q for each of its slices. Source: transformers,
    models/gpt_neox/modeling_gpt_neox.py, apply_rotary_pos_emb.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(apply_partial_rotary, (2, 8, 4, 64), (2, 8, 4, 64), frozen(1, 4, 16), frozen(1, 4, 16))
    Cost(allocated=34816, saved=256, backward=51200)
    """
    cos = unsqueeze_heads(cos)
    sin = unsqueeze_heads(sin)
    rotary_dim, size = cos.shape[-1], q.shape[-1]
    q_rot, q_pass = part(q, 0, rotary_dim), slice_axis(q, -1, rotary_dim, size)
    k_rot, k_pass = part(k, 0, rotary_dim), slice_axis(k, -1, rotary_dim, size)
    q_embed = (q_rot * cos) + (rotate_half(q_rot) * sin)
    k_embed = (k_rot * cos) + (rotate_half(k_rot) * sin)
    q_embed = cat((q_embed, q_pass), -1)
    k_embed = cat((k_embed, k_pass), -1)
    return q_embed, k_embed
