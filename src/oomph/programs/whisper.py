"""WhisperForConditionalGeneration.forward with its local variables: BART's layers behind two convolutions.

Source: transformers 5.23, models/whisper/modeling_whisper.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError, UsageError
from oomph.losses.own import check_own
from oomph.programs.bart import layer, loss_of, refuse_half
from oomph.programs.cache import EncoderDecoderCache, encoder_decoder_cache
from oomph.programs.frame import call, check_positions, full_attention, no_buffers, refuse_positions, run
from oomph.programs.t5 import shift_right
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

buffers = no_buffers
sliding_windows = full_attention("model.decoder.layers")


def reads(m: Bound, batch: Size, dtype: str) -> dict[str, tuple[tuple[Size, ...], str]]:
    """Return what a batch holds beside labels: a spectrogram [B, mels, frames] of fixed length in this dtype."""
    encoder = m.model.encoder
    frames = encoder.embed_positions.rows * encoder.conv2.stride
    return {"input_features": ((batch, encoder.conv1.in_channels, frames), dtype)}


def encoder(m: Bound, input_features: Sym, checkpointing: Checkpointing) -> Sym:
    """Mirror WhisperEncoder.forward."""
    inputs_embeds = ops.activate("gelu", m.conv1(input_features))
    inputs_embeds = ops.activate("gelu", m.conv2(inputs_embeds))
    inputs_embeds = ops.transpose(inputs_embeds, 1, 2)
    all_positions = m.tape.empty((m.embed_positions.rows,), "int64", op="arange")
    hidden_states: Sym = inputs_embeds + m.embed_positions(all_positions)
    hidden_states = ops.dropout(hidden_states, next(iter(m.layers)).rate)
    for index, each in enumerate(m.layers):
        hidden_states = run(each, index, layer, checkpointing, None, hidden_states, None)
    hidden_states = m.layer_norm(hidden_states)
    return hidden_states


def decoder(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    encoder_hidden_states: Sym,
    past_key_values: EncoderDecoderCache | None = None,
) -> Sym:
    """Mirror WhisperDecoder.forward, whose positions are rows of a parameter."""
    tape, (batch, length) = m.tape, input_ids.shape
    own = None if past_key_values is None else past_key_values.self_attention
    seen: Any = length if own is None else length + own.seq_length()
    check_positions(m.embed_positions, seen)
    inputs_embeds = m.embed_tokens(input_ids)
    position_ids = ops.unary(tape.empty((length,), "int64", op="arange"), "add")
    position_ids = tape.empty((batch, length), "int64", op="repeat")
    positions = ops.take(m.embed_positions.weight, position_ids)
    hidden_states: Sym = inputs_embeds + positions
    hidden_states = ops.dropout(hidden_states, next(iter(m.layers)).rate)
    causal_mask = ops.causal_mask(inputs_embeds, None, own)
    for index, each in enumerate(m.layers):
        hidden_states = call(
            each, index, layer, checkpointing, past_key_values, hidden_states, causal_mask, encoder_hidden_states,
            encoder_attention_mask=None,
        )  # fmt: skip
    tape.end_layers()
    hidden_states = m.layer_norm(hidden_states)
    return hidden_states


def model(m: Bound, input_features: Sym, decoder_input_ids: Sym, checkpointing: Checkpointing) -> tuple[Sym, Sym]:
    """Mirror WhisperModel.forward: the last states of decoder and encoder."""
    m.tape.scope = "model.encoder"
    encoder_outputs = encoder(m.encoder, input_features, checkpointing)
    m.tape.scope = "model.decoder"
    decoder_outputs = decoder(m.decoder, decoder_input_ids, checkpointing, encoder_outputs)
    return decoder_outputs, encoder_outputs


def causal_lm(
    m: Bound,
    input_features: Sym,
    labels: Sym | None,
    checkpointing: Checkpointing,
    model_type: str,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    use_cache: bool = False,
    **options: Any,
) -> tuple[Sym | None, Sym, Any]:
    """Mirror WhisperForConditionalGeneration.forward: loss, logits, and what else the output holds."""
    refuse_positions(position_ids)
    refuse_half(m.model.decoder.embed_tokens.weight)
    if attention_mask is not None or use_cache:
        raise UnsupportedError("oomph plays Whisper without masks and caches.", "Say --no-padding --no-use-cache.")
    if labels is None:
        raise UnsupportedError("An encoder-decoder is trained on labels.", "Play its encode and decode without them.")
    check_own(m.tape.loss)
    m.tape.inputs_train = False  # transformers lets inputs train where they are token ids
    if checkpointing.kind == "reentrant" and not m.model.encoder.conv1.weight.requires_grad:
        fix = "Say --checkpointing non-reentrant."
        raise UsageError("Behind frozen convolutions a reentrant checkpoint trains nothing.", fix)
    decoder_input_ids = shift_right(labels)
    outputs = model(m.model, input_features, decoder_input_ids, checkpointing)
    m.tape.scope = "proj_out"
    lm_logits = ops.linear(outputs[0], m.model.decoder.embed_tokens.weight)
    return loss_of(lm_logits, labels), lm_logits, outputs[1]


def encode(
    m: Bound, input_features: Sym, checkpointing: Checkpointing, attention_mask: Sym | None, model_type: str
) -> Sym:
    """Play the encoder alone, as `generate` calls it once."""
    refuse_half(m.model.decoder.embed_tokens.weight)
    if attention_mask is not None:
        raise UnsupportedError("oomph plays Whisper without masks.", "Say --no-padding.")
    m.tape.scope = "model.encoder"
    return encoder(m.model.encoder, input_features, checkpointing)


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
    """Mirror WhisperForConditionalGeneration.forward where the encoder's states are given: logits and the cache."""
    if use_cache and past_key_values is None:
        past_key_values = encoder_decoder_cache(m.tape, len(m.model.decoder["layers"].stacked))
    m.tape.scope = "model.decoder"
    outputs = decoder(m.model.decoder, decoder_input_ids, checkpointing, encoder_outputs, past_key_values)
    m.tape.scope = "proj_out"
    lm_logits = ops.linear(outputs, m.model.decoder.embed_tokens.weight)
    return lm_logits, past_key_values
