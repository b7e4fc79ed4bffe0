"""UMT5ForConditionalGeneration.forward with its local variables: T5's, but that every layer makes biases of its own.

Source: transformers 5.23, models/umt5/modeling_umt5.py.
"""

from __future__ import annotations

from functools import partial

from oomph import ops
from oomph.programs import t5
from oomph.programs.cache import EncoderDecoderCache
from oomph.programs.frame import run
from oomph.programs.t5 import buffers, compute_bias, eager_attention, feed_forward, heads, sliding_windows
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

__all__ = ["buffers", "causal_lm", "decode", "encode", "sliding_windows"]


def attention(
    m: Bound,
    hidden_states: Sym,
    mask: Sym | None,
    encoder_hidden_states: Sym | None,
    past_key_values: EncoderDecoderCache | None,
    index: int,
    bidirectional: bool,
) -> tuple[Sym, Sym]:
    """Mirror UMT5Attention.forward: the output and the weights."""
    batch, length = hidden_states.shape[:2]
    query_states = heads(m, m.q(hidden_states))
    current_states = hidden_states if encoder_hidden_states is None else encoder_hidden_states
    known = None if past_key_values is None or encoder_hidden_states is None else past_key_values.crossed(index)
    if known is not None:
        key_states, value_states = known
    else:
        key_states = m.k(current_states)
        value_states = m.v(current_states)
        key_states = heads(m, key_states)
        value_states = heads(m, value_states)
        if past_key_values is not None:
            key_states, value_states = past_key_values.update(key_states, value_states, index, encoder_hidden_states)
    del known
    key_length = key_states.shape[2]
    if m.parts.get("relative_attention_bias") is None:
        position_bias = m.tape.empty((1, m.num_heads, length, key_length), query_states.dtype, op="zeros")
    else:
        position_bias = compute_bias(m, length, key_length, bidirectional, holds=True)
    attn_output, attn_weights = eager_attention(query_states, key_states, value_states, mask, m.dropout, position_bias)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, m.num_heads * m.head_dim)))
    attn_output = m.o(attn_output)
    return attn_output, attn_weights


def attended(
    m: Bound,
    norm: Bound,
    rate: float,
    hidden_states: Sym,
    mask: Sym | None,
    encoder_hidden_states: Sym | None,
    past_key_values: EncoderDecoderCache | None,
    index: int,
    bidirectional: bool,
) -> tuple[Sym, Sym]:
    """Mirror UMT5LayerSelfAttention.forward and UMT5LayerCrossAttention.forward."""
    normed_hidden_states = norm(hidden_states)
    attention_output, attn_weights = attention(
        m, normed_hidden_states, mask, encoder_hidden_states, past_key_values, index, bidirectional
    )
    if encoder_hidden_states is not None:
        layer_output = hidden_states + ops.dropout(attention_output, rate)
        return layer_output, attn_weights
    hidden_states = hidden_states + ops.dropout(attention_output, rate)
    return hidden_states, attn_weights


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    encoder_hidden_states: Sym | None,
    encoder_attention_mask: Sym | None = None,
    past_key_values: EncoderDecoderCache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror UMT5Block.forward."""
    names, rate = m.names, m.rate
    hidden_states, _ = attended(
        m[names.attention], m[names.attention_norm], rate, hidden_states, attention_mask, None, past_key_values, index,
        encoder_hidden_states is None,
    )  # fmt: skip
    if encoder_hidden_states is not None:
        hidden_states, _ = attended(
            m[names.cross], m[names.cross_norm], rate, hidden_states, encoder_attention_mask, encoder_hidden_states,
            past_key_values, index, True,
        )  # fmt: skip
    hidden_states = feed_forward(m[names.mlp], m[names.mlp_norm], rate, hidden_states)
    return hidden_states


def stack(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    encoder_hidden_states: Sym | None,
    encoder_attention_mask: Sym | None,
    past_key_values: EncoderDecoderCache | None,
    table: Bound,
    inputs_embeds: Sym | None = None,
) -> Sym:
    """Mirror UMT5Stack.forward of an encoder, or of a decoder, which is told the encoder's states."""
    tape, decodes = m.tape, encoder_hidden_states is not None
    inputs_embeds = table(input_ids)
    seen = past_key_values.self_attention if past_key_values is not None else None
    if decodes:
        causal_mask = ops.causal_mask(inputs_embeds, attention_mask, seen, looks=False)
        encoder_extended_attention_mask = ops.bidirectional_mask(inputs_embeds, encoder_attention_mask)
    else:
        causal_mask = ops.bidirectional_mask(inputs_embeds, attention_mask)
        encoder_extended_attention_mask = None
    rate = next(iter(m["block"])).rate
    hidden_states = ops.dropout(inputs_embeds, rate)
    for index, each in enumerate(m["block"]):
        if decodes:
            tape.begin_layer(index, each.path)
        hidden_states = run(
            each, index, block, checkpointing, past_key_values, hidden_states, causal_mask, encoder_hidden_states,
            encoder_attention_mask=encoder_extended_attention_mask,
        )  # fmt: skip
    if decodes:
        tape.end_layers()
    hidden_states = m.final_layer_norm(hidden_states)
    hidden_states = ops.dropout(hidden_states, rate)
    return hidden_states


causal_lm = partial(t5.causal_lm, stack=stack)
encode = partial(t5.encode, stack=stack)
decode = partial(t5.decode, stack=stack)
