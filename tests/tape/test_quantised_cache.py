"""A cache in fp8: every event equals the trace, and what is kept is what the policy of caches says."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.caches import layer_caches
from oomph.engines.transformers_caches import Filled, Quantiser, quantised_bytes
from oomph.errors import UnsupportedError
from oomph.families import model_from_config
from oomph.job import InferJob
from oomph.play_infer import infer
from oomph.steps import step
from tests.tape.grid import compare
from tests.tape.test_seq2seq import T5

LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 515, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
GPT2 = {**LLAMA, "model_type": "gpt2"}
MISTRAL = {**LLAMA, "model_type": "mistral", "sliding_window": 8}
MAMBA = {"model_type": "mamba", "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "job"),
    [
        (LLAMA, {"decode": 3}),
        (LLAMA, {"decode": 2, "precision": "fp32", "padding": True}),
        (LLAMA, {"precision": "fp16", "attention": "eager", "decode": 1}),
        (GPT2, {"decode": 2, "attention": "math"}),
        ({**LLAMA, "model_type": "qwen3", "head_dim": 24}, {"decode": 2, "attention": "efficient"}),
    ],
)
def test_every_event_equals_the_trace(raw: dict[str, Any], job: dict[str, Any]) -> None:
    """The scale measured once, then codes that grow and are made wide again in every pass."""
    parting, ours, theirs = compare(raw, InferJob(**{"batch": 2, "seq_len": 29, "cache": "fp8", **job}))
    assert parting is None, str(parting)
    assert ours == theirs


def test_what_is_kept_is_what_the_policy_says() -> None:
    """A byte for each number, and a scale for each layer's keys and values."""
    model = model_from_config(LLAMA)
    job = InferJob(2, 124, decode=4, cache="fp8")
    said = quantised_bytes(layer_caches(model), Filled(2, 124, 4), Quantiser("fp8"))
    assert infer(model, job).kept("kv cache") == said - 2 * 2 * 4


def test_a_deep_model_is_as_one_played_in_full() -> None:
    """The recipe's peak is that of every event."""
    model = model_from_config({**LLAMA, "num_hidden_layers": 14})
    job = InferJob(2, 40, decode=3, cache="fp8")
    assert step(model, job).peak == max(infer(model, job).live)


@pytest.mark.parametrize("raw", [MISTRAL, MAMBA, T5])
def test_models_with_other_layers_are_refused(raw: dict[str, Any]) -> None:
    """A window, a state or an encoder beside it: transformers refuses the first two, we the third."""
    with pytest.raises(UnsupportedError):
        infer(model_from_config(raw), InferJob(1, 20, decode=1, cache="fp8", attention="eager"))
