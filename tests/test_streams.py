"""Streams: a script with other numbers put in is the job played in full, event by event."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from oomph import steps, streams
from oomph.device_memory import first_products
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob, shortened
from oomph.model import Model
from oomph.play import play, train_step
from oomph.sources.kept import Shelf
from oomph.steps import step
from oomph.stream import Stream
from oomph.streams import job_stream
from oomph.structure import Job
from tests.configs import LLAMA_3_8B
from tests.tape.grid import infer_grid
from tests.test_fold import random_case


def in_full(model: Model, job: Job) -> Stream:
    """The job played on ints, a steady step after a first one."""
    job = shortened(job)
    played = train_step(model, job, warm_up=True) if isinstance(job, TrainJob) else play(model, job)
    stream = played.recorder.stream()
    stream.events = stream.events[: played.end]
    return stream


def same(model: Model, job: Job) -> None:
    found, expected = job_stream(model, job), in_full(model, job)
    assert found.events == expected.events
    assert first_products(found) == first_products(expected)


@pytest.mark.parametrize("seed", range(10))
def test_a_script_is_the_job_played_in_full(seed: int) -> None:
    """The first time, and with other batches and lengths put into what was played then."""
    model, job, _ = random_case(seed)
    rng = random.Random(seed)
    same(model, job)
    for _ in range(4):
        same(model, replace(job, batch=rng.randint(1, 5), seq_len=rng.randint(1, 200)))


@pytest.mark.parametrize("at", range(12))
def test_inference_too(at: int) -> None:
    """Prefill and decoding, whose keys and values grow."""
    raw, job = list(infer_grid(12))[at]
    same(model_from_config(raw), job)
    same(model_from_config(raw), replace(job, batch=job.batch + 1, max_cache_len=0))


PPO: dict[str, Any] = {"objective": "ppo", "method": "lora", "accumulation": 2, "mini_batches": 2, "rollout_batch": 3}


@pytest.mark.parametrize("layers", [3, 12])
def test_loops_over_tokens_are_as_long_as_answers(layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What PPO does with each token is told from few; one script, and one recipe, hold for answers of any length."""
    monkeypatch.setattr(streams, "_scripts", {})
    monkeypatch.setattr(steps, "_shelf", partial(Shelf, None))
    small = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 999, "num_attention_heads": 4}
    model = model_from_config({**LLAMA_3_8B, **small, "num_key_value_heads": 2, "num_hidden_layers": layers})
    for seq_len in (24, 14):
        job = TrainJob(2, seq_len, prompt_len=8, **PPO)
        same(model, job)
        assert step(model, job).peak == train_step(model, job).peak
    assert sum(map(len, streams._scripts.values())) == 1


def test_another_depth_or_width_is_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Widths are numbers of the same script; a deeper model has its own; few are kept in memory."""
    monkeypatch.setattr(streams, "_scripts", {})
    monkeypatch.setattr(streams, "KEPT", 2)
    tiny = {**LLAMA_3_8B, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 999, "num_attention_heads": 4}
    tiny |= {"num_key_value_heads": 2}
    for layers, ffn in ((3, 96), (3, 200), (4, 96), (5, 96), (3, 96)):
        raw = {**tiny, "num_hidden_layers": layers, "intermediate_size": ffn}
        same(model_from_config(raw), TrainJob(1, 8, implementation="fused"))
        assert sum(map(len, streams._scripts.values())) <= 2
    same(model_from_config(tiny | {"num_hidden_layers": 2}), InferJob(1, 8))
