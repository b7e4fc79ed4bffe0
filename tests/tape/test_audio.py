"""estimate == trace for audio-language models, training and inference, event by event; what is refused of them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from oomph.errors import OomphError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.play import train_step
from oomph.play_infer import infer
from oomph.steps import step
from tests.tape.audio import KINDS, config, grid
from tests.tape.grid import compare

CASES = [*grid()]


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "job"), CASES, ids=[f"{i}-{raw['model_type']}" for i, (raw, _) in enumerate(CASES)])
def test_every_event_equals_the_trace(raw: dict[str, Any], job: TrainJob | InferJob) -> None:
    """Spectrograms, towers and what puts them among tokens: same allocations, frees, order and peak."""
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs


def deep(kind: str) -> dict[str, Any]:
    """A model of some layers more than a fold plays."""
    raw = config(random.Random(5), kind)
    raw["text_config"] |= {"num_hidden_layers": 12}
    return raw


@pytest.mark.parametrize("kind", KINDS)
def test_a_folded_step_is_the_step_in_full(kind: str) -> None:
    """With a recording and without: the same peak and the same that is there."""
    model = model_from_config(deep(kind))
    for seconds in (0, 1):
        job = TrainJob(seq_len=100, audio=seconds)
        folded, full = step(model, job), train_step(model, job)
        found = (folded.peak, folded.resident, folded.forward_end, folded.end)
        assert found == (full.peak, full.resident, full.live[full.forward_end], full.live[-1]), seconds
        assert folded.folded


def test_a_longer_recording_takes_voxtral_more_chunks() -> None:
    """And Qwen2-Audio no more memory: what is beyond its spectrogram is cut off."""
    for kind, longer in (("voxtral", True), ("qwen2_audio", False)):
        model = model_from_config(deep(kind))
        short, long = (train_step(model, TrainJob(seq_len=200, audio=seconds)).peak for seconds in (2, 6))
        assert (long > short) == longer, kind


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"audio": -1}, "audio cannot be"),
        ({"audio": 1, "images": 1}, "not both"),
        ({"audio": 1, "padding": True}, "recording with a padding mask"),
        ({"audio": 1, "objective": "dpo"}, "recording with the objective dpo"),
        ({"audio": 1, "seq_len": 20}, "does not fit"),
        ({"audio": 1, "attention": "flash_attention_2"}, "flash-attn"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], says: str) -> None:
    """With the problem, and the way out of it."""
    with pytest.raises(OomphError, match=says) as refused:
        train_step(model_from_config(deep("qwen2_audio")), TrainJob(**{"seq_len": 64, **changes}))
    assert refused.value.fix


def test_a_recording_is_refused_where_none_is_played() -> None:
    """By the name of the model, with the way to text alone."""
    text = model_from_config(deep("voxtral")["text_config"])
    job = InferJob(1, 64, audio=1)
    with pytest.raises(OomphError, match="recording with llama"):
        infer(text, job)
    with pytest.raises(OomphError, match="recording with llama"):
        train_step(text, TrainJob(audio=1))
    assert infer(model_from_config(deep("voxtral")), replace(job, seq_len=100)).peak


def test_layers_skipped_at_random_are_refused() -> None:
    """LayerDrop leaves out what a config says it may."""
    raw = deep("qwen2_audio")
    raw["audio_config"]["encoder_layerdrop"] = 0.1
    with pytest.raises(OomphError, match="skipped at random"):
        train_step(model_from_config(raw), TrainJob(seq_len=64))
