"""Prompt lookup and assistants: every event equals the trace; candidates cost logits in fp32, twice."""

from __future__ import annotations

from typing import Any

import pytest

from oomph import load
from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import InferJob
from oomph.play_infer import infer
from oomph.steps import step
from tests.tape.grid import compare
from tests.tape.test_offloaded_cache import MIXED
from tests.tape.test_quantised_cache import LLAMA
from tests.tape.test_seq2seq import T5

FP32 = 4  # bytes
WIDE = {**LLAMA, "vocab_size": 50257}  # tokens of GPT-2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "job"),
    [
        (LLAMA, {"candidates": 5}),
        (LLAMA, {"candidates": 3, "precision": "fp32", "attention": "math", "cache": "offloaded"}),
        (MIXED, {"candidates": 3, "attention": "math"}),
    ],
)
def test_every_event_equals_the_trace(raw: dict[str, Any], job: dict[str, Any]) -> None:
    """Candidates are read with the prompt and with every token after it, their logits stay until the next ones."""
    parting, ours, theirs = compare(raw, InferJob(**{"batch": 1, "seq_len": 32, "decode": 2, **job}))
    assert parting is None, str(parting)
    assert ours == theirs


def test_a_deep_model_is_as_one_played_in_full() -> None:
    """The recipe's peak is that of every event."""
    model, job = model_from_config({**LLAMA, "num_hidden_layers": 14}), InferJob(1, 40, decode=2, candidates=4)
    assert step(model, job).peak == max(infer(model, job).live)


def test_logits_of_candidates_are_there_twice_in_fp32() -> None:
    """A wide vocabulary shows it: as read and as they came, beside those of the model."""
    model = model_from_config({**LLAMA, "vocab_size": 65536})
    found = [infer(model, InferJob(1, 40, decode=1, candidates=count)).live[-1] for count in (4, 14)]
    more = (found[1] - found[0]) / (10 * 65536)
    assert more == pytest.approx(2 * FP32 + 2, rel=0.01)


@pytest.mark.parametrize(
    "wrong", [{"batch": 2}, {"beams": 2}, {"cache": "static"}, {"padding": True}, {"seq_len": 4}, {"release": "4.51"}]
)
def test_what_does_not_go_with_it_is_refused(wrong: dict[str, Any]) -> None:
    """Each with what to do instead."""
    with pytest.raises(UsageError, match="Prompt lookup"):
        InferJob(**{"batch": 1, "seq_len": 64, "candidates": 4, **wrong})


@pytest.mark.slow
@pytest.mark.parametrize("job", [{"candidates": 3}, {"candidates": 2, "precision": "fp32", "attention": "math"}])
def test_every_event_with_an_assistant_equals_the_trace(job: dict[str, Any]) -> None:
    """Its weights, its cache, its candidates one by one with their scores, and the other model beside all that."""
    parting, ours, theirs = compare(WIDE, InferJob(**{"seq_len": 32, "decode": 2, "assistant": "gpt2", **job}))
    assert parting is None, str(parting)
    assert ours == theirs


def test_an_assistant_is_there_all_the_time() -> None:
    """Its weights beside the other model's; 20 candidates are transformers' default."""
    model, job = model_from_config(WIDE), InferJob(1, 32, assistant="gpt2")
    assert job.candidates == 20
    alone, both = infer(model, InferJob(1, 32)), infer(model, job)
    assert both.resident - alone.resident == infer(load("gpt2"), InferJob(1, 32)).resident
    assert step(model, job).peak == both.peak


@pytest.mark.parametrize("name", ["nothing-of-that-name", "../etc/passwd", "mistral-7b-v0.1", "mamba-130m", "t5-base"])
def test_assistants_that_are_not_known_or_not_played_are_named(name: str) -> None:
    """No catalogued model, one with windows, with states, or an encoder-decoder."""
    with pytest.raises((UsageError, UnsupportedError)):
        infer(model_from_config(LLAMA), InferJob(1, 32, assistant=name))


def test_an_assistant_of_another_vocabulary_is_refused() -> None:
    """transformers takes it with both tokenizers alone, and then goes another way."""
    with pytest.raises(UnsupportedError, match="has 50257 tokens"):
        infer(model_from_config(LLAMA), InferJob(1, 32, assistant="gpt2"))


@pytest.mark.parametrize("job", [{"candidates": 513}, {"decode": 26}])
def test_more_candidates_than_can_be_played_are_refused(job: dict[str, int]) -> None:
    """At once: each would be a pass through all of the assistant's layers."""
    with pytest.raises(UnsupportedError, match="up to 512 candidates"):
        infer(model_from_config(WIDE), InferJob(1, 32, assistant="gpt2", **job))


def test_encoder_decoders_are_refused() -> None:
    """Their prompts are another model's."""
    with pytest.raises(UnsupportedError):
        infer(model_from_config(T5), InferJob(1, 20, attention="eager", candidates=3))
