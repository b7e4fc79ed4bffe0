"""Caches in fp8 or in integer codes: every event equals the trace, and what is kept is what their policy says."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.caches import layer_caches
from oomph.engines.transformers_caches import Filled, Quantiser, quantised_bytes
from oomph.errors import UnsupportedError, UsageError
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


# The residual fills up in the second token after the prompt, unless it is said to be longer.
INTEGER: list[dict[str, Any]] = [
    {"cache": "quanto", "decode": 3, "cache_residual": 2, "attention": "efficient"},
    {"cache": "quanto", "decode": 2, "cache_bits": 2, "cache_axis": 1, "cache_group": 32, "precision": "fp16"},
    {"cache": "hqq", "decode": 3, "cache_residual": 2, "precision": "fp32", "padding": True},
    {"cache": "hqq", "decode": 1, "cache_bits": 3, "attention": "eager"},
    {"cache": "hqq", "decode": 1, "cache_bits": 2, "cache_axis": 1},
    {"cache": "hqq", "decode": 1, "cache_bits": 8, "cache_group": 16},
]


@pytest.mark.slow
@pytest.mark.parametrize("job", INTEGER, ids=str)
def test_every_event_of_integer_codes_equals_the_trace(job: dict[str, Any]) -> None:
    """Extremes, codes, HQQ's search for zeros and the packing, the residual, and all made wide again in every pass."""
    parting, ours, theirs = compare({**LLAMA, "num_hidden_layers": 1}, InferJob(**{"batch": 2, "seq_len": 32, **job}))
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize("job", INTEGER, ids=str)
def test_codes_and_residual_are_what_the_policy_says(job: dict[str, Any]) -> None:
    """Bytes of codes, scales, zeros and the last tokens: the policy is held against the real layers' storages."""
    infer_job = InferJob(**{"batch": 2, "seq_len": 32, **job})
    group = Quantiser(
        infer_job.cache, infer_job.cache_bits, infer_job.cache_group, infer_job.cache_residual, infer_job.cache_axis
    )
    caches = layer_caches(model_from_config(LLAMA))
    said = quantised_bytes(caches, Filled(2, 32, infer_job.decode, dtype=infer_job.precision), group)
    assert infer(model_from_config(LLAMA), infer_job).kept("kv cache", unit=1) == said


@pytest.mark.parametrize(
    "job",
    [
        {"cache": "quanto", "cache_bits": 8},
        {"cache": "hqq", "cache_bits": 5},
        {"cache": "quanto", "cache_axis": 2},
        {"cache": "hqq", "cache_bits": 3, "cache_axis": 1},
    ],
    ids=str,
)
def test_codes_that_a_backend_has_not_are_refused(job: dict[str, Any]) -> None:
    """Before anything is played, with the numbers that there are."""
    with pytest.raises(UsageError):
        InferJob(**job)


def test_hqq_searches_in_half_precision_on_a_gpu() -> None:
    """On a CPU, and in a trace, it does so in fp32: as much again for every tensor of the search."""
    job, model = InferJob(2, 64, cache="hqq", cache_bits=8), model_from_config({**LLAMA, "num_hidden_layers": 1})
    found = {
        place: {one.dtype for one in infer(model, job, on=place).recorder.allocations if one.op == "sign"}
        for place in ("gpu", "trace")
    }
    assert found == {"gpu": {"fp16"}, "trace": {"fp32"}}


@pytest.mark.parametrize("backend", ["quanto", "hqq"])
def test_half_a_group_is_refused(backend: Any) -> None:
    """The real backends raise."""
    with pytest.raises(UnsupportedError, match="no whole groups"):
        infer(model_from_config(LLAMA), InferJob(1, 31, cache=backend, cache_group=999))


def test_what_is_kept_is_what_the_policy_says() -> None:
    """A byte for each number, and a scale for each layer's keys and values."""
    model = model_from_config(LLAMA)
    job = InferJob(2, 124, decode=4, cache="fp8")
    said = quantised_bytes(layer_caches(model), Filled(2, 124, 4), Quantiser("fp8"))
    assert infer(model, job).kept("kv cache") == said - 2 * 2 * 4


@pytest.mark.parametrize("backend", ["fp8", "quanto", "hqq"])
def test_a_deep_model_is_as_one_played_in_full(backend: Any) -> None:
    """The recipe's peak is that of every event."""
    model = model_from_config({**LLAMA, "num_hidden_layers": 14})
    job = InferJob(2, 40, decode=3, cache=backend, cache_residual=2)
    assert step(model, job).peak == max(infer(model, job).live)


@pytest.mark.parametrize("raw", [MISTRAL, MAMBA, T5])
@pytest.mark.parametrize("backend", ["fp8", "quanto"])
def test_models_with_other_layers_are_refused(raw: dict[str, Any], backend: Any) -> None:
    """A window, a state or an encoder beside it: transformers refuses the first two, we the third."""
    with pytest.raises(UnsupportedError):
        infer(model_from_config(raw), InferJob(1, 20, decode=1, cache=backend, attention="eager"))
