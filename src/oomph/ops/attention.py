"""How transformers attends: its eager kernel written out, and its way into torch's scaled_dot_product_attention.

Shapes [B, N, S, D] for queries, [B, K, T, D] for keys and values. Source: transformers 5.23,
integrations/sdpa_attention.py; eager_attention_forward in models/llama/modeling_llama.py and gpt2/modeling_gpt2.py.
"""

from __future__ import annotations

from oomph.errors import UnsupportedError
from oomph.ops.activation import tanh
from oomph.ops.bounds import where_buffer
from oomph.ops.elementwise import cast, dropout
from oomph.ops.flash_attn import FlashCall
from oomph.ops.flash_interface import PACKAGES, flash_attention_forward
from oomph.ops.indexing import contiguous, expand, transpose, unsqueeze, view
from oomph.ops.joining import cat
from oomph.ops.kernel_choice import FLASH_HEAD_DIM, Call
from oomph.ops.matmul import matmul
from oomph.ops.routing import largest
from oomph.ops.sdpa import scaled_dot_product_attention
from oomph.ops.slices import slice_axis
from oomph.ops.softmax import softmax, softmax_as_is, softmax_in_fp32
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym, new


def attention(
    query: Sym,
    key: Sym,
    value: Sym,
    mask: Sym | None,
    rate: float,
    softcap: bool = False,
    window: Size | None = None,
    positions: bool = True,
) -> tuple[Sym, Sym | None]:
    """Run the job's attention kernel on q [B, N, S, D] and k, v [B, K, T, D]; returns the output [B, S, N, D] and, from
    the eager one, the weights [B, N, S, T], else None. Torch's own know no soft-capping, and flash-attn alone a window
    that is no mask and the `positions`, where a class hands them on.

    Saves what the kernel saves, see sdpa_attention, eager_attention and flash_attention_forward. Source: transformers
    5.23, modeling_utils.py, ALL_ATTENTION_FUNCTIONS.

    Flash, see flash_attention:
    >>> from oomph.tape.testing import cost, transposed
    >>> cost(transposed(attention, None, 0.0), *[(1, 64, 2, 128)] * 3)
    Cost(allocated=33304, saved=131608, backward=230400)
    """
    if query.tape.kernel == "eager":
        return eager_attention(query, key, value, needed(mask), rate, softcap)
    if query.tape.kernel in PACKAGES:
        if query.tape.repeats_keys:
            key = repeat_kv(key, query.shape[1] // key.shape[1])
            value = repeat_kv(value, query.shape[1] // value.shape[1])
        seen = window is not None and yes(key.shape[2] > window)
        call = FlashCall(rate if query.tape.dropout else 0.0, window=seen, softcap=softcap, positions=positions)
        return flash_attention_forward(query, key, value, mask, call), None
    return sdpa_attention(query, key, value, mask, rate), None


def full_attention(query: Sym, key: Sym, value: Sym, rate: float) -> tuple[Sym, Sym | None]:
    """Run the job's attention kernel of a tower, where all tokens see each other: as `attention`, without a mask.

    Saves what the kernel saves. Source: transformers 5.23, models/clip/modeling_clip.py, CLIPAttention.forward.

    >>> from oomph.tape.testing import cost, transposed
    >>> cost(transposed(full_attention, 0.0), *[(1, 64, 2, 128)] * 3)
    Cost(allocated=33304, saved=131608, backward=230400)
    """
    with query.tape.in_tower():
        if query.tape.kernel == "eager":
            return eager_attention(query, key, value, None, rate)
        if query.tape.kernel in PACKAGES:
            call = FlashCall(rate if query.tape.dropout else 0.0, causal=False, positions=False)
            return flash_attention_forward(query, key, value, None, call), None
        return sdpa_attention(query, key, value, None, rate, causal=False), None


def needed(mask: Sym | None) -> Sym:
    """Return a mask, without which an eager kernel is refused. Source: the classes' eager_attention_forward.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(needed, frozen(1, 1, 4, 4)).allocated
    0
    """
    if mask is None:
        raise UnsupportedError("The eager kernel needs a mask.", "Say --attention flash, or trace the model.")
    return mask


def sdpa_attention(query: Sym, key: Sym, value: Sym, mask: Sym | None, rate: float, causal: bool = True) -> Sym:
    """Mirror sdpa_attention_forward: the output [B, S, N, D], a copy unless the kernel made it so.

    Fewer key heads are left to the kernel without a mask, folded into the queries of a single token, else repeated.
    Without a mask several queries are causal, if the class is (`causal`); of a static cache just filled only the filled
    part is looked at. Saves what the kernel saves: repeated keys and values if they had to be. Source: transformers
    5.23, integrations/sdpa_attention.py, sdpa_attention_forward. That of 4.51 repeats key heads whenever they are fewer
    and makes all three contiguous; 4.38's around flash-attn repeats them too.

    Flash with 2 key heads for 4: q and output 64·4·128·2 B, k and v half of it, log-sum-exp 4·64·4 B, random state
    24 B; in backward also dk and dv for all 4 heads.
    >>> from oomph.tape.testing import cost, transposed
    >>> cost(transposed(sdpa_attention, None, 0.0), (1, 64, 4, 128), *[(1, 64, 2, 128)] * 2)
    Cost(allocated=66584, saved=197656, backward=526336)
    """
    batch, heads, length, size = query.shape
    grouped = False
    if not yes(heads == key.shape[1]):
        times = heads // key.shape[1]
        repeats = query.tape.heads_of_4_51 or query.tape.release == "4.38"
        if mask is None and yes(size <= FLASH_HEAD_DIM) and not repeats:
            grouped = True
        elif yes(length == 1) and not repeats:
            query = view(query, (batch, key.shape[1], times, size))
            if mask is not None and not yes(mask.shape[1] == 1):  # one for each head
                mask = view(mask, (mask.shape[0], key.shape[1], times, mask.shape[3]))
        else:
            key = repeat_kv(key, times)
            value = repeat_kv(value, times)
    if query.tape.heads_of_4_51:
        query = contiguous(query)
        key = contiguous(key)
        value = contiguous(value)
    is_causal = causal and mask is None and not yes(length == 1)
    if is_causal and yes(key.shape[2] > length):
        key = slice_axis(key, 2, 0, length)
        value = slice_axis(value, 2, 0, length)
    call = Call(mask, rate if query.tape.dropout else 0.0, is_causal, grouped)
    attn_output = scaled_dot_product_attention(query, key, value, call)
    attn_output = view(attn_output, (batch, heads, length, value.shape[-1]))
    attn_output = contiguous(transpose(attn_output, 1, 2))
    return attn_output


def repeat_kv(hidden_states: Sym, times: Size) -> Sym:
    """Mirror repeat_kv: [B, K, T, D] to [B, K·times, T, D], a copy unless times is 1.

    Saves nothing; backward sums each group's gradients to one tensor of the input's size. Source: transformers 5.23,
    integrations/sdpa_attention.py, repeat_kv.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: repeat_kv(x, 4), (1, 2, 64, 128))
    Cost(allocated=131072, saved=0, backward=32768)
    """
    batch, heads, length, size = hidden_states.shape
    if yes(times == 1):
        return hidden_states
    hidden_states = expand(unsqueeze(hidden_states, 2), (batch, heads, times, length, size))
    return view(hidden_states, (batch, heads * times, length, size))


def eager_attention(
    query: Sym, key: Sym, value: Sym, mask: Sym | None, rate: float, softcap: bool = False
) -> tuple[Sym, Sym]:
    """Mirror Llama's eager_attention_forward: the output [B, S, N, D] and the weights [B, N, S, T], in fp32 for the
    softmax, cast back, multiplied; with `softcap` Gemma 2's, which bounds the scores by a tanh whose result is kept.

    Saves q and the (repeated) keys for the scores, the fp32 softmax, its cast and the (repeated) values for the output;
    of several sequences copies of q, k and v, which no view can bring into one batch of matrices; with dropout its mask
    and the dropped weights instead of the cast. Source: transformers 5.23, models/llama/modeling_llama.py,
    eager_attention_forward.

    Saved: q, k, v 64·2·128·2 B each, softmax 2·64·64·4 B, its cast half of it.
    >>> from oomph.tape.testing import cost, frozen, transposed
    >>> def eager(q, k, v, mask):
    ...     return transposed(eager_attention, mask, 0.0)(q, k, v)[0]
    >>> cost(eager, *[(1, 64, 2, 128)] * 3, frozen(1, 1, 64, 64))
    Cost(allocated=196608, saved=147456, backward=212992)
    """
    times = query.shape[1] // key.shape[1]
    key_states = repeat_kv(key, times)
    value_states = repeat_kv(value, times)
    attn_weights = matmul(query, transpose(key_states, 2, 3)) * 1.0
    if softcap:
        attn_weights = attn_weights / 1.0
        attn_weights = tanh(attn_weights)
        attn_weights = attn_weights * 1.0
    if mask is not None:
        attn_weights = attn_weights + mask
    attn_weights = cast(softmax_in_fp32(attn_weights), query.dtype)
    attn_weights = dropout(attn_weights, rate)
    attn_output = matmul(attn_weights, value_states)
    attn_output = contiguous(transpose(attn_output, 1, 2))
    return attn_output, attn_weights


def attention_as_is(
    query: Sym, key: Sym, value: Sym, mask: Sym | None, rate: float, causal: bool = True
) -> tuple[Sym, Sym | None]:
    """Run the job's kernel for Llama 4, or for InternVL's tower, which is not `causal` and has no mask: as `attention`,
    but the eager one's softmax stays in the scores' dtype (not under autocast).

    Saves what the kernel saves; the eager one q, (repeated) k and v, the softmax once. Source: transformers 5.23,
    models/llama4/modeling_llama4.py, models/internvl/modeling_internvl.py, eager_attention_forward.

    >>> from oomph.tape import Tape
    >>> from oomph.tape.testing import cost, frozen, transposed
    >>> tape = Tape()
    >>> tape.kernel = "eager"
    >>> def eager(q, k, v, mask):
    ...     return transposed(attention_as_is, mask, 0.0)(q, k, v)[0]
    >>> cost(eager, *[(1, 64, 2, 128)] * 3, frozen(1, 1, 64, 64), tape=tape).saved
    114688
    """
    if query.tape.kernel != "eager":
        return sdpa_attention(query, key, value, mask, rate, causal), None
    times = query.shape[1] // key.shape[1]
    key_states = repeat_kv(key, times)
    value_states = repeat_kv(value, times)
    attn_weights = matmul(query, transpose(key_states, 2, 3)) * 1.0
    if causal:
        attn_weights = attn_weights + needed(mask)
    attn_weights = softmax(attn_weights)
    attn_weights = dropout(attn_weights, rate)
    attn_output = matmul(attn_weights, value_states)
    attn_output = contiguous(transpose(attn_output, 1, 2))
    return attn_output, attn_weights


def sink_attention(
    query: Sym, key: Sym, value: Sym, sinks: Sym, mask: Sym | None, rate: float, window: Size | None = None
) -> tuple[Sym, Sym | None]:
    """Mirror gpt-oss' eager attention on q [B, N, S, D], k, v [B, K, T, D], sinks [N]: the output [B, S, N, D] and the
    weights [B, N, S, T], a view of the softmax with one place more; or run vLLM's flash-attn 3, see flash_attn_3.

    Saves, eager, q and the repeated keys, the indices of the largest scores, the softmax [B, N, S, T + 1] in the
    scores' dtype, and the repeated values. Scores are made five times: product, scaled, masked, with the sink, less the
    largest.
    Source: transformers 5.23, models/gpt_oss/modeling_gpt_oss.py, eager_attention_forward.

    >>> from oomph.tape.testing import cost, frozen, transposed
    >>> def eager(q, k, v, sinks, mask):
    ...     return transposed(sink_attention, sinks, mask, 0.0)(q, k, v)[0]
    >>> cost(eager, *[(1, 64, 2, 128)] * 3, (2,), frozen(1, 1, 64, 64))
    Cost(allocated=165888, saved=115968, backward=197892)
    """
    if query.tape.kernel in PACKAGES:
        s_aux = cast(sinks, query.dtype)
        call = FlashCall(window=window is not None and yes(key.shape[2] > window), sinks=True)
        attn_output = flash_attention_forward(query, key, value, mask, call)
        del s_aux
        return attn_output, None
    times = query.shape[1] // key.shape[1]
    key_states = repeat_kv(key, times)
    value_states = repeat_kv(value, times)
    attn_weights = matmul(query, transpose(key_states, 2, 3)) * 1.0
    attn_weights = attn_weights + needed(mask)
    batch, heads, length, _ = query.shape
    sinks = expand(view(sinks, (1, heads, 1, 1)), (batch, heads, length, 1))
    combined_logits = cat([attn_weights, sinks], -1)
    combined_logits = combined_logits - largest(combined_logits, keepdim=True)
    probs = softmax_as_is(combined_logits)
    scores = slice_axis(probs, -1, 0, probs.shape[-1] - 1)
    attn_weights = cast(dropout(scores, rate), value_states.dtype)
    attn_output = matmul(attn_weights, value_states)
    attn_output = contiguous(transpose(attn_output, 1, 2))
    return attn_output, attn_weights


def gpt2_attention(query: Sym, key: Sym, value: Sym, mask: Sym | None, rate: float) -> tuple[Sym, Sym | None]:
    """Run the job's kernel for GPT-2 on q, k, v [B, N, S, D]: the output [B, S, N, D] and, from the eager one, the
    weights. Its eager form keeps the softmax in the scores' dtype but under autocast.

    Saves what the kernel saves; the eager one q, k, v, and the softmax once, in the scores' dtype. Source: transformers
    5.23, models/gpt2/modeling_gpt2.py, eager_attention_forward.

    >>> from oomph.tape import Tape
    >>> from oomph.tape.testing import cost, frozen, transposed
    >>> tape = Tape()
    >>> tape.kernel = "eager"
    >>> def eager(q, k, v, mask):
    ...     return transposed(gpt2_attention, mask, 0.0)(q, k, v)[0]
    >>> cost(eager, *[(1, 64, 2, 128)] * 3, frozen(1, 1, 64, 64), tape=tape)
    Cost(allocated=98304, saved=114688, backward=147456)
    """
    if query.tape.kernel != "eager":
        return attention(query, key, value, mask, rate)
    attn_weights = matmul(query, transpose(key, 2, 3)) * 1.0
    attn_weights = attn_weights + needed(mask)
    attn_weights = softmax(attn_weights)
    attn_weights = cast(attn_weights, value.dtype)
    attn_weights = dropout(attn_weights, rate)
    attn_output = matmul(attn_weights, value)
    attn_output = transpose(attn_output, 1, 2)
    return attn_output, attn_weights


def encoder_attention(
    query: Sym,
    key: Sym,
    value: Sym,
    mask: Sym | None,
    rate: float,
    causal: bool = False,
    positions: bool = True,
) -> tuple[Sym, Sym | None]:
    """Run the job's kernel for BERT on q, k, v [B, N, S, D], every token seeing every other unless the class is
    `causal`: the output [B, S, N, D] and, from the eager one, the weights, which keep the scores' dtype but under
    autocast.

    Saves what the kernel saves; the eager one q, k, v, and the softmax once. Source: transformers 5.23,
    models/bert/modeling_bert.py, eager_attention_forward.

    >>> from oomph.tape import Tape
    >>> from oomph.tape.testing import cost, transposed
    >>> tape = Tape()
    >>> tape.kernel = "eager"
    >>> def eager(q, k, v):
    ...     return transposed(encoder_attention, None, 0.0)(q, k, v)[0]
    >>> cost(eager, *[(1, 64, 2, 128)] * 3, tape=tape)
    Cost(allocated=114688, saved=114688, backward=147456)
    """
    if query.tape.kernel in PACKAGES:
        given = positions and yes(query.tape.sequences > 0)  # position ids are handed on, not made
        call = FlashCall(rate if query.tape.dropout else 0.0, causal=causal, positions=given)
        return flash_attention_forward(query, key, value, mask, call), None
    if query.tape.kernel != "eager":
        return sdpa_attention(query, key, value, mask, rate, causal), None
    attn_weights = matmul(query, transpose(key, 2, 3)) * 1.0
    if mask is not None:
        attn_weights = attn_weights + mask
    attn_weights = softmax(attn_weights)
    attn_weights = dropout(attn_weights, rate)
    attn_output = matmul(attn_weights, value)
    attn_output = contiguous(transpose(attn_output, 1, 2))
    return attn_output, attn_weights


def attention_in_fp32(query: Sym, key: Sym, value: Sym, mask: Sym, rate: float) -> tuple[Sym, Sym]:
    """Mirror GPTJAttention._attn on q, k, v [B, N, S, D]: the output [B, N, S, D] and the weights; scores in fp32.

    Saves fp32 copies of q and k for the scores, the fp32 softmax, its cast and the values for the output; with dropout
    its mask and the dropped weights instead of the cast. Source: transformers 5.23, models/gptj/modeling_gptj.py.

    Saved: q and k 64·2·128·4 B each, v half of it, softmax 2·64·64·4 B, its cast half of it.
    >>> from oomph.tape.testing import cost, frozen
    >>> def eager(q, k, v, mask):
    ...     return attention_in_fp32(q, k, v, mask, 0.0)[0]
    >>> cost(eager, *[(1, 2, 64, 128)] * 3, frozen(1, 1, 64, 64))
    Cost(allocated=311296, saved=212992, backward=344064)
    """
    query = cast(query, "fp32")
    key = cast(key, "fp32")
    attn_weights = matmul(query, transpose(key, 2, 3))
    attn_weights = attn_weights * 1.0
    attn_weights = attn_weights + mask
    attn_weights = softmax(attn_weights)
    attn_weights = cast(attn_weights, value.dtype)
    attn_weights = dropout(attn_weights, rate)
    attn_output = matmul(attn_weights, value)
    return attn_output, attn_weights


def attention_under_triangle(query: Sym, key: Sym, value: Sym, mask: Sym, rate: float) -> tuple[Sym, Sym]:
    """Mirror GPTNeoSelfAttention._attn on q, k, v [B, N, S, D]: the output [B, N, S, D] and the weights; scores in
    fp32, not scaled, selected by a triangle that the layer registers, then masked.

    Saves what attention_in_fp32 does. Source: transformers 5.23, models/gpt_neo/modeling_gpt_neo.py.

    The lowest number is a scalar; scores come three times, selected and masked, where GPT-J's are scaled and masked.
    >>> from oomph.tape.testing import cost, frozen
    >>> def eager(q, k, v, mask):
    ...     return attention_under_triangle(q, k, v, mask, 0.0)[0]
    >>> cost(eager, *[(1, 2, 64, 128)] * 3, frozen(1, 1, 64, 64))
    Cost(allocated=311300, saved=212992, backward=344068)
    """
    query = cast(query, "fp32")
    key = cast(key, "fp32")
    attn_weights = matmul(query, transpose(key, 2, 3))
    mask_value = new(query.tape, (), attn_weights.dtype, op="mask_value")
    attn_weights = where_buffer(attn_weights, mask_value)
    attn_weights = attn_weights + mask
    attn_weights = softmax(attn_weights)
    attn_weights = cast(attn_weights, value.dtype)
    attn_weights = dropout(attn_weights, rate)
    attn_output = matmul(attn_weights, value)
    return attn_output, attn_weights
