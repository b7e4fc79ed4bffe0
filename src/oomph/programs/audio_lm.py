"""Qwen2AudioForConditionalGeneration.forward and VoxtralForConditionalGeneration's: Whisper's encoder, a map or two,
and a decoder that is handed embeddings.

Source: transformers 5.23, models/qwen2_audio/modeling_qwen2_audio.py, models/voxtral/modeling_voxtral.py.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.audio import chunks, heard, pooled_tokens
from oomph.losses.own import check_own
from oomph.ops.fused_head import take_where
from oomph.programs import llama, towers
from oomph.programs.cache import Cache
from oomph.programs.frames import FRAMES
from oomph.programs.llava import sliding_windows
from oomph.programs.towers import Images, check_heard, tower_buffers
from oomph.programs.whisper_tower import STRIDE, tower
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes, Size, product
from oomph.tape.sym import Sym

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob

__all__ = ["buffers", "causal_lm", "inputs_of_audio", "sliding_windows", "updated"]


def buffers(m: Bound) -> list[Sym]:
    """Return the language model's buffers: the tower has none."""
    return [*tower_buffers(m.model.audio_tower), *llama.model_buffers(m.model.language_model)]


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that get a gradient: of text alone the language model's."""
    return towers.updated(m, parameters)


def inputs_of_audio(m: Bound, job: TrainJob | InferJob) -> Shapes:
    """Return what a batch has of recordings, one of a sequence: spectrograms, and of Qwen2-Audio which frames count."""
    audio_tower = m.model.audio_tower
    frames = operator.index(audio_tower.num_positions) * STRIDE
    if audio_tower.pooled:
        return {
            "input_features": ((job.batch, audio_tower.mel_bins, frames), "fp32"),
            "feature_attention_mask": ((job.batch, frames), "int64"),
        }
    return {"input_features": ((job.batch * chunks(job.audio, frames), audio_tower.mel_bins, frames), "fp32")}


def causal_lm(
    m: Bound,
    input_ids: Sym,
    labels: Sym | None,
    checkpointing: Checkpointing,
    model_type: str,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    use_cache: bool = False,
    logits_to_keep: Size = 0,
    audio: Images | None = None,
) -> tuple[Any, ...]:
    """Mirror Qwen2AudioForConditionalGeneration.forward, which knows no logits_to_keep, or Voxtral's: loss, logits and
    cache.
    """
    language_model = m.model.language_model
    inputs_embeds = language_model.embed_tokens(input_ids)
    put = with_recordings if m.model.audio_tower.pooled else with_chunks
    held: list[Any] = []  # locals of the model's forward, and what its output holds
    kept: list[Any] = []
    if audio:
        inputs_embeds, held, kept = put(m.model, input_ids, inputs_embeds, audio, checkpointing)  # noqa: RUF059
    hidden_states, past_key_values = llama.model(
        language_model, None, checkpointing, FRAMES[model_type], attention_mask, position_ids, past_key_values,
        inputs_embeds, use_cache=use_cache,
    )  # fmt: skip
    del inputs_embeds
    while held:
        held.pop(0)
    table = language_model.embed_tokens.weight
    if not m.model.audio_tower.pooled:
        loss, logits = llama.scored(m.lm_head, hidden_states, table, labels, logits_to_keep)
        return loss, logits, past_key_values
    _, logits = llama.scored(m.lm_head, hidden_states, table, None, 0)
    assert logits is not None
    loss = None if labels is None else own_loss(logits, labels, attention_mask)
    return loss, logits, past_key_values


def own_loss(logits: Sym, labels: Sym, attention_mask: Sym | None) -> Sym:
    """Mirror the loss that the class writes out, of logits in their own dtype: where there is a mask, it picks rows."""
    check_own(logits.tape.loss)
    (batch, length), vocab = labels.shape, logits.shape[-1]
    shift_logits = ops.slice_axis(logits, 1, 0, length - 1)
    shift_labels = ops.slice_axis(labels, 1, 1, length)
    if attention_mask is not None:
        counts = logits.tape.empty((batch, length - 1), "bool", op="ne")
        shift_logits = take_where(shift_logits, counts, batch * (length - 1))
        del counts
        counts = logits.tape.empty((batch, length - 1), "bool", op="ne")
        shift_labels = take_where(shift_labels, counts, batch * (length - 1))
        del counts
    else:
        shift_logits, shift_labels = ops.contiguous(shift_logits), ops.contiguous(shift_labels)
        shift_logits = ops.view(shift_logits, (batch * (length - 1), vocab))
        shift_labels = ops.view(shift_labels, (batch * (length - 1),))
    return ops.cross_entropy(shift_logits, shift_labels)


def with_recordings(
    m: Bound, input_ids: Sym, inputs_embeds: Sym, audio: Images, checkpointing: Checkpointing
) -> tuple[Sym, list[Any], list[Any]]:
    """Mirror Qwen2AudioModel.forward up to its decoder: embeddings with recordings among them, and its locals."""
    tape, (batch, length) = m.tape, input_ids.shape
    input_features = audio["input_features"]
    whole = operator.index(input_features.shape[2])
    own = heard(tape.audio, whole)
    places = pooled_tokens(own)
    check_heard(m, length, places)
    audio_feat_lengths, audio_output_lengths = lengths(m, batch)
    frames = (whole - 2) // STRIDE + 1
    seq_range = tape.empty((frames,), "int64", op="arange")
    padding_mask = tape.empty((batch, frames), "bool", op="ge")
    others = tape.empty((batch, frames), "bool", op="bitwise_not")
    audio_attention_mask_2d = tape.empty((batch, frames), "int64", op="_to_copy")
    del others
    dummy_embeds = tape.empty((batch, frames, 1), inputs_embeds.dtype, op="zeros")
    audio_attention_mask = ops.bidirectional_mask(dummy_embeds, audio_attention_mask_2d, holes=own < whole)
    selected_audio_feature = tower(m.audio_tower, input_features, audio_attention_mask, checkpointing)
    features = m.multi_modal_projector.linear(selected_audio_feature)
    audio_tokens = tape.empty((batch, length), "bool", op="eq")
    legacy_processing = _consecutive(m, batch, length)
    numbers = tape.empty((features.shape[1],), "int64", op="arange")
    audio_features_mask = tape.empty((batch, features.shape[1]), "bool", op="lt")
    del numbers
    features = take_where(features, audio_features_mask, batch * places)
    found = tape.empty((batch, length), "bool", op="eq")
    counted = tape.empty((), "int64", op="sum")
    del found
    del counted
    special_audio_mask = tape.empty((batch, length), "bool", op="eq")
    features = ops.cast(features, inputs_embeds.dtype)
    mask = Sym((batch, length, 1), "bool", (length, 1, 1), special_audio_mask.storage)
    inputs_embeds = ops.masked_scatter(inputs_embeds, mask, features)
    del mask
    held = [  # lengths_expand, behind seq_range, is of audio_feat_lengths
        audio_output_lengths, seq_range, audio_feat_lengths, padding_mask, audio_attention_mask_2d, dummy_embeds,
        audio_attention_mask, selected_audio_feature, features, audio_tokens, legacy_processing, audio_features_mask,
        special_audio_mask,
    ]  # fmt: skip
    return inputs_embeds, held, []


def lengths(m: Bound, batch: Size) -> tuple[Sym, Sym]:
    """Mirror _get_feat_extract_output_lengths: how long spectrograms are behind convolutions and pool, int64 [B]."""
    tape = m.tape

    def made(op: str) -> Sym:
        return tape.empty((batch,), "int64", op=op)

    frames = made("sum")
    less = made("sub")
    halved = made("floor_divide")
    del less
    input_lengths = made("add")
    del halved, frames
    less = made("sub")
    halved = made("floor_divide")
    del less
    output_lengths = made("add")
    del halved
    return input_lengths, output_lengths


def _consecutive(m: Bound, batch: Size, length: Size) -> Sym:
    """Return whether no two tokens of a recording stand together: a boolean."""
    tape = m.tape
    both = tape.empty((batch, length - 1), "bool", op="bitwise_and")
    count = tape.empty((), "int64", op="sum")
    del both
    none = tape.empty((), "bool", op="eq")
    del count
    return none


def with_chunks(
    m: Bound, input_ids: Sym, inputs_embeds: Sym, audio: Images, checkpointing: Checkpointing
) -> tuple[Sym, list[Any], list[Any]]:
    """Mirror VoxtralModel.forward up to its decoder: embeddings with recordings among them, its locals, and what its
    output holds of them.
    """
    tape, (batch, length, hidden) = m.tape, inputs_embeds.shape
    audio_hidden_states = tower(m.audio_tower, audio["input_features"], None, checkpointing)
    places = product(audio_hidden_states.shape) // m.audio_tower.ffn_size
    check_heard(m, length, places // batch)
    joined = ops.view(audio_hidden_states, (places, m.audio_tower.ffn_size))
    audio_embeds = projected(m.multi_modal_projector, joined)
    del audio_hidden_states, joined
    special_audio_mask = tape.empty((batch, length), "bool", op="eq")
    mask = Sym((batch, length, hidden), "bool", (length, 1, 0), special_audio_mask.storage)
    n_audio_tokens = tape.empty((), "int64", op="sum")
    compared = take_where(inputs_embeds, mask, places * hidden)
    del compared
    del n_audio_tokens
    inputs_embeds = ops.masked_scatter(inputs_embeds, mask, ops.cast(audio_embeds, inputs_embeds.dtype))
    del mask
    return inputs_embeds, [special_audio_mask], [audio_embeds]


def projected(m: Bound, audio_features: Sym) -> Sym:
    """Mirror VoxtralMultiModalProjector.forward."""
    hidden_states: Sym = m.linear_1(audio_features)
    hidden_states = ops.activate(m.activation, hidden_states)
    hidden_states = m.linear_2(hidden_states)
    return hidden_states
