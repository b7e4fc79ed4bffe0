"""BartForConditionalGeneration.forward and those of mBART, M2M-100, Pegasus and Marian, with their local variables.

An encoder, a decoder that attends to it, one table; the loss is of logits in their own dtype, to which a buffer is
added. Source: transformers 5.23, models/bart/modeling_bart.py, and those of mbart, m2m_100, pegasus,
marian.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.blocks.basic import Sinusoids
from oomph.blocks.encoder import KeyBiaslessAttention
from oomph.errors import UnsupportedError
from oomph.losses.own import check_own
from oomph.programs.cache import Cache, EncoderDecoderCache, encoder_decoder_cache
from oomph.programs.frame import call, check_positions, full_attention, refuse_positions, run
from oomph.programs.roberta import position_ids_from_input_ids
from oomph.programs.t5 import shift_right
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

M2M, BLENDERBOT = "m2m_100", "blenderbot"
sliding_windows = full_attention("model.decoder.layers")
LEARNED = ("bart", "mbart", "plbart")  # types whose positions begin two rows later
ENDS_FIRST = ("mbart", "plbart")  # types in which what is written begins with each row's last token
CACHES = (M2M, "plbart")  # types that make a cache where there are labels
SCALES = (*LEARNED, M2M, BLENDERBOT)  # types whose table scales what it looks up itself
KEEPS_ONES = (
    "mbart",
    "pegasus",
    "marian",
    BLENDERBOT,
)  # types in which a mask of ones is no longer named like the mask made of it

REUSES_IDS = ("mbart", "marian", BLENDERBOT)  # types in which positions take the name of their numbers


def buffers(m: Bound) -> list[Sym]:
    """Return what M2M-100 keeps of positions on the device, a table for each side; others keep nothing."""
    found = []
    for side in (m.model.encoder, m.model.decoder):
        table = side.embed_positions
        if isinstance(table.block, Sinusoids):
            table.parts["weights"] = m.tape.empty((table.rows, table.size), m.tape.loaded, op="weights")
            found.append(table["weights"])
    return found


def attention(
    m: Bound,
    hidden_states: Sym,
    key_value_states: Sym | None,
    attention_mask: Sym | None,
    causal: bool,
    past_key_values: EncoderDecoderCache | None = None,
    index: int = 0,
) -> tuple[Sym, Sym | None]:
    """Mirror BartAttention.forward, of keys without a bias WhisperAttention.forward."""
    if isinstance(m.block, KeyBiaslessAttention):
        return scaled_attention(m, hidden_states, key_value_states, attention_mask, causal, past_key_values, index)
    batch, length, hidden = hidden_states.shape
    query_states = _heads(m, m.q_proj(hidden_states))
    current_states = hidden_states if key_value_states is None else key_value_states
    known = None if past_key_values is None or key_value_states is None else past_key_values.crossed(index)
    if known is not None:
        key_states, value_states = known
    else:
        key_states = m.k_proj(current_states)
        value_states = m.v_proj(current_states)
        key_states = _heads(m, key_states)
        value_states = _heads(m, value_states)
        if past_key_values is not None:
            key_states, value_states = past_key_values.update(key_states, value_states, index, key_value_states)
    del known
    attn_output, attn_weights = ops.encoder_attention(
        query_states, key_states, value_states, attention_mask, m.dropout, causal
    )
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, hidden)))
    attn_output = m.out_proj(attn_output)
    return attn_output, attn_weights


def scaled_attention(
    m: Bound,
    hidden_states: Sym,
    key_value_states: Sym | None,
    attention_mask: Sym | None,
    causal: bool,
    past_key_values: EncoderDecoderCache | None = None,
    index: int = 0,
) -> tuple[Sym, Sym | None]:
    """Mirror WhisperAttention.forward: queries are scaled beforehand, and all heads copied to the front."""
    batch, length, hidden = hidden_states.shape
    query_states = ops.contiguous(_heads(m, m.q_proj(hidden_states) * 1.0))
    current_states = hidden_states if key_value_states is None else key_value_states
    known = None if past_key_values is None or key_value_states is None else past_key_values.crossed(index)
    if known is not None:
        key_states, value_states = known
    else:
        key_states = ops.contiguous(_heads(m, m.k_proj(current_states)))
        value_states = ops.contiguous(_heads(m, m.v_proj(current_states)))
        if past_key_values is not None:
            key_states, value_states = past_key_values.update(key_states, value_states, index, key_value_states)
    del known
    attn_output, attn_weights = ops.encoder_attention(
        query_states, key_states, value_states, attention_mask, m.dropout, causal
    )
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, hidden)))
    attn_output = m.out_proj(attn_output)
    return attn_output, attn_weights


def _heads(m: Bound, x: Sym) -> Sym:
    return ops.transpose(ops.view(x, (*x.shape[:2], m.num_heads, m.head_dim)), 1, 2)


def layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    encoder_hidden_states: Sym | None = None,
    encoder_attention_mask: Sym | None = None,
    past_key_values: EncoderDecoderCache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror BartDecoderLayer.forward, without an encoder's states BartEncoderLayer.forward."""
    names, attend = m.names, attention
    residual = hidden_states
    if m.pre_norm:
        hidden_states = m[names.attention_norm](hidden_states)
    decodes = encoder_hidden_states is not None
    hidden_states, _ = attend(
        m[names.attention], hidden_states, None, attention_mask, decodes, past_key_values, index
    )  # fmt: skip
    hidden_states = ops.dropout(hidden_states, m.rate)
    hidden_states = residual + hidden_states
    if not m.pre_norm:
        hidden_states = m[names.attention_norm](hidden_states)
    if encoder_hidden_states is not None:
        residual = hidden_states
        if m.pre_norm:
            hidden_states = m[names.cross_norm](hidden_states)
        hidden_states, _ = attend(
            m[names.cross], hidden_states, encoder_hidden_states, encoder_attention_mask, False, past_key_values, index
        )
        hidden_states = ops.dropout(hidden_states, m.rate)
        hidden_states = residual + hidden_states
        if not m.pre_norm:
            hidden_states = m[names.cross_norm](hidden_states)
    residual = hidden_states
    if m.pre_norm:
        hidden_states = m[names.mlp_norm](hidden_states)
    hidden_states = ops.activate(m.mlp.activation, m.fc1(hidden_states))
    hidden_states = ops.dropout(hidden_states, m.inner_rate)
    hidden_states = m.fc2(hidden_states)
    hidden_states = ops.dropout(hidden_states, m.rate)
    hidden_states = residual + hidden_states
    if not m.pre_norm:
        hidden_states = m[names.mlp_norm](hidden_states)
    return hidden_states


def embedded(m: Bound, table: Bound, input_ids: Sym, model_type: str) -> Sym:
    """Mirror BartScaledWordEmbedding.forward, or what Pegasus and Marian do in their forward."""
    if model_type in SCALES:
        return scaled_embedding(table, input_ids)
    looked_up: Sym = table(input_ids)
    return looked_up * 1.0


def scaled_embedding(table: Bound, input_ids: Sym) -> Sym:
    """Mirror FooScaledWordEmbedding.forward: the hook that lets checkpointed layers train is on what it scales."""
    scaled: Sym = ops.embedding(table.weight, input_ids) * 1.0
    if table.tape.inputs_train:
        scaled.requires_grad = True
    return scaled


def placed(m: Bound, position_ids: Sym, model_type: str) -> Sym:
    """Mirror the forward of the positions' table: learned ones begin two rows later, the others never train."""
    found: Sym
    if model_type in LEARNED:
        found = m.embed_positions(ops.unary(position_ids, "add"))
    else:
        found = m.embed_positions(position_ids)
    return found


def computed(m: Bound, input_ids: Sym) -> Sym:
    """Mirror M2M100SinusoidalPositionalEmbedding.forward, which counts what is no padding: [B, S, H]."""
    with m.tape.no_grad():
        (batch, length), tape = input_ids.shape, m.tape
        position_ids = position_ids_from_input_ids(input_ids)
        found = tape.empty((batch * length, m.size), m["weights"].dtype, op="index_select")
        del position_ids
        return ops.view(found, (batch, length, m.size))


def encoder(
    m: Bound,
    input_ids: Sym,
    table: Bound,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    model_type: str,
    inputs_embeds: Sym | None = None,
) -> Sym:
    """Mirror BartEncoder.forward."""
    batch, length = input_ids.shape
    check_positions(m.embed_positions, length)
    inputs_embeds = embedded(m, table, input_ids, model_type)
    if model_type == M2M:
        embed_pos = computed(m.embed_positions, input_ids)
    else:
        position_ids = m.tape.empty((length,), "int64", op="arange")
        if model_type in LEARNED:
            position_ids = ops.expand(ops.unsqueeze(position_ids, 0), (batch, length))
        embed_pos = placed(m, position_ids, model_type)
        del position_ids
    hidden_states = inputs_embeds + embed_pos
    if m.parts.get("layernorm_embedding") is not None:
        hidden_states = m.layernorm_embedding(hidden_states)
    rate = next(iter(m.layers)).rate
    hidden_states = ops.dropout(hidden_states, rate)
    attention_mask = ops.bidirectional_mask(inputs_embeds, attention_mask)
    for index, each in enumerate(m.layers):
        hidden_states = run(each, index, layer, checkpointing, None, hidden_states, attention_mask)
    if m.parts.get("layer_norm") is not None:
        hidden_states = m.layer_norm(hidden_states)
    return hidden_states


def decoder(
    m: Bound,
    input_ids: Sym,
    table: Bound,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    encoder_hidden_states: Sym,
    encoder_attention_mask: Sym | None,
    model_type: str,
    past_key_values: EncoderDecoderCache | None = None,
    inputs_embeds: Sym | None = None,
) -> Sym:
    """Mirror BartDecoder.forward, which makes itself a mask of fp32 ones."""
    tape, (batch, length) = m.tape, input_ids.shape
    own = None if past_key_values is None else past_key_values.self_attention
    seen: Any = length if own is None else length + own.seq_length()
    check_positions(m.embed_positions, seen)
    inputs_embeds = embedded(m, table, input_ids, model_type)
    position_ids: Any = None
    if model_type != M2M:
        position_ids = ops.unary(tape.empty((length,), "int64", op="arange"), "add")
    attention_mask = tape.empty((batch, seen), "fp32", op="ones")
    causal_mask = own_mask(inputs_embeds, attention_mask, own)
    if model_type not in KEEPS_ONES:
        attention_mask, causal_mask = causal_mask, None
    encoder_attention_mask = ops.bidirectional_mask(inputs_embeds, encoder_attention_mask)
    if model_type == M2M:
        positions = computed(m.embed_positions, input_ids)
    else:
        positions = placed(m, ops.unsqueeze(position_ids, 0) if model_type in LEARNED else position_ids, model_type)
    if model_type in REUSES_IDS:
        position_ids = positions
    hidden_states = inputs_embeds + positions
    if model_type in REUSES_IDS:
        del positions
    if m.parts.get("layernorm_embedding") is not None:
        hidden_states = m.layernorm_embedding(hidden_states)
    rate = next(iter(m.layers)).rate
    hidden_states = ops.dropout(hidden_states, rate)
    for index, each in enumerate(m.layers):
        hidden_states = call(
            each, index, layer, checkpointing, past_key_values, hidden_states,
            causal_mask if model_type in KEEPS_ONES else attention_mask, encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
        )  # fmt: skip
        # What Blenderbot's last layer gave is held to the end.
        layer_outputs = hidden_states if model_type == BLENDERBOT else None  # noqa: F841
    tape.end_layers()
    if m.parts.get("layer_norm") is not None:
        hidden_states = m.layer_norm(hidden_states)
    return hidden_states


def own_mask(inputs_embeds: Sym, attention_mask: Sym, cache: Cache | None = None) -> Sym | None:
    """Mirror create_causal_mask of a mask that has no holes, wherever the batch has some."""
    tape = inputs_embeds.tape
    holes, tape.holes = tape.holes, False
    causal_mask = ops.causal_mask(inputs_embeds, attention_mask, cache, looks=False)
    tape.holes = holes
    return causal_mask


def model(
    m: Bound,
    input_ids: Sym,
    decoder_input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    model_type: str,
    past_key_values: EncoderDecoderCache | None = None,
) -> tuple[Sym, Sym]:
    """Mirror BartModel.forward: the last states of decoder and encoder."""
    m.tape.scope = "model.encoder"
    encoder_outputs = encoder(m.encoder, input_ids, m.shared, checkpointing, attention_mask, model_type)
    m.tape.scope = "model.decoder"
    decoder_outputs = decoder(
        m.decoder, decoder_input_ids, m.shared, checkpointing, None, encoder_outputs, attention_mask, model_type,
        past_key_values,
    )  # fmt: skip
    return decoder_outputs, encoder_outputs


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
    **options: Any,
) -> tuple[Sym | None, Sym, Any]:
    """Mirror BartForConditionalGeneration.forward: loss, logits, and what else the output holds.

    Of all these classes M2M-100's and PLBART's alone make a cache where there are labels.
    """
    refuse_positions(position_ids)
    refuse_half(m.model.shared.weight)
    if labels is None:
        raise UnsupportedError("An encoder-decoder is trained on labels.", "Play its encode and decode without them.")
    check_own(m.tape.loss)
    decoder_input_ids = shift_tokens_right(labels) if model_type in ENDS_FIRST else shift_right(labels)
    if use_cache and model_type in CACHES:
        past_key_values = encoder_decoder_cache(m.tape, len(m.model.decoder["layers"].stacked))
    outputs = model(
        m.model, input_ids, decoder_input_ids, checkpointing, attention_mask, model_type, past_key_values
    )  # fmt: skip
    m.tape.scope = "lm_head"
    lm_logits = ops.linear(outputs[0], m.model.shared.weight)
    if model_type != M2M:
        lm_logits = lm_logits + m.final_logits_bias
    return loss_of(lm_logits, labels), lm_logits, (outputs[1], past_key_values)


def encode(m: Bound, input_ids: Sym, checkpointing: Checkpointing, attention_mask: Sym | None, model_type: str) -> Sym:
    """Play the encoder alone, as `generate` calls it once."""
    refuse_half(m.model.shared.weight)
    m.tape.scope = "model.encoder"
    return encoder(m.model.encoder, input_ids, m.model.shared, checkpointing, attention_mask, model_type)


def decode(
    m: Bound,
    decoder_input_ids: Sym,
    encoder_outputs: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    model_type: str,
    past_key_values: EncoderDecoderCache | None,
    use_cache: bool,
) -> tuple[Sym, EncoderDecoderCache | None]:
    """Mirror BartForConditionalGeneration.forward where the encoder's states are given: logits and the cache."""
    if use_cache and past_key_values is None:
        past_key_values = encoder_decoder_cache(m.tape, len(m.model.decoder["layers"].stacked))
    m.tape.scope = "model.decoder"
    outputs = decoder(
        m.model.decoder, decoder_input_ids, m.model.shared, checkpointing, None, encoder_outputs, attention_mask,
        model_type, past_key_values,
    )  # fmt: skip
    m.tape.scope = "lm_head"
    lm_logits = ops.linear(outputs, m.model.shared.weight)
    if model_type != M2M:
        lm_logits = lm_logits + m.final_logits_bias
    return lm_logits, past_key_values


def loss_of(lm_logits: Sym, labels: Sym) -> Sym:
    """Return the loss of each token's logits [B, T, V], in their own dtype."""
    lm_logits.tape.scope = "loss"
    flat = ops.view(lm_logits, (ops.rows(lm_logits), lm_logits.shape[-1]))
    return ops.cross_entropy(flat, ops.view(labels, (flat.shape[0],)))


def refuse_half(weight: Sym) -> None:
    """Refuse weights in fp16: encoders look whether their states are finite, and bound them."""
    if weight.dtype == "fp16":
        fix = "Take bf16, fp32 or amp-fp16."
        raise UnsupportedError("oomph cannot play this encoder-decoder in pure fp16, where it bounds states.", fix)


def shift_tokens_right(input_ids: Sym) -> Sym:
    """Mirror mBART's shift_tokens_right, which begins with each row's last token that is no padding: int64 [B, T]."""
    tape, (batch, length) = input_ids.tape, input_ids.shape
    prev_output_tokens = tape.empty((batch, length), "int64", op="clone")
    ignored = tape.empty((batch, length), "bool", op="eq")
    del ignored
    unpadded = tape.empty((batch, length), "bool", op="ne")
    counted = tape.empty((batch,), "int64", op="sum")
    del unpadded
    index_of_eos = tape.empty((batch,), "int64", op="sub")
    del counted
    decoder_start_tokens = tape.empty((batch, 1), "int64", op="gather")
    copied = tape.empty((batch, length - 1), "int64", op="clone")
    del copied
    del index_of_eos, decoder_start_tokens
    return prev_output_tokens
