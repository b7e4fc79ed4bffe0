"""Offloaded caches: every event on the device equals the trace, and what is there is what their policy says."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.caches import layer_caches
from oomph.engines.transformers_caches import Filled, offloaded
from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import InferJob
from oomph.play_infer import infer
from oomph.steps import step
from tests.tape.grid import compare
from tests.tape.test_quantised_cache import LLAMA, MAMBA
from tests.tape.test_seq2seq import T5

MIXED: dict[str, Any] = {
    **LLAMA, "model_type": "gemma3_text", "sliding_window": 8, "num_hidden_layers": 3, "head_dim": 16,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "job"),
    [
        (LLAMA, {"decode": 2}),
        (LLAMA, {"decode": 2, "cache": "offloaded_static", "max_cache_len": 50}),
        (MIXED, {"decode": 3, "attention": "math"}),
        (MIXED, {"decode": 3, "attention": "math", "cache": "offloaded_static"}),
    ],
)
def test_every_event_on_the_device_equals_the_trace(raw: dict[str, Any], job: dict[str, Any]) -> None:
    """A layer goes away as soon as its keys are handed out, the next one comes before this one is updated."""
    parting, ours, theirs = compare(raw, InferJob(**{"batch": 2, "seq_len": 32, "cache": "offloaded", **job}))
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize("raw", [LLAMA, MIXED], ids=["alike", "windows"])
@pytest.mark.parametrize("length", [None, 40])
def test_what_stays_on_the_device_is_what_the_policy_says(raw: dict[str, Any], length: int | None) -> None:
    """Between passes the first layer is back already; windows of a static cache never leave."""
    model = model_from_config(raw)
    job = InferJob(
        2, 32, decode=3, cache="offloaded" if length is None else "offloaded_static", max_cache_len=length or 0
    )
    said = offloaded(layer_caches(model), Filled(2, 32, 3), length)
    assert infer(model, job).kept("kv cache", unit=1) == said.resident_bytes


@pytest.mark.parametrize("cache", ["offloaded", "offloaded_static"])
def test_a_deep_model_is_as_one_played_in_full(cache: Any) -> None:
    """The recipe's peak is that of every event."""
    model = model_from_config({**LLAMA, "num_hidden_layers": 14})
    job = InferJob(2, 40, decode=3, cache=cache)
    assert step(model, job).peak == max(infer(model, job).live)


def test_a_long_cache_that_is_offloaded_takes_less() -> None:
    """Two layers at a time instead of all."""
    model = model_from_config({**LLAMA, "num_hidden_layers": 14, "max_position_embeddings": 65536})
    there, away = (step(model, InferJob(4, 32768, decode=1, cache=cache)) for cache in ("dynamic", "offloaded"))
    assert away.end < there.end / 2


@pytest.mark.parametrize("raw", [MAMBA, T5])
def test_models_without_keys_or_with_an_encoder_are_refused(raw: dict[str, Any]) -> None:
    """States never leave the device; encoder-decoders are not played with such a cache."""
    with pytest.raises(UnsupportedError):
        infer(model_from_config(raw), InferJob(1, 20, decode=1, cache="offloaded", attention="eager"))


def test_a_static_cache_that_is_too_short_is_refused() -> None:
    """As one that stays."""
    with pytest.raises(UsageError, match="cannot hold"):
        infer(model_from_config(LLAMA), InferJob(1, 20, decode=2, cache="offloaded_static", max_cache_len=21))
