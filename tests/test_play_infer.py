"""Inference on the tape: what the cache holds, what the logits cost, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import InferJob
from oomph.play_infer import infer
from oomph.played import Played
from oomph.units import GIB
from tests.configs import LLAMA_3_8B


def llama(job: InferJob, **options: Any) -> Played:
    return infer(model_from_config({**LLAMA_3_8B, "num_hidden_layers": 2, **options}), job)


def test_cache_of_llama_3_8b() -> None:
    """128 KiB per token: 32 layers of keys and values, 8 heads of 128, 2 bytes."""
    found = llama(InferJob(1, 2048), num_hidden_layers=32)
    assert found.live[found.forward_end] - found.resident == 2048 * 128 * 1024
    assert found.kept("kv cache") == 2048 * 128 * 1024


@pytest.mark.parametrize(("kept", "gib"), [(0, 3.29), (1, 3.01)])
def test_prefill_peaks_of_two_layers(kept: int, gib: float) -> None:
    """Peaks of two layers of Llama-3-8B at 2048 tokens with all logits and with one token's, as traced."""
    assert round(llama(InferJob(1, 2048, logits_to_keep=kept)).peak / GIB, 2) == gib


def test_a_dynamic_cache_grows_and_a_static_one_does_not() -> None:
    """16 tokens more in a dynamic cache are 16 tokens' keys and values; a static one is full size from the start."""
    dynamic = llama(InferJob(1, 1024, decode=16))
    assert dynamic.live[-1] - dynamic.live[dynamic.forward_end] == 2 * 2 * 8 * 128 * 2 * 16
    static = llama(InferJob(1, 1024, decode=16, cache="static"))
    lengths = 2 * 512  # a token count per layer, rounded
    assert static.live[-1] == static.live[static.forward_end] == static.resident + 2 * 2 * 8 * 128 * 2 * 1040 + lengths


def test_a_window_bounds_the_static_cache() -> None:
    """Mistral's layers hold no more than the window."""
    windowed = llama(InferJob(1, 512, decode=8, cache="static"), model_type="mistral", sliding_window=64)
    assert windowed.live[-1] - windowed.resident == 2 * 2 * 8 * 128 * 2 * 64 + 2 * 512


def test_without_a_cache_nothing_stays() -> None:
    """Every pass starts from nothing and ends with nothing."""
    found = llama(InferJob(2, 64, decode=2, cache="none"))
    assert found.live[-1] == found.live[found.forward_end] == found.resident
    assert sum(1 if event >= 0 else -1 for event in found.recorder.events) == 0


def test_endless_decoding_is_refused() -> None:
    """With the way to ask for its end instead."""
    with pytest.raises(UnsupportedError, match="not 100000"):
        llama(InferJob(1, 64, decode=100_000))


def test_a_static_cache_that_is_too_short_is_refused() -> None:
    """A real run would write behind its end."""
    with pytest.raises(UsageError, match="cannot hold 68"):
        llama(InferJob(1, 64, decode=4, cache="static", max_cache_len=67))
