"""The largest value that fits: it does, one more does not, whatever the job."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomph.errors import UsageError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.job_ledger import job_ledger
from oomph.planning.bench import Bench
from oomph.planning.result import Limit
from oomph.planning.solve import Search, largest, limits
from oomph.steps import step
from oomph.structure import Job, with_layers
from tests.planning.models import GPT2, LLAMA, gpu, random_job, random_model, subject
from tests.tape import state_space, vision

N_FAST, N_SLOW = 10, 40


def check(limit: Limit, raw: dict, job: Job, mib: int) -> None:
    """Judge the value and one more from scratch."""
    field = {"batch": "batch", "concurrency": "batch", "seq": "seq_len", "context": "seq_len"}.get(limit.over)

    def verdict(value: int) -> str:
        found, changed = subject(raw), job
        if field is None:
            found = replace(found, model=with_layers(found.model, value))
        else:
            changed = replace(job, **{field: value})
        ledger = job_ledger(found, changed, gpu(mib))
        assert ledger.verdict is not None
        return ledger.verdict.status

    if limit.value:
        assert verdict(limit.value) == "fits"
    if limit.bound == "memory":
        assert verdict(limit.value + 1) != "fits"
        assert limit.beyond is not None
    else:
        assert limit.value == model_from_config(raw).context_length
    assert all(one > limit.value + 1 and verdict(one) == "fits" for one in limit.odd)


def random_limit(seed: int) -> None:
    rng = random.Random(seed)
    raw, job, mib = random_model(rng), random_job(rng), rng.choice([600, 800, 1500, 4000])
    over = rng.choice(["batch", "seq", "layers"])
    mib = min(mib, 800) if over == "layers" else mib  # every depth is played in full
    check(largest(subject(raw), job, gpu(mib), over), raw, job, mib)


@pytest.mark.parametrize("seed", range(N_FAST))
def test_it_fits_and_one_more_does_not(seed: int) -> None:
    """Random jobs and models on GPUs from far too small to roomy."""
    random_limit(seed)


@pytest.mark.slow
def test_it_fits_and_one_more_does_not_for_many() -> None:
    """The same for more jobs; `OOMPH_HUNT=200` looks at as many."""
    for seed in range(N_FAST, int(os.environ.get("OOMPH_HUNT", N_SLOW))):
        random_limit(seed)


@pytest.mark.parametrize("over", ["concurrency", "context", "layers"])
def test_serving(over: str) -> None:
    """Sequences at a time, the length of a prefill, and depth."""
    job = InferJob(2, 256, decode=2)
    check(largest(subject(LLAMA), job, gpu(600), over), LLAMA, job, 600)


def test_zero_where_not_even_one_fits() -> None:
    """The answer is 0, the reason that of the job with one."""
    limit = largest(subject(LLAMA), TrainJob(4, 512), gpu(560), "batch")
    assert (limit.value, limit.at) == (0, None)
    assert limit.sentence.startswith("Not even 1 sequence in a micro-batch: Does not fit")


def test_the_models_own_context_is_a_limit() -> None:
    """Where memory would do for more tokens than the model is made for, that is said."""
    limit = largest(subject(GPT2), TrainJob(1, 16), gpu(20000), "seq")
    assert limit.value == 4096
    assert limit.beyond is None
    assert "made for 4096 tokens" in limit.bound
    serving = largest(subject(GPT2), InferJob(1, 16, decode=6), gpu(20000), "context")
    assert serving.value == 4090


def test_inputs_that_a_job_does_not_have() -> None:
    """A typo is answered with close matches; a word of serving means nothing to training."""
    with pytest.raises(UsageError, match="batch"):
        largest(subject(LLAMA), TrainJob(), gpu(900), "bach")
    with pytest.raises(UsageError, match="seq"):
        largest(subject(LLAMA), TrainJob(), gpu(900), "context")
    assert [one.over for one in limits(subject(LLAMA), TrainJob(1, 64), gpu(900), ()).limits] == ["batch", "seq"]
    assert [one.over for one in limits(subject(LLAMA), InferJob(1, 64), gpu(900), ()).limits] == [
        "concurrency",
        "context",
    ]


def test_a_verdict_that_is_not_monotone_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values above the limit that fit all the same are named; the limit is still a value after which one fails."""
    on = Bench(subject(LLAMA), gpu(1100))
    search = Search(lambda value: (on, TrainJob(value, 64)), 10_000)
    value = search.run()
    last = search._tensors_fit(value, 10_000)
    assert last > value + 1  # tensors alone would fit
    assert search.odd(value) == ()
    fits = Search.fits
    monkeypatch.setattr(Search, "fits", lambda self, one: one == last or fits(self, one))
    assert search.odd(value) == (last,)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 300))
def test_more_never_takes_less(seed: int, batch: int, tokens: int) -> None:
    """One more sequence, one more token, one more layer: the peak does not go down."""
    rng = random.Random(seed)
    raw = random_model(rng)
    job = replace(random_job(rng), batch=batch, seq_len=tokens)
    model = model_from_config(raw)
    here = step(model, job).peak
    assert step(model, replace(job, batch=batch + 1)).peak >= here
    assert step(model, replace(job, seq_len=tokens + 1)).peak >= here
    assert step(model, job, model.num_layers + 1).peak >= here


def test_batches_of_many_lengths_are_left_to_train() -> None:
    """A search would play hundreds of steps for each value it looks at."""
    with pytest.raises(UsageError, match="one length"):
        largest(subject(LLAMA), TrainJob(lengths="300±200"), gpu(8000), "batch")


@pytest.mark.parametrize(
    ("raw", "job", "axis"),
    [
        (vision.config(random.Random(5), "qwen2_vl"), TrainJob(1, 120, images=1, image_size="56x56"), "seq"),
        (LLAMA, InferJob(1, 64, candidates=9), "context"),
        (LLAMA, TrainJob(1, 16, method="lisa", active_layers=2), "layers"),
    ],
    ids=["images", "candidates", "lisa"],
)
def test_values_that_a_job_refuses_are_not_looked_at(raw: dict[str, Any], job: Job, axis: str) -> None:
    """Images and candidates want some tokens, LISA some layers: the search begins with the least that a job takes."""
    limit = largest(subject(raw), job, gpu(1024), axis)
    assert limit.value > 1
    check(limit, raw, job, 1024)


def test_what_is_not_played_any_more_is_a_limit() -> None:
    """Mamba-1's scan is played up to so many tokens: the answer is that number, and why."""
    raw = state_space.CONFIGS["mamba"](random.Random(3))
    limit = largest(subject(raw), TrainJob(1, 16), gpu(80_000), "seq")
    assert (limit.value, limit.beyond) == (2048, None)
    assert "that is as many as oomph plays, and memory would do for that" in limit.sentence
