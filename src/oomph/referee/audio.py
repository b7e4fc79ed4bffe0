"""Recordings as a processor hands them to an audio-language model: a spectrogram, and its places among the tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from oomph.audio import FRAMES, chunks, heard, pooled_tokens
from oomph.errors import UnsupportedError
from oomph.job import InferJob, TrainJob

STRIDE, JOINED = 2, 4  # frames that Whisper's convolutions make one of, and states that Voxtral's projector does


def add_audio(inputs: dict[str, Any], model: Any, job: TrainJob | InferJob) -> None:
    """Put a recording into each row of a batch: placeholders into its ids, and the spectrograms.

    Raises UnsupportedError for a class whose processor is not known here.
    """
    config, device = model.config, model.device
    kind = config.model_type
    if kind not in MADE:
        raise UnsupportedError(f"The trace knows no recordings of {kind[:80]}.", "Leave --audio out.")
    tokens, made = MADE[kind](config, job, device)
    if tokens + 2 > job.seq_len:
        raise UnsupportedError(f"A recording of {tokens} tokens does not fit {job.seq_len} tokens.")
    inputs["input_ids"][:, 1 : 1 + tokens].fill_(config.audio_token_id)
    inputs["input_ids"].oomph_pictured = tokens  # what a mask of them holds, see fake.py
    features = made["input_features"]
    if hasattr(features, "fake_mode"):
        features.fake_mode.number = job.batch * tokens  # what a count of them is read as
    inputs |= made


def qwen2_audio(config: Any, job: TrainJob | InferJob, device: Any) -> tuple[int, dict[str, Any]]:
    """Qwen2AudioProcessor: spectrograms of one length [B, mels, frames] fp32, and which frames count int64."""
    audio = config.audio_config
    whole = audio.max_source_positions * STRIDE
    made = {
        "input_features": torch.zeros(job.batch, audio.num_mel_bins, whole, device=device),
        "feature_attention_mask": torch.zeros(job.batch, whole, dtype=torch.long, device=device),
    }
    own = heard(job.audio, whole)
    made["feature_attention_mask"][:, :own].fill_(1)
    return pooled_tokens(own), made


def voxtral(config: Any, job: TrainJob | InferJob, device: Any) -> tuple[int, dict[str, Any]]:
    """VoxtralProcessor: spectrograms of one length, as many as a recording takes [B · chunks, mels, frames] fp32."""
    audio = config.audio_config
    whole = audio.max_source_positions * STRIDE
    count = chunks(job.audio, whole)
    features = torch.zeros(job.batch * count, audio.num_mel_bins, whole, device=device)
    each = audio.max_source_positions * audio.hidden_size // audio.intermediate_size
    return count * each, {"input_features": features}


MADE = {"qwen2_audio": qwen2_audio, "voxtral": voxtral}


@contextmanager
def heard_as_given(raw: Mapping[str, Any], job: TrainJob | InferJob) -> Iterator[None]:
    """Answer what Qwen2-Audio's class asks on fake tensors: that placeholders follow each other, as its processor has
    them, and that a recording shorter than its spectrogram has padding.
    """
    if not job.audio or raw.get("model_type") != "qwen2_audio":
        yield
        return
    import transformers.masking_utils as masking
    from transformers.models.qwen2_audio import modeling_qwen2_audio as module

    whole = int((raw.get("audio_config") or {}).get("max_source_positions", 1500)) * STRIDE

    def ignored(padding_mask: Any, kv_length: int, local_attention_size: int | None = None) -> bool:
        padding_mask.all()
        return job.audio * FRAMES >= whole

    with (
        patch.object(module, "is_torchdynamo_compiling", lambda: True),
        patch.object(masking, "_ignore_bidirectional_mask_sdpa", ignored),
    ):
        yield
