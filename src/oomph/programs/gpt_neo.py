"""GPTNeoForCausalLM.forward with its local variables: GPT-2's frame, scores in fp32, a triangle per layer.

Local layers have another triangle of the same size and the same keys and values, so all layers are alike. Source:
transformers 5.23, models/gpt_neo/modeling_gpt_neo.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.job_words import FLASH_ATTN
from oomph.ops.flash_attn import FlashCall
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frame import call, check_positions, counted_positions, full_attention, language_model
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

sliding_windows = full_attention("transformer.h")


def buffers(m: Bound) -> list[Sym]:
    """Return the triangle that every layer registers: one byte for each pair of positions."""
    positions = m.transformer.wpe.rows
    return [m.tape.empty((positions, positions), "bool", op="bias") for _ in m.transformer.h]


def attention(
    m: Bound, hidden_states: Sym, attention_mask: Sym, layer_past: Cache | None, index: int
) -> tuple[Sym, Sym]:
    """Mirror GPTNeoSelfAttention.forward."""
    batch, length, hidden = hidden_states.shape
    shape = (batch, length, m.num_heads, m.head_dim)
    query = m.q_proj(hidden_states)
    key = m.k_proj(hidden_states)
    value = m.v_proj(hidden_states)
    query, key, value = (ops.transpose(ops.view(each, shape), 1, 2) for each in (query, key, value))
    if layer_past is not None:
        key, value = layer_past.update(key, value, index)
    if m.tape.kernel in FLASH_ATTN:
        query, key, value = (ops.transpose(each, 1, 2) for each in (query, key, value))
        if query.dtype == "fp32":
            query, key, value = (ops.in_16_bits(each) for each in (query, key, value))
        call = FlashCall(m.dropout if m.tape.dropout else 0.0, positions=False)
        attn_output = ops.flash_attention_of_rows(query, key, value, attention_mask, length, call)
        attn_weights = ops.view(attn_output, (batch, length, hidden))
        attn_output = m.out_proj(attn_weights)
    else:
        attn_output, attn_weights = ops.attention_under_triangle(query, key, value, attention_mask, m.dropout)
        attn_output = ops.view(ops.contiguous(ops.transpose(attn_output, 1, 2)), (batch, length, hidden))
        attn_output = m.out_proj(attn_output)
    attn_output = m.resid_dropout(attn_output)
    return attn_output, attn_weights


def block(
    m: Bound, hidden_states: Sym, attention_mask: Sym, past_key_values: Cache | None = None, index: int = 0
) -> tuple[Sym, Sym]:
    """Mirror GPTNeoBlock.forward."""
    residual = hidden_states
    hidden_states = m.ln_1(hidden_states)
    attn_output, attn_weights = attention(m.attn.attention, hidden_states, attention_mask, past_key_values, index)
    hidden_states = attn_output + residual
    residual = hidden_states
    hidden_states = m.ln_2(hidden_states)
    feed_forward_hidden_states = m.mlp(hidden_states)
    hidden_states = residual + feed_forward_hidden_states
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
) -> tuple[Sym, Cache | None]:
    """Mirror GPTNeoModel.forward."""
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
    if causal_mask is not None:  # as of this kernel it always is
        check_positions(m.wpe, causal_mask.shape[-1])  # triangles are no larger than a static cache may be
    position_embeds = m.wpe(position_ids)
    hidden_states: Sym = inputs_embeds + position_embeds
    hidden_states = m.drop(hidden_states)
    for index, each in enumerate(m.h):
        outputs = call(
            each, index, block, checkpointing, past_key_values, hidden_states, attention_mask=causal_mask
        )  # fmt: skip
        hidden_states = outputs[0]
    tape.end_layers()
    hidden_states = m.ln_f(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "transformer", "wte")
