"""Models whose code comes with them: every allocation and free is that of the real classes, as a recording says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.play import play, train_step
from oomph.steps import step
from tests.tape.golden import estimated, read
from tests.tape.remote_code import GOLDEN

ROWS = read(GOLDEN)
FIRST = {raw["model_type"]: (raw, job) for raw, job, _ in reversed(ROWS)}
SMALL: dict[str, Any] = {
    "model_type": "minicpm", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128,
}  # fmt: skip


NAS: dict[str, Any] = {
    "model_type": "nemotron-nas", "block_configs": [
        {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 0.5}},
        {"attention": {"no_op": True}, "ffn": {"no_op": True}},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "job", "said"), ROWS, ids=[f"{at} {raw['model_type']}" for at, (raw, *_) in enumerate(ROWS)]
)
def test_every_event_equals_the_recording(raw: dict[str, Any], job: TrainJob, said: dict[str, Any]) -> None:
    """Same allocations, same frees, same order, same peak."""
    assert estimated(raw, job) == said


@pytest.mark.parametrize("model_type", FIRST)
def test_layers_fold(model_type: str) -> None:
    """A deeper model's peak, told from few layers, is the one played in full, at any length."""
    raw, job = FIRST[model_type]
    blocks = {"block_configs": [raw["block_configs"][0]] * 8} if "block_configs" in raw else {}
    model = model_from_config(raw | {"num_hidden_layers": 8} | blocks)
    for seq_len in (9, 64):
        other = replace(job, seq_len=seq_len, keep_outputs=False)
        assert step(model, other).peak == max(train_step(model, other).live)


@pytest.mark.parametrize(
    ("changes", "job", "reason"),
    [
        ({"num_experts": 4, "num_experts_per_tok": 2}, {}, "MiniCPM-MoE"),
        ({"pretraining_tp": 2}, {}, "pretraining_tp"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, {}, "longrope"),
        ({"model_type": "internlm"}, {"attention": "flash_attention_2"}, "flash-attn"),
        ({}, {"loss": "liger"}, "liger"),
        (NAS, {"checkpointing": "reentrant"}, "layers that do nothing"),
        (NAS, {"use_cache": True}, "without a cache"),
    ],
)
def test_what_is_not_played_is_refused(changes: dict[str, Any], job: dict[str, Any], reason: str) -> None:
    """By name."""
    with pytest.raises(UnsupportedError, match=reason):
        step(model_from_config(SMALL | changes), TrainJob(1, 8, **job))


def test_caches_and_longer_sequences_are_refused() -> None:
    """The classes keep caches of their own time, and tables for so many positions."""
    with pytest.raises(UnsupportedError, match="training only"):
        play(model_from_config(SMALL), InferJob(1, 8))
    with pytest.raises(UsageError, match="128 positions"):
        step(model_from_config(SMALL), TrainJob(1, 129))


def test_layers_that_predict_further_tokens_lie_there() -> None:
    """MiMo's class makes them, though it never calls them: they get no gradient."""
    raw = {**SMALL, "model_type": "mimo", "num_nextn_predict_layers": 1}
    with_one, without = (
        train_step(model_from_config(raw | {"num_nextn_predict_layers": n}), TrainJob(1, 8)) for n in (1, 0)
    )
    assert with_one.kept("parameter", with_one.start) > without.kept("parameter", without.start)
    assert with_one.kept("gradient", with_one.backward_end) == without.kept("gradient", without.backward_end)
