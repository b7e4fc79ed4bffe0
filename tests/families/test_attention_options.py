"""What configs say about attention besides its sizes: windows and dropout rates."""

from __future__ import annotations

import random
from typing import Any

import pytest

from oomph.blocks.attention import Attention
from oomph.blocks.base import Stack
from oomph.errors import ConfigError
from oomph.families import model_from_config
from oomph.model import Model

SMALL: dict[str, Any] = {
    "hidden_size": 48, "intermediate_size": 50, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 101, "tie_word_embeddings": False,
}  # fmt: skip


def windows(model: Model) -> list[int | None]:
    """The window of every layer."""
    stack = model.parts["model.layers"]
    assert isinstance(stack, Stack)
    blocks = [layer.parts["self_attn"] for layer in stack.layers]  # type: ignore[union-attr]
    return [block.sliding_window for block in blocks if isinstance(block, Attention)]


def test_mistral_s_window() -> None:
    """4096 where the config is silent, none where it says null."""
    assert windows(model_from_config({**SMALL, "model_type": "mistral"})) == [4096] * 5
    assert windows(model_from_config({**SMALL, "model_type": "mistral", "sliding_window": None})) == [None] * 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_windows_of_qwen_are_those_of_the_real_config(seed: int) -> None:
    """use_sliding_window, max_window_layers and layer_types mean what Qwen2Config and Qwen3Config make of them."""
    from transformers import CONFIG_MAPPING

    rng = random.Random(seed)
    raw = {**SMALL, "model_type": rng.choice(["qwen2", "qwen3"])}
    if rng.random() < 0.8:
        raw["use_sliding_window"] = rng.random() < 0.7
    if rng.random() < 0.7:
        raw["sliding_window"] = rng.choice([None, 7, 300])
    if rng.random() < 0.7:
        raw["max_window_layers"] = rng.choice([0, 2, 5, 9])
    if raw.get("use_sliding_window") and raw.get("sliding_window") and rng.random() < 0.3:
        raw["layer_types"] = [rng.choice(["full_attention", "sliding_attention"]) for _ in range(5)]
    real = CONFIG_MAPPING[raw["model_type"]](**raw)
    expected = [real.sliding_window if kind == "sliding_attention" else None for kind in real.layer_types]
    assert windows(model_from_config(raw)) == expected


def test_layers_alike_are_one_object() -> None:
    """Full and sliding layers are two kinds of layer, whatever their number."""
    model = model_from_config({**SMALL, "model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 2})
    stack = model.parts["model.layers"]
    assert isinstance(stack, Stack)
    assert [indices for _, indices in stack.groups()] == [(0, 1), (2, 3, 4)]


@pytest.mark.parametrize("rate", [-0.1, 1.5, "a lot", True])
def test_a_rate_that_is_none_is_refused(rate: Any) -> None:
    """Dropout rates are numbers from 0 to 1."""
    with pytest.raises(ConfigError, match="attention_dropout"):
        model_from_config({**SMALL, "model_type": "llama", "attention_dropout": rate})
