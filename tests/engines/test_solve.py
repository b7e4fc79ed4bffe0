"""Largest values, maps and changes: what they say is what single answers say."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomph.answer import subject
from oomph.devices import find
from oomph.engines import engine
from oomph.engines.base import Engine, ServeJob
from oomph.engines.changes import changes
from oomph.engines.flags import read_flags
from oomph.engines.maps import STATUSES, serve_map
from oomph.engines.serving import serve
from oomph.engines.solve import largest, limits
from oomph.errors import UsageError
from oomph.units import GIB
from tests.engines.fakes import BLOCK, PAGED, SPLIT, PagedJob, SplitJob

FOUND = subject("llama-3-8b")
CARDS = ("rtx-4090", "rtx-3060", "h100", "t4")


def _verdict(engine: Engine, job: ServeJob, gpus: list[str]) -> Any:
    return serve(FOUND, engine, job, [find(gpu) for gpu in gpus]).verdict


def test_a_largest_value_is_said_in_words() -> None:
    """What limits it, what is left, and what one more would need."""
    card = [find("rtx-4090")]
    room = int(card[0].capacity_bytes * 0.9) - 14 * GIB - 2**20
    found = largest(FOUND, PAGED, PagedJob(context=1024), card, "concurrency")
    assert found.value == room // (1024 * 131072)
    assert f"At most {found.value} requests at a time" in found.sentence
    assert f"With {found.value + 1}: Does not fit" in found.sentence
    assert found.bound == "memory"


def test_one_is_one_request() -> None:
    """Not one requests."""
    job = PagedJob(context=8192, max_num_seqs=1)
    assert "At most 1 request at a time" in largest(FOUND, PAGED, job, [find("rtx-4090")], "concurrency").sentence


def test_a_limit_of_the_engine_s_own_is_named_with_what_memory_would_do() -> None:
    """Three requests because a flag says so, memory has room for more."""
    job = PagedJob(context=1024, max_num_seqs=3)
    found = largest(FOUND, PAGED, job, [find("rtx-4090")], "concurrency")
    assert (found.value, found.bound) == (3, "--max-num-seqs 3")
    more = largest(FOUND, PAGED, replace(job, max_num_seqs=2**20), [find("rtx-4090")], "concurrency").value
    assert f"memory would do for {more}" in found.sentence


def test_what_leaves_more_room_has_no_most() -> None:
    """Experts with the host: any number above the fewest fits, and the fewest are among the changes."""
    found, program, card = subject("qwen3-30b-a3b"), engine("llama.cpp"), [find("rtx-3060")]
    job = program.job(context=4096, format="q4_k_m")
    with pytest.raises(UsageError, match="no most of it"):
        largest(found, program, job, card, "n-cpu-moe")
    titles = [change.title for change in changes(found, program, job, card)]
    assert any(title.startswith("experts of ") for title in titles), titles


def test_more_requests_are_not_shorter_ones() -> None:
    """Of a cache that all of them share there is room for one request that takes all of it."""
    found = largest(FOUND, SPLIT, SplitJob(cells=8192), [find("h100")], "concurrency")
    assert (found.value, found.bound) == (1, "-c leaves so much for each of 2")


def test_what_is_too_big_for_one_token_says_so() -> None:
    """A value of nought, and why."""
    found = largest(FOUND, PAGED, PagedJob(), [find("rtx-3060")], "context")
    assert (found.value, found.at) == (0, None)
    assert "before there is a token in its cache" in found.sentence


def test_layers_on_gpus() -> None:
    """As many as fit on two unequal cards; the others stay in the machine's memory."""
    cards = ["rtx-3060", "t4"]
    found = largest(FOUND, SPLIT, SplitJob(context=131072), [find(card) for card in cards], "gpu-layers")
    assert 0 < found.value < 32
    assert _verdict(SPLIT, SplitJob(context=131072, gpu_layers=found.value), cards).fits
    assert not _verdict(SPLIT, SplitJob(context=131072, gpu_layers=found.value + 1), cards).fits


@pytest.mark.parametrize("over", ["gpu-layrs", "eager", "nothing"])
def test_what_there_cannot_be_more_of_is_a_slip(over: str) -> None:
    """With what there is."""
    with pytest.raises(UsageError, match=r"gpu-layers|context") as caught:
        largest(FOUND, SPLIT, SplitJob(), [find("t4")], over)
    assert caught.value.exit_code == 2


def test_largest_values_of_200_random_jobs_fit_and_one_more_does_not() -> None:
    """Whatever the engine, the cards and what is asked for."""
    rng = random.Random(0)
    for _ in range(200):
        engine, job, gpus = _random(rng)
        over = rng.choice(["context", "concurrency"] + ["gpu-layers"] * (engine is SPLIT))
        field = over.replace("-", "_")
        found = largest(FOUND, engine, job, [find(gpu) for gpu in gpus], over)
        at = _verdict(engine, replace(job, **{field: found.value}), gpus) if found.at else None
        assert at is None or at.fits, (engine.name, job, gpus, over)
        if found.bound == "memory":
            following = found.value + 1 if found.at else (0 if over == "gpu-layers" else 1)
            assert not _verdict(engine, replace(job, **{field: following}), gpus).fits, (engine.name, job, gpus, over)
        assert found.sentence


def _random(rng: random.Random) -> tuple[Engine, ServeJob, list[str]]:
    context, concurrency = rng.randint(1, 8192), rng.randint(1, 40)
    if rng.random() < 0.5:
        width = rng.choice([1, 2, 4])
        job: ServeJob = PagedJob(
            context=context, concurrency=concurrency, utilization=rng.uniform(0.3, 1), tensor_parallel=width,
            max_num_seqs=rng.choice([8, 4096]), kv_cache_dtype=rng.choice(["auto", "fp8"]),
        )  # fmt: skip
        return PAGED, job, [rng.choice(CARDS)] * width
    split = SplitJob(context=context, concurrency=concurrency, gpu_layers=rng.randint(0, 33))
    return SPLIT, split, [rng.choice(CARDS) for _ in range(rng.randint(1, 3))]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_a_map_says_what_single_answers_say(seed: int) -> None:
    """Of each cell, tight ones and refused ones too."""
    pytest.importorskip("numpy")
    rng = random.Random(seed)
    engine, job, gpus = _random(rng)
    contexts, concurrencies = [rng.randint(1, 9000) for _ in range(3)], [rng.randint(1, 300) for _ in range(3)]
    found = serve_map(FOUND, engine, job, [find(gpu) for gpu in gpus], contexts, concurrencies)
    for row, context in enumerate(contexts):
        for column, concurrency in enumerate(concurrencies):
            verdict = _verdict(engine, replace(job, context=context, concurrency=concurrency), gpus)
            said = STATUSES[found.status[row][column]]
            assert said == verdict.status or (said == "refused" and "a concurrency of" in verdict.sentence)


def test_a_map_is_the_same_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which a plain installation does not have."""
    job, devices = PagedJob(max_num_seqs=300), [find("rtx-4090")]
    whole = serve_map(FOUND, PAGED, job, devices)
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert serve_map(FOUND, PAGED, job, devices) == whole
    assert {STATUSES[cell] for row in whole.status for cell in row} == {"fits", "too_big"}


def test_a_map_without_axes_goes_as_far_as_the_engine() -> None:
    """Powers of two, and the last value itself."""
    found = serve_map(FOUND, PAGED, PagedJob(max_num_seqs=100), [find("h100")])
    assert found.concurrencies[-2:] == (64, 100)
    assert found.contexts == (1024, 2048, 4096, 8192)


def test_changes_make_it_fit_when_typed() -> None:
    """Each that is said to fit does with its words, and the mildest comes first."""
    job, card = PagedJob(context=8192, concurrency=9, max_num_seqs=64), [find("rtx-4090")]
    assert not _verdict(PAGED, job, ["rtx-4090"]).fits
    found = changes(FOUND, PAGED, job, card)
    assert [one.title for one in found][:2] == ["keys and values in fp8", "7 at a time"]
    assert any(one.words[0] == "--gpu" for one in found)
    assert any(one.words == ("--format", "fp8") for one in found)
    for one in found:
        assert one.status == "fits"
        words = [word for word in one.words if word not in ("--gpu", "2xrtx-4090")]
        asked = dict(zip(words[::2], words[1::2], strict=True))
        own = {name[2:]: asked.pop(name) for name in ("--format", "--concurrency", "--context") if name in asked}
        changed = read_flags(PAGED, [word for pair in asked.items() for word in pair], job).job
        numbers = {name: int(value) if value.isdigit() else value for name, value in own.items()}
        gpus = ["rtx-4090"] * (2 if "--gpu" in one.words else 1)
        assert _verdict(PAGED, replace(changed, **numbers), gpus).fits, one


def test_changes_of_what_no_change_helps() -> None:
    """70 GiB of weights on a small card: what saves most comes first, and none is said to fit that does not."""
    found = changes(FOUND, PAGED, PagedJob(context=8192), [find("rtx-3060")])
    assert all(one.status == "fits" for one in found if one.margin_bytes >= 0)
    assert found


def test_both_usual_limits_are_found_together() -> None:
    """Context for the concurrency, concurrency for the context."""
    found = limits(FOUND, PAGED, PagedJob(context=2048), [find("rtx-4090")])
    assert [limit.over for limit in found.limits] == ["context", "concurrency"]
    assert found.limits[0].value % BLOCK == 0
