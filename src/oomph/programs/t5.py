"""T5ForConditionalGeneration.forward with its local variables: an encoder, a decoder that attends to it, one table.

Layers share the biases that the first one of a stack makes of distances. Attention is the eager one: the loss is of
logits in their own dtype. Source: transformers 5.23, models/t5/modeling_t5.py, models/mt5/modeling_mt5.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.losses.own import check_own
from oomph.programs.cache import EncoderDecoderCache, encoder_decoder_cache
from oomph.programs.frame import full_attention, no_buffers, refuse_positions, run
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

buffers = no_buffers
sliding_windows = full_attention("decoder.block")
Biased = tuple[Sym, "Sym | None", "Sym | None"]


def refuse(m: Bound, checkpointing: Checkpointing) -> None:
    """Refuse what the program has no rule for."""
    if m.tape.kernel != "eager":
        fix = "Say --attention eager, which is what transformers had before 5, or trace the model."
        raise UnsupportedError("oomph plays T5 with its eager attention only.", fix)
    if m.shared.weight.dtype == "fp16":
        fix = "Take bf16, fp32 or amp-fp16."
        raise UnsupportedError("oomph cannot play T5 in pure fp16, where it bounds hidden states.", fix)
    if checkpointing.kind == "reentrant":
        fix = "Say --checkpointing non-reentrant, or trace it: oomph trace."
        raise UnsupportedError("oomph cannot play T5 with reentrant checkpointing yet.", fix)


def near_and_far(made: Callable[[str, str], Sym], holds: bool = False) -> tuple[Sym, Sym | None, Sym]:
    """Return which steps are small, their logarithms if a class `holds` these, and the buckets of those that are not:
    all live to the end of what asks.
    """
    is_small = made("bool", "lt")
    number: Sym | None = made("fp32", "to")
    for op in ("div", "log", "div", "mul"):
        number = made("fp32", op)
    cast = made("int64", "to")
    if not holds:
        number = None
    if_large = made("int64", "add")
    del cast
    most = made("int64", "full_like")
    bounded = made("int64", "minimum")
    del most
    if_large = bounded
    return is_small, number, if_large


def relative_position_bucket(relative_position: Sym, bidirectional: bool, holds: bool = False) -> Sym:
    """Mirror T5Attention._relative_position_bucket, or UMT5's, which `holds` logarithms: int64 [Q, K] of each step."""
    tape, shape = relative_position.tape, relative_position.shape

    def made(dtype: str, op: str) -> Sym:
        return tape.empty(shape, dtype, op=op)

    relative_buckets = None
    if bidirectional:
        positive = made("bool", "gt")
        counted = made("int64", "to")
        del positive
        scaled = made("int64", "mul")
        del counted
        relative_buckets = made("int64", "add")
        del scaled
        relative_position = made("int64", "abs")
    else:
        zeros = made("int64", "zeros_like")
        least = made("int64", "minimum")
        del zeros
        relative_position = made("int64", "neg")
        del least
    is_small, log_ratio, if_large = near_and_far(made, holds)  # noqa: RUF059  live to the end
    chosen = made("int64", "where")
    if relative_buckets is None:
        relative_buckets = made("int64", "add")
    del chosen
    return relative_buckets


def compute_bias(m: Bound, query_length: Size, key_length: Size, bidirectional: bool, holds: bool = False) -> Sym:
    """Mirror T5Attention.compute_bias, or UMT5's: [1, N, Q, K], a view of rows of the table."""
    tape = m.tape
    context_position = ops.unary(tape.empty((query_length, 1), "int64", op="arange"), "add")
    memory_position = tape.empty((1, key_length), "int64", op="arange")
    relative_position = tape.empty((query_length, key_length), "int64", op="sub")
    bucket = relative_position_bucket(relative_position, bidirectional, holds)
    values = m.relative_attention_bias(bucket)
    values = ops.unsqueeze(ops.transpose(ops.transpose(values, 0, 2), 1, 2), 0)
    del context_position, memory_position
    return values


def attention(
    m: Bound,
    hidden_states: Sym,
    mask: Sym | None,
    key_value_states: Sym | None,
    position_bias: Sym | None,
    past_key_values: EncoderDecoderCache | None,
    index: int,
    bidirectional: bool,
) -> tuple[Sym, Sym, Sym]:
    """Mirror T5Attention.forward: the output, the biases and the weights."""
    batch, length = hidden_states.shape[:2]
    query_states = heads(m, m.q(hidden_states))
    current_states = hidden_states if key_value_states is None else key_value_states
    known = None if past_key_values is None or key_value_states is None else past_key_values.crossed(index)
    if known is not None:
        key_states, value_states = known
    else:
        key_states = heads(m, m.k(current_states))
        value_states = heads(m, m.v(current_states))
        if past_key_values is not None:
            key_states, value_states = past_key_values.update(key_states, value_states, index, key_value_states)
    del known
    if position_bias is None:
        key_length = key_states.shape[2]
        if m.parts.get("relative_attention_bias") is None:
            shape = (1, m.num_heads, length, key_length)
            position_bias = m.tape.empty(shape, query_states.dtype, op="zeros")
            position_bias.requires_grad = m.tape.inputs_train  # where layers are checkpointed
        else:
            position_bias = compute_bias(m, length, key_length, bidirectional)
    attn_output, attn_weights = eager_attention(query_states, key_states, value_states, mask, m.dropout, position_bias)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, m.num_heads * m.head_dim)))
    attn_output = m.o(attn_output)
    return attn_output, position_bias, attn_weights


def heads(m: Bound, x: Sym) -> Sym:
    """Return what a map made with its heads in front."""
    return ops.transpose(ops.view(x, (*x.shape[:2], m.num_heads, m.head_dim)), 1, 2)


def eager_attention(
    query: Sym, key: Sym, value: Sym, mask: Sym | None, rate: float, position_bias: Sym
) -> tuple[Sym, Sym]:
    """Mirror T5's eager_attention_forward."""
    attn_weights = ops.matmul(query, ops.transpose(key, 2, 3)) * 1.0
    attn_weights = attn_weights + position_bias
    if mask is not None:
        attn_weights = attn_weights + mask
    attn_weights = ops.softmax(attn_weights)
    attn_weights = ops.dropout(attn_weights, rate)
    attn_output = ops.matmul(attn_weights, value)
    attn_output = ops.contiguous(ops.transpose(attn_output, 1, 2))
    return attn_output, attn_weights


def attended(
    m: Bound,
    norm: Bound,
    rate: float,
    hidden_states: Sym,
    mask: Sym | None,
    position_bias: Sym | None,
    key_value_states: Sym | None = None,
    past_key_values: EncoderDecoderCache | None = None,
    index: int = 0,
    bidirectional: bool = True,
) -> tuple[Sym, Sym, Sym]:
    """Mirror T5LayerSelfAttention.forward and T5LayerCrossAttention.forward."""
    normed_hidden_states = norm(hidden_states)
    attention_output, position_bias, attn_weights = attention(
        m, normed_hidden_states, mask, key_value_states, position_bias, past_key_values, index, bidirectional
    )
    if key_value_states is not None:
        layer_output = hidden_states + ops.dropout(attention_output, rate)
        return layer_output, position_bias, attn_weights
    attention_output = hidden_states + ops.dropout(attention_output, rate)
    return attention_output, position_bias, attn_weights


def feed_forward(m: Bound, norm: Bound, rate: float, hidden_states: Sym) -> Sym:
    """Mirror T5LayerFF.forward."""
    forwarded_states = norm(hidden_states)
    forwarded_states = dense(m, rate, forwarded_states)
    return hidden_states + ops.dropout(forwarded_states, rate)


def dense(m: Bound, rate: float, hidden_states: Sym) -> Sym:
    """Mirror T5DenseActDense.forward, and T5DenseGatedActDense.forward where there are two maps in."""
    *gates, last = m.names
    wo = m[last]
    if len(gates) > 1:
        hidden_gelu = ops.activate(m.activation, m[gates[0]](hidden_states))
        hidden_linear = m[gates[1]](hidden_states)
        hidden_states = hidden_gelu * hidden_linear
    else:
        hidden_states = m[gates[0]](hidden_states)
        hidden_states = ops.activate(m.activation, hidden_states)
    hidden_states = ops.dropout(hidden_states, rate)
    weight = getattr(wo, "weight", None)
    if weight is not None and hidden_states.dtype != weight.dtype:
        hidden_states = ops.cast(hidden_states, weight.dtype)
    hidden_states = wo(hidden_states)
    return hidden_states


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_bias: Sym | None,
    encoder_hidden_states: Sym | None,
    encoder_attention_mask: Sym | None,
    encoder_decoder_position_bias: Sym | None,
    past_key_values: EncoderDecoderCache | None = None,
    index: int = 0,
) -> Biased:
    """Mirror T5Block.forward."""
    names, rate, own = m.names, m.rate, encoder_hidden_states is None
    hidden_states, self_attn_position_bias, _ = attended(
        m[names.attention], m[names.attention_norm], rate, hidden_states, attention_mask, position_bias,
        past_key_values=past_key_values, index=index, bidirectional=own,
    )  # fmt: skip
    cross_attn_position_bias = None
    if encoder_hidden_states is not None:
        hidden_states, cross_attn_position_bias, _ = attended(
            m[names.cross], m[names.cross_norm], rate, hidden_states, encoder_attention_mask,
            encoder_decoder_position_bias, encoder_hidden_states, past_key_values, index,
        )  # fmt: skip
    hidden_states = feed_forward(m[names.mlp], m[names.mlp_norm], rate, hidden_states)
    return hidden_states, self_attn_position_bias, cross_attn_position_bias


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
    """Mirror T5Stack.forward of an encoder, or of a decoder, which is told the encoder's states."""
    tape, decodes = m.tape, encoder_hidden_states is not None
    inputs_embeds = table(input_ids)
    encoder_extended_attention_mask = None
    if encoder_hidden_states is not None:
        seen = past_key_values.self_attention if past_key_values is not None else None
        attention_mask = ops.causal_mask(inputs_embeds, attention_mask, seen, looks=False)
        encoder_extended_attention_mask = ops.bidirectional_mask(inputs_embeds, encoder_attention_mask)
    else:
        attention_mask = ops.bidirectional_mask(inputs_embeds, attention_mask)
    position_bias: Sym | None = None
    encoder_decoder_position_bias: Sym | None = None
    rate = next(iter(m["block"])).rate
    hidden_states = ops.dropout(inputs_embeds, rate)
    for index, each in enumerate(m["block"]):
        if decodes:
            tape.begin_layer(index, each.path)
        hidden_states, self_attention_position_bias, cross_attention_position_bias = run(
            each, index, block, checkpointing, past_key_values, hidden_states, attention_mask, position_bias,
            encoder_hidden_states, encoder_extended_attention_mask, encoder_decoder_position_bias,
        )  # fmt: skip
        position_bias = self_attention_position_bias
        if decodes:
            encoder_decoder_position_bias = cross_attention_position_bias
    if decodes:
        tape.end_layers()
    hidden_states = m.final_layer_norm(hidden_states)
    hidden_states = ops.dropout(hidden_states, rate)
    return hidden_states


def shift_right(labels: Sym) -> Sym:
    """Mirror _shift_right: int64 [B, T]."""
    tape, (batch, length) = labels.tape, labels.shape
    shifted_input_ids = tape.empty((batch, length), "int64", op="new_zeros")
    copied = tape.empty((batch, length - 1), "int64", op="clone")
    del copied
    start = tape.empty((), "int64", op="scalar_tensor")
    del start
    ignored = tape.empty((batch, length), "bool", op="eq")
    del ignored
    return shifted_input_ids


def causal_lm(
    m: Bound,
    input_ids: Sym,
    labels: Sym | None,
    checkpointing: Checkpointing,
    model_type: str,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: EncoderDecoderCache | None = None,
    use_cache: bool = False,
    stack: Callable[..., Sym] = stack,
    **options: Any,
) -> tuple[Sym | None, Sym, Any]:
    """Mirror T5ForConditionalGeneration.forward, whose kin have a `stack` of their own: loss, logits, and what else the
    output holds.
    """
    refuse_positions(position_ids)
    refuse(m, checkpointing)
    if labels is None:
        raise UnsupportedError("An encoder-decoder is trained on labels.", "Play its encode and decode without them.")
    check_own(m.tape.loss)
    m.tape.scope = "encoder"
    hidden_states = stack(m.encoder, input_ids, checkpointing, attention_mask, None, None, None, m.shared)
    decoder_input_ids = shift_right(labels)
    m.tape.scope = "decoder"
    if use_cache:
        past_key_values = encoder_decoder_cache(m.tape, len(m.decoder["block"].stacked))
    last = stack(
        m.decoder, decoder_input_ids, checkpointing, None, hidden_states, attention_mask, past_key_values, m.shared
    )
    m.tape.scope = "lm_head"
    sequence_output = last * 1.0 if m.lm_head.scaled else last
    weight = m.lm_head.parts["weight"]
    lm_logits = ops.linear(sequence_output, m.shared.weight if weight is None else weight)
    m.tape.scope = "loss"
    flat = ops.view(lm_logits, (ops.rows(lm_logits), lm_logits.shape[-1]))
    loss = ops.cross_entropy(flat, ops.view(labels, (flat.shape[0],)))
    return loss, lm_logits, (hidden_states, past_key_values)


def encode(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    model_type: str,
    stack: Callable[..., Sym] = stack,
) -> Sym:
    """Play the encoder alone, as `generate` calls it once."""
    refuse(m, checkpointing)
    m.tape.scope = "encoder"
    return stack(m.encoder, input_ids, checkpointing, attention_mask, None, None, None, m.shared)


def decode(
    m: Bound,
    decoder_input_ids: Sym,
    encoder_outputs: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    model_type: str,
    past_key_values: EncoderDecoderCache | None,
    use_cache: bool,
    stack: Callable[..., Sym] = stack,
) -> tuple[Sym, EncoderDecoderCache | None]:
    """Mirror T5ForConditionalGeneration.forward where the encoder's states are given: logits and the cache."""
    if use_cache and past_key_values is None:
        past_key_values = encoder_decoder_cache(m.tape, len(m.decoder["block"].stacked))
    m.tape.scope = "decoder"
    last = stack(
        m.decoder, decoder_input_ids, checkpointing, None, encoder_outputs, attention_mask, past_key_values, m.shared
    )
    m.tape.scope = "lm_head"
    sequence_output = last * 1.0 if m.lm_head.scaled else last
    weight = m.lm_head.parts["weight"]
    return ops.linear(sequence_output, m.shared.weight if weight is None else weight), past_key_values
