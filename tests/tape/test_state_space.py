"""State-space families: the tape's step equals the real code's, event by event.

The real code is transformers' own in torch, which a user without mamba_ssm and causal_conv1d gets.
"""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import UnsupportedError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.play import play, train_step
from oomph.steps import step
from tests.tape.grid import compare
from tests.tape.state_space import CONFIGS, deep, grid

TRAINING, INFERENCE = 1, 1  # jobs of each family
GRID = list(grid(TRAINING, INFERENCE))
LENGTHS = (150, 100)  # of sequences; both end within a chunk


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "job"), GRID, ids=[f"{i}-{raw['model_type']}" for i, (raw, _) in enumerate(GRID)])
def test_every_event_of_a_mixer_equals_the_trace(raw: dict[str, Any], job: TrainJob | InferJob) -> None:
    """Scans in chunks and token by token, states in a cache: same allocations, same frees, same order, same peak."""
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folded_step_is_the_step_played_in_full(name: str) -> None:
    """Of many layers, and of a length other than the one it was played with."""
    model = model_from_config(deep(name, 8))
    for seq_len in LENGTHS:
        job = TrainJob(batch=2, seq_len=seq_len, precision="bf16", optimizer="sgd", checkpointing="reentrant")
        assert step(model, job).peak == train_step(model, job).peak


def test_a_scan_of_very_many_tokens_is_refused() -> None:
    """Each is played by itself; the message says up to how many."""
    with pytest.raises(UnsupportedError, match="at most 512 tokens"):
        play(model_from_config(deep("mamba", 2)), TrainJob(seq_len=513))


def test_a_hybrid_without_attention_is_refused() -> None:
    """transformers makes rotary tables for none of the layers, whose width no layer tells."""
    raw = deep("bamba", 4) | {"attn_layer_indices": []}
    with pytest.raises(UnsupportedError, match="without attention"):
        play(model_from_config(raw), TrainJob())
