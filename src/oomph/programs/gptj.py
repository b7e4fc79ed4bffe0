"""GPTJForCausalLM.forward with its local variables: scores in fp32, pairs of numbers turned.

Source: transformers 5.23, models/gptj/modeling_gptj.py.
"""

from __future__ import annotations

from collections.abc import Callable

from oomph import ops
from oomph.job_words import FLASH_ATTN
from oomph.ops.flash_attn import FlashCall
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frame import call, counted_positions, full_attention, language_model
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

sliding_windows = full_attention("transformer.h")


def buffers(m: Bound) -> list[Sym]:
    """Return the table of sines and cosines that every layer registers."""
    table = m.transformer.embed_positions
    return [m.tape.empty(table.shape, table.dtype, op="embed_positions") for _ in m.transformer.h]


def turned(m: Bound, tensor: Sym, sin: Sym, cos: Sym) -> Sym:
    """Mirror apply_rotary_pos_emb: every second number with its neighbour; sine and cosine are repeated first."""
    sin = ops.each_twice(sin)
    cos = ops.each_twice(cos)
    return (tensor * cos) + (rotate_every_two(tensor) * sin)


def rotate_every_two(x: Sym) -> Sym:
    """Mirror rotate_every_two."""
    x1 = ops.every_other(x, 0)
    x2 = ops.every_other(x, 1)
    x = ops.stack_last((-x2, x1))
    return ops.view(x, (*x.shape[:-2], x.shape[-2] * x.shape[-1]))


def heads(m: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Return query, key [B, S, N, D] and value [B, N, S, D]."""
    batch, length, _ = hidden_states.shape
    shape = (batch, length, m.num_heads, m.head_dim)
    query = m.q_proj(hidden_states)
    key = m.k_proj(hidden_states)
    value = m.v_proj(hidden_states)
    return ops.view(query, shape), ops.view(key, shape), ops.transpose(ops.view(value, shape), 1, 2)


def attention(
    m: Bound,
    hidden_states: Sym,
    layer_past: Cache | None,
    attention_mask: Sym,
    position_ids: Sym,
    table: Bound,
    index: int,
) -> tuple[Sym, Sym]:
    """Mirror GPTJAttention.forward."""
    batch, length, hidden = hidden_states.shape
    rotary, size = m.rotary_dim, m.head_dim
    query, key, value = heads(m, hidden_states)
    tape, (rows, width) = m.tape, position_ids.shape
    _embed_positions = tape.empty((rows, *table.shape), "fp32", op="repeat")
    _repeated_position_ids = tape.empty((rows, width, table.shape[1]), "int64", op="repeat")
    gathered = tape.empty((rows, width, table.shape[1]), "fp32", op="gather")
    sincos = ops.cast(gathered, key.dtype)
    del gathered
    sin, cos = ops.split(sincos, table.shape[1] // 2, 2)
    k_rot = ops.part(key, 0, rotary)
    k_pass = ops.slice_axis(key, -1, rotary, size)
    q_rot = ops.part(query, 0, rotary)
    q_pass = ops.slice_axis(query, -1, rotary, size)
    k_rot = turned(m, k_rot, sin, cos)
    q_rot = turned(m, q_rot, sin, cos)
    key = ops.cat((k_rot, k_pass), -1)
    query = ops.cat((q_rot, q_pass), -1)
    key = ops.transpose(key, 1, 2)
    query = ops.transpose(query, 1, 2)
    if layer_past is not None:
        key, value = layer_past.update(key, value, index)
    if tape.kernel in FLASH_ATTN:
        key, query, value = (ops.contiguous(ops.transpose(each, 1, 2)) for each in (key, query, value))
        if query.dtype == "fp32":
            query, key, value = (ops.in_16_bits(each) for each in (query, key, value))
        call = FlashCall(m.dropout if tape.dropout else 0.0, positions=False)
        attn_weights = ops.flash_attention_of_rows(query, key, value, attention_mask, length, call)
        attn_output = ops.view(attn_weights, (batch, length, hidden))
    else:
        attn_output, attn_weights = ops.attention_in_fp32(query, key, value, attention_mask, m.dropout)
        attn_output = ops.view(ops.contiguous(ops.transpose(attn_output, 1, 2)), (batch, length, hidden))
    attn_output = m.out_proj(attn_output)
    attn_output = m.resid_dropout(attn_output)
    return attn_output, attn_weights


Attend = Callable[[Bound, Sym, "Cache | None", Sym, Sym, Bound, int], "tuple[Sym, Sym]"]


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym,
    position_ids: Sym,
    table: Bound,
    past_key_values: Cache | None = None,
    index: int = 0,
    attend: Attend = attention,
) -> tuple[Sym, Sym]:
    """Mirror GPTJBlock.forward."""
    residual = hidden_states
    hidden_states = m.ln_1(hidden_states)
    attn_outputs, attn_weights = attend(
        m.attn, hidden_states, past_key_values, attention_mask, position_ids, table, index
    )
    feed_forward_hidden_states = m.mlp(hidden_states)
    hidden_states = attn_outputs + feed_forward_hidden_states + residual
    return hidden_states, attn_weights


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    past_key_values: Cache | None = None,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    inputs_embeds: Sym | None = None,
    use_cache: bool = False,
    block: Callable[..., tuple[Sym, Sym]] = block,
) -> tuple[Sym, Cache | None]:
    """Mirror GPTJModel.forward."""
    tape = m.tape
    if tape.kernel not in FLASH_ATTN:
        tape.kernel = "eager"  # the class has no sdpa
    inputs_embeds = m.wte(input_ids)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(tape, [None] * len(m.h.stacked))
    packed = position_ids
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    causal_mask = ops.causal_mask(inputs_embeds, attention_mask, past_key_values, packed=packed)
    hidden_states: Sym = inputs_embeds
    hidden_states = m.drop(hidden_states)
    for index, each in enumerate(m.h):
        outputs = call(
            each, index, block, checkpointing, past_key_values, hidden_states,
            attention_mask=causal_mask, position_ids=position_ids, table=m.embed_positions,
        )  # fmt: skip
        hidden_states = outputs[0]
    tape.end_layers()
    hidden_states = m.ln_f(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "transformer", "wte")
