"""Hybrids of attention and layers with a state: the tape's step equals the real code's, event by event.

The real code is transformers' own in torch, which a user without causal_conv1d and flash-linear-attention gets.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from oomph.errors import OomphError, UnsupportedError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.play import play, train_step
from oomph.programs.attention_kernels import kernel_note
from oomph.steps import step
from tests.tape.grid import compare, infer_job, job
from tests.tape.hybrids import CONFIGS, deep

SEED = 20261126
LORA = TrainJob(
    batch=2, seq_len=40, precision="bf16", attention="efficient", padding=True, method="lora", targets="all-linear",
    checkpointing="non-reentrant", optimizer="adamw", clip_gradients=True,
)  # fmt: skip
LIGHT = TrainJob(batch=2, seq_len=70, padding=True, optimizer="sgd")  # where a layer is some thousand events
ADAPTED = {
    "falcon_h1": "q_proj,in_proj,gate_proj",
    "lfm2_moe": "all-linear",
    "qwen3_next": "all-linear",
    "recurrent_gemma": "all-linear",
    "zamba": "in_proj,out_proj",
}
BY_TOKEN, SHORT = ("recurrent_gemma", "zamba"), 4  # a trace of their recurrence takes a second for few tokens


def grid() -> list[tuple[dict[str, Any], TrainJob | InferJob]]:
    """A few jobs of each family, always the same ones."""
    found: list[tuple[dict[str, Any], TrainJob | InferJob]] = []
    for name, config in CONFIGS.items():
        rng = random.Random(f"{name}{SEED}")
        adapted = replace(LORA, targets=ADAPTED.get(name, "all-linear"))
        raw = config(rng)
        training = (raw, LIGHT if name == "kimi_linear" else adapted if name in ADAPTED else job(rng, name))
        inference = (config(rng), replace(infer_job(rng), seq_len=29, decode=1, cache="dynamic"))
        short = name in BY_TOKEN
        found += [(raw, replace(each, seq_len=SHORT) if short else each) for raw, each in (training, inference)]
    return found


GRID = grid()


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "job"), GRID, ids=[f"{i}-{raw['model_type']}" for i, (raw, _) in enumerate(GRID)])
def test_every_event_of_a_hybrid_equals_the_trace(raw: dict[str, Any], job: TrainJob | InferJob) -> None:
    """Same allocations, same frees, same order, same peak, and the same bytes kept."""
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folded_step_is_the_step_played_in_full(name: str) -> None:
    """Of a model with periods of layers, and with other numbers than those it was played with."""
    for layers, seq_len in ((8, SHORT), (12, 2 * SHORT)) if name in BY_TOKEN else ((8, 100), (12, 70)):
        model = model_from_config(deep(name, layers))
        asked = TrainJob(batch=2, seq_len=seq_len, precision="bf16", optimizer="sgd", checkpointing="reentrant")
        assert step(model, asked).peak == train_step(model, asked).peak


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "lora", "targets": "all-linear"}, "adapters on shared blocks"),
        ({"checkpointing": "reentrant", "checkpoint_every": 2}, "goes through a graph twice"),
    ],
)
@pytest.mark.parametrize("name", ["zamba", "zamba2"])
def test_what_zamba_does_not_play_is_refused(name: str, changes: dict[str, Any], reason: str) -> None:
    """Adapters that PEFT makes once per use; a checkpoint on which the real class fails."""
    kinds = ["linear_attention", "hybrid", "linear_attention", "hybrid"]
    raw = deep(name, 4) | {"layers_block_type": kinds, "num_mem_blocks": 1}
    with pytest.raises(OomphError, match=reason):
        play(model_from_config(raw), TrainJob(batch=2, seq_len=9, **changes))


def test_a_decoder_without_attention_is_refused() -> None:
    """No such model is known, and no rotary table's size."""
    raw = deep("lfm2", 4) | {"layer_types": ["conv"] * 4}
    with pytest.raises(UnsupportedError, match="without attention"):
        play(model_from_config(raw), TrainJob())


def test_recurrent_gemma_is_played_token_by_token() -> None:
    """So many tokens and no more; states in modules go with no search; a decoder without attention is refused."""
    raw = deep("recurrent_gemma", 3)
    model = model_from_config(raw)
    with pytest.raises(UnsupportedError, match="recurrence of at most 2048 tokens"):
        play(model, TrainJob(1, 2049))
    with pytest.raises(OomphError, match="no search goes back"):
        play(model, InferJob(1, 9, decode=2, beams=2))
    with pytest.raises(UnsupportedError, match="without attention"):
        play(model_from_config({**raw, "block_types": ["recurrent"]}), TrainJob(1, 9))


def test_checkpoints_of_recurrent_gemma_keep_what_they_recomputed() -> None:
    """The state that a module keeps holds the graph it came from, until the next forward pass: a steady step starts
    with it.
    """
    model = model_from_config(deep("recurrent_gemma", 6))
    job = TrainJob(2, 9, optimizer="none")
    plain, inputs, all_of_it = (
        train_step(model, replace(job, checkpointing=kind)).resident for kind in ("none", "reentrant", "non-reentrant")
    )
    assert plain < inputs < all_of_it


def test_a_model_with_a_tower_says_which_class_is_played() -> None:
    """Qwen3.5's name loads two classes, one without the tower."""
    raw = {
        "model_type": "qwen3_5",
        "text_config": deep("qwen3_5_text", 4),
        "vision_config": {"deepstack_visual_indexes": []},
    }
    assert any("decoder alone" in note for note in kernel_note(model_from_config(raw), "flash"))
    assert not any("decoder alone" in note for note in kernel_note(model_from_config(deep("qwen3_5_text", 4)), "flash"))
