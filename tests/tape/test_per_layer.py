"""Gemma 4 and Gemma 3n: the tape's step equals the real code's, event by event."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from oomph.errors import UsageError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.play import play, train_step
from oomph.steps import step
from tests.tape.grid import compare, infer_job, job
from tests.tape.per_layer import CONFIGS, deep

SEED = 20261127
LORA = TrainJob(
    batch=2, seq_len=40, precision="bf16", attention="flash", padding=True, method="lora", targets="all-linear", rank=4,
    checkpointing="reentrant", optimizer="adamw", clip_gradients=True,
)  # fmt: skip
QLORA = replace(LORA, quantization="nf4", kbit_preparation=True)


def grid() -> list[tuple[dict[str, Any], TrainJob | InferJob]]:
    """A few jobs, always the same ones: adapters of whole models, any of text models, a prefill and a token."""
    found: list[tuple[dict[str, Any], TrainJob | InferJob]] = []
    for name, config in CONFIGS.items():
        rng = random.Random(f"{name}{SEED}")
        drawn = {"gemma3n": LORA, "gemma4": QLORA}.get(name) or replace(job(rng, name), checkpoint_every=1)
        found.append((config(rng), drawn))
    rng = random.Random(SEED)
    found.append((CONFIGS["gemma4_text"](rng), replace(infer_job(rng), seq_len=29, decode=1, cache="dynamic")))
    return found


GRID = grid()


@pytest.fixture
def _without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 3n's real class without its vision tower, which is another library's and not counted."""
    import torch
    from transformers import AutoModel
    from transformers.models.gemma3n import modeling_gemma3n

    class Towers:
        @staticmethod
        def from_config(config: Any) -> Any:
            return torch.nn.Identity() if config.model_type == "gemma3n_vision" else AutoModel.from_config(config)

    monkeypatch.setattr(modeling_gemma3n, "AutoModel", Towers)


@pytest.mark.slow
@pytest.mark.usefixtures("_without_timm")
@pytest.mark.parametrize(("raw", "job"), GRID, ids=[f"{i}-{raw['model_type']}" for i, (raw, _) in enumerate(GRID)])
def test_every_event_equals_the_trace(raw: dict[str, Any], job: TrainJob | InferJob) -> None:
    """Same allocations, same frees, same order, same peak, and the same bytes kept."""
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folded_step_is_the_step_played_in_full(name: str) -> None:
    """Of a model with periods of layers, some of which share keys, and with other numbers than it was played with."""
    for layers, seq_len in ((8, 100), (12, 70)):
        model = model_from_config(deep(name, layers))
        asked = TrainJob(batch=2, seq_len=seq_len, precision="bf16", optimizer="sgd", checkpointing="reentrant")
        assert step(model, asked).peak == train_step(model, asked).peak


def test_checkpoints_that_torch_fails_on_are_refused() -> None:
    """A reentrant one that uses keys with a graph would go through that graph twice."""
    raw = deep("gemma4_text", 5)
    asked = TrainJob(batch=1, seq_len=8, checkpointing="reentrant", checkpoint_every=4)
    with pytest.raises(UsageError, match="twice"):
        play(model_from_config(raw), asked)
    assert play(model_from_config(raw), replace(asked, checkpointing="non-reentrant")).end


def test_packed_coefficients_are_refused() -> None:
    """The class of Gemma 3n bounds them in place, which torch cannot do."""
    with pytest.raises(UsageError, match="packed"):
        play(model_from_config(deep("gemma3n_text", 4)), QLORA)
