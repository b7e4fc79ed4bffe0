"""Beam search: every event equals the trace of the real model's own helpers; `generate` takes next to nothing more."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import UsageError
from oomph.families import model_from_config
from oomph.job import InferJob
from oomph.play_infer import infer
from oomph.steps import step
from tests.tape.grid import compare
from tests.tape.test_offloaded_cache import MIXED
from tests.tape.test_quantised_cache import LLAMA
from tests.tape.test_seq2seq import BART, T5

MASKS = 0.02  # of a peak at most: ids, masks and positions in 64 bits that generate() keeps beside a search


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "job"),
    [
        (LLAMA, {"beams": 4}),
        (LLAMA, {"cache": "none", "decode": 1, "padding": True, "logits_to_keep": 0}),
        (LLAMA, {"cache": "hqq", "decode": 3, "cache_residual": 3}),
        (LLAMA, {"cache": "fp8", "precision": "fp32"}),
        (LLAMA, {"cache": "offloaded_static"}),
        (MIXED, {"attention": "math", "cache": "static"}),
        (MIXED, {"attention": "math"}),
        (T5, {"attention": "eager"}),
        (BART, {"attention": "efficient", "padding": True}),
    ],
)
def test_every_event_equals_the_trace(raw: dict[str, Any], job: dict[str, Any]) -> None:
    """Prompts for each beam, scores of the vocabulary, the best beams, and the cache put in their order."""
    parting, ours, theirs = compare(raw, InferJob(**{"batch": 2, "seq_len": 32, "decode": 2, "beams": 2, **job}))
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.slow
def test_generate_takes_hardly_more_than_the_search() -> None:
    """The real generate() on real tensors: what a search leaves out are ids and masks."""
    import torch

    from oomph.referee import models
    from oomph.referee.trace import collected
    from oomph.referee.tracker import Tracker

    job, raw = InferJob(2, 256, decode=3, beams=4, attention="eager", precision="fp32"), {**LLAMA, "eos_token_id": 2}
    raw["max_position_embeddings"] = 512
    tracker = Tracker()
    with collected(), torch.no_grad(), tracker:
        model = models.build(raw, job)
        ids = torch.randint(3, 500, (job.batch, job.seq_len))
        tracker.restart([("parameters", "parameter", model.named_parameters())])
        tokens = job.decode + 1
        length: dict[str, Any] = {"max_new_tokens": tokens, "min_new_tokens": tokens, "pad_token_id": 0}
        model.generate(input_ids=ids, num_beams=job.beams, do_sample=False, **length)
    real = max(tracker.stream.live())
    assert infer(model_from_config(raw), job, on="cpu").peak == pytest.approx(real, rel=MASKS)


@pytest.mark.parametrize("cache", ["dynamic", "quanto", "offloaded", "none"])
def test_a_deep_model_is_as_one_played_in_full(cache: Any) -> None:
    """The recipe's peak is that of every event, layers put in order one after the other."""
    model = model_from_config({**LLAMA, "num_hidden_layers": 14})
    job = InferJob(2, 40, decode=2, cache=cache, beams=3)
    assert step(model, job).peak == max(infer(model, job).live)


def test_beams_take_what_as_many_sequences_take_and_more() -> None:
    """Their cache is that of so many sequences; scores come on top."""
    model = model_from_config(LLAMA)
    searched, plain = infer(model, InferJob(2, 40, decode=2, beams=3)), infer(model, InferJob(6, 40, decode=2))
    assert searched.kept("kv cache") == plain.kept("kv cache")
    assert searched.peak > plain.peak


@pytest.mark.parametrize("wrong", [{"beams": 0}, {"beams": 2, "release": "4.38"}])
def test_searches_that_are_not_there_are_refused(wrong: dict[str, Any]) -> None:
    """Without a beam, or in a release whose search is not known."""
    with pytest.raises(UsageError):
        InferJob(**wrong)
