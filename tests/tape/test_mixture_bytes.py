"""What mixtures keep and how fast they are played, against numbers that older traces of the real classes gave."""

from __future__ import annotations

import time
from typing import Any

import pytest

from oomph.errors import UnsupportedError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.play import play
from oomph.sources import catalogue

# Bytes alive at the end of forward that one layer more adds, batch 1 of 2048 tokens in bf16 (FakeTensorMode traces).
LAYERS = {"mixtral-8x7b-v0.1": (713_549_312, 1), "qwen3-30b-a3b": (398_616_064, 1), "deepseek-v3": (1_512_744_960, 4)}
SECONDS = 5.0  # a full play takes a tenth of it


def config(name: str, **changes: Any) -> dict[str, Any]:
    """A config of the catalogue with changes."""
    found = catalogue.find(name)
    assert found is not None
    assert found.config is not None
    return {**found.config, **changes}


def saved(name: str, layers: int) -> int:
    """Bytes alive at the end of forward beside parameters and buffers."""
    model = model_from_config(config(name, num_hidden_layers=layers))
    played = play(model, TrainJob(optimizer="none", steady=False), on="trace")
    return played.live[played.forward_end] - played.resident


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_keeps_what_its_trace_kept(name: str) -> None:
    """Mixtral-8x7B, Qwen3-30B-A3B, a sparse layer of DeepSeek-V3: to the byte."""
    expected, depth = LAYERS[name]
    assert saved(name, depth + 1) - saved(name, depth) == expected


@pytest.mark.parametrize("name", ["deepseek-v3", "qwen3-30b-a3b"])
def test_parameters_on_the_tape_are_those_of_the_model(name: str) -> None:
    """Stacked experts have as many elements as a matrix for each expert; prediction layers are not loaded."""
    model = model_from_config(config(name))
    begin = time.perf_counter()
    played = play(model, TrainJob(optimizer="none", steady=False, seq_len=8), on="trace")
    assert time.perf_counter() - begin < SECONDS
    made, why = played.recorder.allocations, played.recorder.why
    parameters = [made[at] for at, reason in why.items() if reason == "parameter"]
    assert sum(one.n_bytes for one in parameters) == 2 * model.params
    assert any(one.shape[0] == max(model_experts(model)) and len(one.shape) == 3 for one in parameters)


def model_experts(model: Any) -> list[int]:
    """How many experts the mixtures of a model have."""
    return [weight.of for weight in model.weights if weight.of > 1]


def test_routing_tells_in_the_eager_form_only() -> None:
    """All tokens to the same experts: other bytes for a loop over experts, none for the grouped product."""
    model = model_from_config(config("qwen3-30b-a3b", num_hidden_layers=2))

    def sizes(**changes: Any) -> list[int]:
        made = play(model, InferJob(seq_len=512, **changes)).recorder.allocations
        return sorted(one.n_bytes for one in made)

    assert sizes(routing="worst") == sizes()
    assert sizes(experts="eager", routing="worst") != sizes(experts="eager")
    pairs, a_weight = 512 * 8, 2 * 768 * 2048 * 2
    assert pairs * a_weight in sizes(experts="batched_mm")  # gate and up of every pair


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mixtral-8x7b-v0.1", {"output_router_logits": True}),
        ("mixtral-8x7b-v0.1", {"router_jitter_noise": 0.1}),
        ("gpt-oss-20b", {"layer_types": ["full_attention"] * 24}),
    ],
)
def test_what_is_not_modelled_is_refused(name: str, changes: dict[str, Any]) -> None:
    """A loss of the router's own, shaken inputs, masks of windows that no layer has."""
    with pytest.raises(UnsupportedError, match="cannot play"):
        play(model_from_config(config(name, **changes)), TrainJob())
