"""GPTBigCodeForCausalLM.forward with its local variables: GPT-2's frame, one key/value head.

Source: transformers 5.23, models/gpt_bigcode/modeling_gpt_bigcode.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frame import call, check_positions, counted_positions, full_attention, language_model
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import yes
from oomph.tape.sym import Sym

sliding_windows = full_attention("transformer.h")


def buffers(m: Bound) -> list[Sym]:
    """Return the causal triangle that the class still registers: one byte for each pair of positions."""
    positions = m.transformer.wpe.rows
    return [m.tape.empty((positions, positions), "bool", op="bias")]


def attention(
    m: Bound, hidden_states: Sym, layer_past: Cache | None, attention_mask: Sym | None, index: int
) -> tuple[Sym, Sym | None]:
    """Mirror GPTBigCodeAttention.forward."""
    batch, length, hidden = hidden_states.shape
    size = m.head_dim
    if yes(m.num_kv_heads == 1) and not yes(m.num_heads == 1):
        fused = ops.unsqueeze(m.c_attn(hidden_states), 1)
        query, key, value = ops.split_sizes(fused, (hidden, size, size))
        query = ops.transpose(ops.view(query, (batch, length, m.num_heads, size)), 1, 2)
    else:
        fused = ops.view(m.c_attn(hidden_states), (batch, length, m.num_heads, 3 * size))
        query, key, value = ops.split_sizes(ops.transpose(fused, 1, 2), (size, size, size))
    if m.tape.presents is not None:
        m.tape.presents.append(fused.detach())
    del fused
    if layer_past is not None:
        key, value = layer_past.update(key, value, index)
    attn_output, attn_weights = ops.attention(query, key, value, attention_mask, m.dropout, positions=False)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, hidden)))
    attn_output = m.c_proj(attn_output)
    attn_output = m.resid_dropout(attn_output)
    return attn_output, attn_weights


def block(
    m: Bound,
    hidden_states: Sym,
    encoder_hidden_states: None,
    attention_mask: Sym | None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror GPTBigCodeBlock.forward."""
    residual = hidden_states
    hidden_states = m.ln_1(hidden_states)
    attn_output, _ = attention(m.attn, hidden_states, past_key_values, attention_mask, index)
    hidden_states = attn_output + residual
    residual = hidden_states
    hidden_states = m.ln_2(hidden_states)
    feed_forward_hidden_states = m.mlp(hidden_states)
    hidden_states = residual + feed_forward_hidden_states
    return hidden_states


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: Sym | None = None,
    use_cache: bool = False,
) -> tuple[Sym, Any]:
    """Mirror GPTBigCodeModel.forward; a cache beside checkpointing is transformers 4's: what each c_attn returned."""
    presents: list[Sym] | None = [] if use_cache and checkpointing.kind != "none" else None
    if use_cache and past_key_values is None and presents is None:
        past_key_values = dynamic_cache(m.tape, [None] * len(m.h.stacked))
    check_positions(m.wpe, input_ids.shape[1])
    inputs_embeds = m.wte(input_ids)
    packed = position_ids
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    causal_mask = ops.causal_mask(inputs_embeds, attention_mask, past_key_values, packed=packed)
    position_embeds = m.wpe(position_ids)
    hidden_states: Sym = inputs_embeds + position_embeds
    hidden_states = m.drop(hidden_states)
    m.tape.presents = presents
    for index, layer in enumerate(m.h):
        hidden_states = call(
            layer, index, block, checkpointing, past_key_values, hidden_states, None, attention_mask=causal_mask
        )
    m.tape.presents = None
    m.tape.end_layers()
    hidden_states = m.ln_f(hidden_states)
    return hidden_states, past_key_values or presents


causal_lm = language_model(model, "transformer", "wte")
