"""Mixtures of experts: the tape's step equals the real code's under FakeTensorMode, event by event."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from oomph.errors import OomphError, UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.play import play
from tests.tape.grid import compare, infer_job, job
from tests.tape.mixtures import CONFIGS, KIN, KINDS, LONG

pytestmark = pytest.mark.slow

TRAINING, INFERENCE = 2, 1  # jobs of each family
SEED = 20261126


def grid() -> list[tuple[dict[str, Any], TrainJob | InferJob]]:
    """A few jobs of each family, always the same ones."""
    found: list[tuple[dict[str, Any], TrainJob | InferJob]] = []
    for name, config in CONFIGS.items():
        rng = random.Random(f"{name}{SEED}")
        drawn = [(config(rng), job(rng, name)) for _ in range(1 if name in KIN + LONG else TRAINING)]
        if name in LONG:
            drawn = [(raw, replace(each, seq_len=37, accumulation=1)) for raw, each in drawn]
        found += drawn
        found += [(config(rng), infer_job(rng)) for _ in range(0 if name in KIN else INFERENCE)]
    return found


GRID = grid()


def test_adapters_on_all_linear_maps_of_phi_moe_are_refused() -> None:
    """PEFT takes its router for a linear map, and fails."""
    model = model_from_config(CONFIGS["phimoe"](random.Random(SEED)))
    with pytest.raises(UsageError, match="router"):
        play(model, TrainJob(2, 9, method="lora", targets="all-linear"))


def test_adapters_beside_an_indexer_equal_the_trace() -> None:
    """It asks for the dtype of a weight that an adapter stands beside, and that bitsandbytes leaves alone."""
    raw = CONFIGS["deepseek_v32"](random.Random(SEED)) | {"num_hidden_layers": 1, "first_k_dense_replace": 0}
    parting, ours, theirs = compare(raw, TrainJob(2, 9, method="qlora", padding_free=True))
    assert parting is None, str(parting)
    assert ours == theirs


def test_an_indexer_whose_map_is_packed_is_refused() -> None:
    """GPTQ's maps have no weight whose dtype could be asked for."""
    model = model_from_config(CONFIGS["deepseek_v32"](random.Random(SEED)))
    with pytest.raises(UnsupportedError, match="weights_proj"):
        play(
            model, TrainJob(2, 9, method="lora", targets="q_b_proj", precision="fp16", quantization="gptq-4bit-column")
        )


@pytest.mark.parametrize("name", ["afmoe", "hunyuan_v1_moe"])
def test_a_router_that_is_a_linear_map_is_quantised_too(name: str) -> None:
    """bitsandbytes takes it for one of the maps."""
    raw = CONFIGS[name](random.Random(SEED)) | {"num_dense_layers": 0}
    parting, ours, theirs = compare(raw, TrainJob(2, 9, method="qlora", targets="q_proj,v_proj"))
    assert parting is None, str(parting)
    assert ours == theirs


def test_adapters_on_experts_of_afmoe_are_refused() -> None:
    """PEFT takes its router, a linear map, for a parameter."""
    model = model_from_config(CONFIGS["afmoe"](random.Random(SEED)))
    with pytest.raises(UnsupportedError, match="router is a linear map"):
        play(model, TrainJob(2, 9, method="lora", targets="all-linear"))


FOLDING = CONFIGS["deepseek_v4"](random.Random(SEED)) | {
    "num_hidden_layers": 2, "layer_types": list(KINDS[1:]), "mlp_layer_types": ["hash_moe", "moe"],
}  # fmt: skip


def test_adapters_beside_entries_of_many_tokens_equal_the_trace() -> None:
    """DeepSeek-V4's norms, sinks and streams stay in fp32, its grouped map is left in 16 bits."""
    targets = "q_b_proj,kv_proj,o_b_proj,gate_proj"
    parting, ours, theirs = compare(FOLDING, TrainJob(2, 9, method="qlora", targets=targets))
    assert parting is None, str(parting)
    assert ours == theirs


def test_tokens_that_wait_to_be_folded_are_kept_by_the_cache() -> None:
    """Eight tokens more close windows of both kinds, the first of which end before the prompt does."""
    raw = FOLDING | {"compress_rates": {KINDS[1]: 4, KINDS[2]: 5}, "sliding_window": 8}
    parting, ours, theirs = compare(raw, InferJob(batch=2, seq_len=9, decode=8, cache="dynamic"))
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (TrainJob(2, 9, method="lora", targets="all-linear"), "groups of heads"),
        (TrainJob(2, 3), "fold 5 tokens into one"),
        (TrainJob(2, 9, precision="bf16", attention="flash_attention_2"), "flash-attn"),
        (InferJob(batch=1, seq_len=9, cache="static"), "growing cache"),
    ],
)
def test_what_deepseek_v4_cannot_do_is_refused(job: TrainJob | InferJob, reason: str) -> None:
    """PEFT's adapters fail beside its grouped map; compressors without a window get no gradient."""
    raw = FOLDING | {"compress_rates": {KINDS[1]: 2, KINDS[2]: 5}}
    with pytest.raises(OomphError, match=reason):
        play(model_from_config(raw), job)


@pytest.mark.parametrize(("raw", "job"), GRID, ids=[f"{i}-{raw['model_type']}" for i, (raw, _) in enumerate(GRID)])
def test_every_event_of_a_mixture_equals_the_trace(raw: dict[str, Any], job: TrainJob | InferJob) -> None:
    """Same allocations, same frees, same order, same peak, same bytes kept: stacked experts, gradients, states."""
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs
