"""estimate == trace for encoder-decoders: every event of a step equals the real code's, both lengths open."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.caches import layer_caches
from oomph.engines.transformers_caches import Filled, dynamic_bytes
from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.play import play, train_step
from oomph.play_infer import infer
from oomph.steps import step
from tests.tape.grid import compare

T5: dict[str, Any] = {
    "model_type": "t5", "vocab_size": 515, "d_model": 48, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
}  # fmt: skip
GATED = {**T5, "feed_forward_proj": "gated-gelu", "num_decoder_layers": 3}
MT5 = {**GATED, "model_type": "mt5"}
UMT5 = {**GATED, "model_type": "umt5"}
JOB: dict[str, Any] = {"batch": 2, "seq_len": 37, "attention": "eager"}
BART: dict[str, Any] = {
    "model_type": "bart", "vocab_size": 515, "d_model": 48, "encoder_layers": 1, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 48,
    "max_position_embeddings": 128, "pad_token_id": 1, "attention_dropout": 0.1, "activation_dropout": 0.1,
}  # fmt: skip
MBART = {**BART, "model_type": "mbart"}
M2M_100 = {**BART, "model_type": "m2m_100", "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
PLBART = {**BART, "model_type": "plbart"}
BLENDERBOT = {**BART, "model_type": "blenderbot"}
PEGASUS = {**BART, "model_type": "pegasus"}
MARIAN = {**BART, "model_type": "marian", "decoder_vocab_size": 515}
WHISPER: dict[str, Any] = {
    "model_type": "whisper", "vocab_size": 515, "num_mel_bins": 20, "d_model": 48, "encoder_layers": 1,
    "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 48, "max_source_positions": 30, "max_target_positions": 128, "pad_token_id": 0, "dropout": 0.1,
    "bos_token_id": 1, "eos_token_id": 2, "begin_suppress_tokens": None,
}  # fmt: skip
FLASH: dict[str, Any] = {"attention": "flash", "steady": False}
ROWS: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    (T5, {"precision": "fp32", "dropout": False, "optimizer": "none", "steady": False}),
    (T5, {"precision": "bf16", "target_len": 20, "optimizer": "none", "steady": False}),
    (T5, {"precision": "amp-bf16", "padding": True, "target_len": 11, "steady": False}),
    (
        T5,
        {"precision": "fp32", "padding": True, "use_cache": True, "keep_outputs": True, "clip_gradients": True},
    ),
    (GATED, {"precision": "fp32", "padding": True, "use_cache": True, "accumulation": 2, "hold_logits": False}),
    (MT5, {"precision": "bf16", "method": "lora", "target_len": 9}),
    (T5, {"precision": "amp-bf16", "method": "lora", "targets": "all-linear", "steady": False}),
    (UMT5, {"precision": "amp-bf16", "padding": True, "use_cache": True, "target_len": 11, "steady": False}),
    (UMT5, {"precision": "bf16", "checkpointing": "non-reentrant", "method": "lora", "targets": "q,v"}),
    (
        {**GATED, "num_layers": 1},
        {"precision": "amp-bf16", "padding": True, "checkpointing": "non-reentrant", "checkpoint_every": 2},
    ),
    (BART, {**FLASH, "precision": "bf16", "target_len": 20, "checkpointing": "non-reentrant", "checkpoint_every": 2}),
    (MBART, {"precision": "amp-bf16", "padding": True, "steady": False}),
    (M2M_100, {**FLASH, "precision": "bf16", "padding": True, "checkpointing": "non-reentrant", "target_len": 11}),
    (PLBART, {"precision": "amp-bf16", "padding": True, "use_cache": True, "target_len": 11}),
    (PLBART, {**FLASH, "precision": "bf16", "checkpointing": "non-reentrant", "method": "lora", "targets": "q_proj"}),
    (BLENDERBOT, {"precision": "amp-bf16", "padding": True, "use_cache": True, "target_len": 11}),
    (
        BLENDERBOT,
        {**FLASH, "precision": "bf16", "checkpointing": "non-reentrant", "method": "lora", "targets": "q_proj"},
    ),
    (M2M_100, {"precision": "fp32", "use_cache": True, "keep_outputs": True, "method": "lora", "targets": "q_proj"}),
    (PEGASUS, {**FLASH, "precision": "fp32", "padding": True, "checkpointing": "reentrant", "target_len": 11}),
    (MARIAN, {**FLASH, "precision": "bf16", "padding": True, "method": "lora", "targets": "all-linear"}),
    (WHISPER, {**FLASH, "precision": "bf16", "checkpointing": "non-reentrant", "target_len": 20}),
    (WHISPER, {"precision": "amp-fp16", "method": "lora", "targets": "all-linear", "steady": False}),
    # The packages flash-attn: what is written is shorter or longer than what is read.
    (BART, {**FLASH, "attention": "flash_attention_2", "padding": True, "target_len": 11}),
    (
        {**M2M_100, "d_model": 64},
        {
            **FLASH,
            "attention": "flash_attention_3",
            "padding": True,
            "target_len": 50,
            "checkpointing": "non-reentrant",
        },
    ),
    ({**WHISPER, "d_model": 64}, {**FLASH, "attention": "flash_attention_3", "precision": "amp-bf16"}),
)


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "changes"), ROWS)
def test_every_event_equals_the_trace(raw: dict[str, Any], changes: dict[str, Any]) -> None:
    """Same allocations, same frees, same order, same peak, and the same bytes kept."""
    parting, ours, theirs = compare(raw, TrainJob(**{**JOB, **changes}))
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize(("raw", "changes"), ROWS)
def test_layers_fold_and_lengths_stay_open(raw: dict[str, Any], changes: dict[str, Any]) -> None:
    """Another depth and other lengths are the same events with other numbers."""
    model = model_from_config({**raw, "num_decoder_layers": 6, "decoder_layers": 6})
    for seq_len, target_len in ((37, 0), (64, 12), (9, 31)):
        job = TrainJob(**{**JOB, **changes, "seq_len": seq_len, "target_len": target_len})
        assert step(model, job).peak == max(train_step(model, job, warm_up=job.keep_outputs).live)


@pytest.mark.parametrize(
    ("raw", "changes", "reason"),
    [
        (T5, {"attention": "flash"}, "eager"),
        (T5, {"checkpointing": "reentrant"}, "reentrant"),
        (T5, {"precision": "fp16"}, "fp16"),
        (BART, {"precision": "fp16"}, "fp16"),
        ({**BART, "encoder_layerdrop": 0.1}, {}, "LayerDrop"),
        ({**BART, "model_type": "m2m_100"}, {}, "LayerDrop"),
        ({**WHISPER, "apply_spec_augment": True}, {}, "spec_augment"),
        (WHISPER, {"padding": True}, "without masks"),
        ({**BART, "tie_word_embeddings": False}, {}, "not tied"),
        ({**MARIAN, "share_encoder_decoder_embeddings": False}, {}, "two vocabularies"),
        ({**BART, "architectures": ["BartForSequenceClassification"]}, {}, "the head of"),
    ],
)
def test_what_is_not_played_is_refused(raw: dict[str, Any], changes: dict[str, Any], reason: str) -> None:
    """By name, with a way to go on."""
    with pytest.raises(UnsupportedError, match=reason):
        step(model_from_config(raw), TrainJob(**{**JOB, **changes}))


def test_a_spectrogram_is_as_long_as_the_processor_makes_it() -> None:
    """Whisper reads 3000 frames of 80 mels in the weights' dtype, whatever is written; reentrant checkpoints need a
    gradient at the convolutions."""
    model = model_from_config({**WHISPER, "num_mel_bins": 80, "max_source_positions": 1500})
    found = train_step(model, TrainJob(2, 16, precision="bf16"), on="trace")
    read = next(made for at, made in enumerate(found.recorder.allocations) if found.recorder.why.get(at) == "input")
    assert (read.shape, read.n_bytes) == ((2, 80, 3000), 2 * 80 * 3000 * 2)
    with pytest.raises(UsageError, match="trains nothing"):
        step(model, TrainJob(2, 16, method="lora", targets="q_proj", checkpointing="reentrant"))


WRITING: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    (T5, {"attention": "eager", "decode": 2, "padding": True}),
    (GATED, {"attention": "eager", "decode": 1, "cache": "none", "precision": "fp32"}),
    (MT5, {"attention": "eager"}),
    (UMT5, {"attention": "eager", "decode": 2, "padding": True}),
    (BART, {"decode": 2, "padding": True}),
    (BART, {"decode": 2, "attention": "eager", "precision": "fp32"}),
    (MBART, {"decode": 2, "attention": "math", "padding": True}),
    (PEGASUS, {"decode": 1, "cache": "none"}),
    (PLBART, {"decode": 2, "padding": True}),
    (BLENDERBOT, {"decode": 2, "padding": True}),
    (MARIAN, {"decode": 2, "attention": "efficient"}),
    (WHISPER, {"decode": 3, "attention": "flash_attention_2"}),
    (WHISPER, {"decode": 2, "attention": "eager", "precision": "fp32"}),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "job"), WRITING, ids=[f"{i}-{raw['model_type']}" for i, (raw, _) in enumerate(WRITING)]
)
def test_every_event_of_writing_equals_the_trace(raw: dict[str, Any], job: dict[str, Any]) -> None:
    """The encoder once, then the decoder token by token, with what it keeps of both or without."""
    parting, ours, theirs = compare(raw, InferJob(**{"batch": 2, "seq_len": 29, **job}))
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize(("raw", "job"), [(T5, {"attention": "eager"}), (BART, {"padding": True}), (WHISPER, {})])
def test_a_deep_decoder_writes_as_one_played_in_full(raw: dict[str, Any], job: dict[str, Any]) -> None:
    """The recipe's peak is that of every event."""
    depth = "num_decoder_layers" if raw["model_type"] == "t5" else "decoder_layers"
    model = model_from_config({**raw, depth: 12})
    for decode in (0, 3):
        writes = InferJob(3, 17, decode=decode, **job)
        assert step(model, writes).peak == max(infer(model, writes).live)


def test_the_cache_of_an_encoder_decoder() -> None:
    """Keys and values of all that Whisper's encoder gives, whatever is read, and of each token that is written."""
    frames, written = 1536, 8  # lengths whose bytes are not rounded
    model = model_from_config({**WHISPER, "max_source_positions": frames})
    found = infer(model, InferJob(2, 8, decode=written - 1))
    per_token = 2 * 2 * 2 * 48 * 2  # sequences, layers, keys and values, width, bytes
    assert found.kept("kv cache") == per_token * (frames + written)
    assert dynamic_bytes(layer_caches(model), Filled(2, 1, written - 1)) == per_token * (frames + written)


def test_a_static_cache_of_an_encoder_decoder_is_refused() -> None:
    """With what is played instead."""
    with pytest.raises(UnsupportedError, match="dynamic"):
        play(model_from_config(T5), InferJob(1, 8, cache="static", attention="eager"))


def test_a_second_length_is_an_encoder_decoders() -> None:
    """A decoder writes as many tokens as it reads."""
    gpt2 = {"model_type": "gpt2", "vocab_size": 64, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    with pytest.raises(UsageError, match="target-len"):
        step(model_from_config(gpt2), TrainJob(1, 8, target_len=4))
