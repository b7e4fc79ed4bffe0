"""Tiny configs of audio-language models, and the jobs on which the tape must equal the trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from oomph.job import InferJob, TrainJob
from tests.tape import grid as plain
from tests.tape.dense import base
from tests.tape.vision import Config


def dropout(rng: random.Random) -> Config:
    """Rates that are zero in published files."""
    return {name: rng.choice([0.0, 0.0, 0.1]) for name in ("dropout", "attention_dropout", "activation_dropout")}


def qwen2_audio(rng: random.Random) -> Config:
    """Qwen2-Audio, whose spectrograms are 0.96 seconds long."""
    heads = rng.choice([2, 3])
    audio = {
        "d_model": heads * rng.choice([8, 16]), "encoder_attention_heads": heads, "encoder_layers": 2,
        "encoder_ffn_dim": rng.choice([24, 40]), "num_mel_bins": 16, "max_source_positions": rng.choice([48, 60]),
    }  # fmt: skip
    text = base(rng) | {"model_type": rng.choice(["qwen2", "qwen2", "llama"])}
    return {"audio_config": audio | dropout(rng), "text_config": text, "audio_token_index": 3, "audio_token_id": 3}


def voxtral(rng: random.Random) -> Config:
    """Voxtral, whose projector joins four states."""
    heads = rng.choice([2, 3])
    hidden = heads * rng.choice([8, 16])
    audio = {
        "hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": 2, "intermediate_size": 4 * hidden,
        "num_mel_bins": 16, "max_source_positions": rng.choice([48, 60]),
    }  # fmt: skip
    text = base(rng) | {"model_type": "llama"}
    return {"audio_config": audio | dropout(rng), "text_config": text, "audio_token_id": 3}


KINDS = {"qwen2_audio": qwen2_audio, "voxtral": voxtral}


def config(rng: random.Random, kind: str) -> Config:
    """A tiny model."""
    return {"model_type": kind, **KINDS[kind](rng)}


def job(rng: random.Random, kind: str, audio: int) -> TrainJob:
    """A job of so many seconds, of adapters now and then, the tower frozen or not."""
    drawn = plain.job(rng, kind)
    drawn = replace(
        drawn, seq_len=100, batch=min(drawn.batch, 2), accumulation=1, audio=audio, padding=False, packing=False,
        use_cache=False, freeze_vision=rng.random() < 0.4,
    )  # fmt: skip
    if rng.random() < 0.6:
        return drawn
    return replace(drawn, method="lora", targets=rng.choice(["all-linear", "q_proj,v_proj"]), rank=4)


def infer_job(rng: random.Random, audio: int) -> InferJob:
    """A prefill of text and a recording, and two tokens."""
    attention, cache = rng.choice(["math", "eager", "flash"]), rng.choice(["static", "dynamic"])
    return InferJob(2, 100, 2, attention=attention, cache=cache, audio=audio)


def text_job(rng: random.Random) -> TrainJob:
    """A step of text alone."""
    checkpointing = rng.choice(["none", "non-reentrant"])
    return TrainJob(2, 37, padding=rng.random() < 0.5, checkpointing=checkpointing, steady=False)


def grid(seed: int = 20261202) -> Iterator[tuple[Config, TrainJob | InferJob]]:
    """A training step of each kind with a recording and one of text alone, and inference."""
    rng = random.Random(seed)
    for kind in KINDS:
        for seconds in (1, 2):
            yield config(rng, kind), job(rng, kind, seconds)
        yield config(rng, kind), infer_job(rng, 1)
        yield config(rng, kind), text_job(rng)
