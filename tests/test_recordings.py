"""What an H100 did, event by event: every allocation torch 2.11 made on it, recorded with `oomph measure --snapshot`.

A recording in measurements/recordings holds sizes in order, an allocation as its bytes, a free as -1 less the number of
what it frees; its row in measurements/h100-sxm.jsonl says which job it was.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from oomph.allocator import Config, Replay, replay
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.play import play, train_step
from oomph.snapshot import RELEASED
from oomph.stream import Event, Stream, rounded
from oomph.units import KIB

MEASUREMENTS = Path(__file__).parents[1] / "measurements"
NAMES = sorted(path.name.removesuffix(".json.gz") for path in (MEASUREMENTS / "recordings").glob("*.json.gz"))
# Below lie what other versions of transformers do (tables of rotary angles), scratch of scans, splits of one query.
LARGE = 256 * KIB


@cache
def recording(name: str) -> dict[str, Any]:
    """Return a recording."""
    found: dict[str, Any] = json.loads(gzip.decompress((MEASUREMENTS / "recordings" / f"{name}.json.gz").read_bytes()))
    return found


@cache
def row(name: str) -> dict[str, Any]:
    """Return the measured row of a recording."""
    rows = map(json.loads, (MEASUREMENTS / "h100-sxm.jsonl").read_text(encoding="utf-8").splitlines())
    return next(each for each in rows if each["id"] == recording(name)["row"])


def stream(name: str) -> Stream:
    """Return a recording as a stream, marked where the cache was emptied after the model was built."""
    sizes: list[int] = []
    events = []
    for number in recording(name)["events"]:
        if number > 0:
            events.append(Event(len(sizes), number))
            sizes.append(number)
        else:
            events.append(Event(-1 - number, -sizes[-1 - number]))
    return Stream(events, [(position, RELEASED) for position in recording(name)["cache_released_at"]])


def replayed(name: str) -> Replay:
    """Return what the allocator model does with a recording."""
    return replay(stream(name), Config(by_address=True), empty_cache_at=[RELEASED])


def large(events: list[Event]) -> list[int]:
    """Return the sizes of large allocations, negative where they are freed, as the allocator rounds them."""
    sizes = [rounded(abs(event.n_bytes)) * (1 if event.n_bytes > 0 else -1) for event in events]
    return [size for size in sizes if abs(size) > LARGE]


def test_there_are_recordings() -> None:
    """The tests below have something to test."""
    assert len(NAMES) == 6


@pytest.mark.parametrize("name", [name for name in NAMES if "infer" not in name])
def test_replay_is_what_the_gpu_did(name: str) -> None:
    """Every allocation of a training run played through the allocator: reserved to the byte."""
    assert replayed(name).reserved_peak_bytes == recording(name)["reserved_peak_bytes"]


def test_replay_of_inference() -> None:
    """Here the driver had holes of the context's to put segments in, and one segment of 12 MiB differs."""
    name = "qwen3-0.6b-infer"
    assert replayed(name).reserved_peak_bytes - recording(name)["reserved_peak_bytes"] == 12 * 2**20


@pytest.mark.parametrize("name", NAMES)
def test_the_step_is_what_the_gpu_did(name: str) -> None:
    """Every allocation and free above 256 KiB of the estimated step is one of the GPU, in the same order, and no other
    came between."""
    measured, raw = row(name), row(name)["config"]
    model = model_from_config(raw)
    if measured["kind"] == "train":
        played = train_step(model, TrainJob(**measured["job"]), warm_up=True)
    else:
        played = play(model, InferJob(**measured["job"]))
    ours = large(played.recorder.stream().events[played.start : played.end])
    theirs = large(stream(name).events)
    assert len(ours) > 500
    places = [at for at in range(len(theirs) - len(ours) + 1) if theirs[at : at + len(ours)] == ours]
    assert places, first_difference(ours, theirs)


def first_difference(ours: list[int], theirs: list[int]) -> str:
    """Say where the longest common stretch from the start of ours ends."""
    best, where = 0, 0
    for at in range(len(theirs)):
        same = 0
        while same < len(ours) and at + same < len(theirs) and ours[same] == theirs[at + same]:
            same += 1
        best, where = max((best, where), (same, at))
    return f"{best} of {len(ours)} equal, then ours {ours[best : best + 4]}, theirs {theirs[where + best :][:4]}"


def test_recorded_order_is_whole() -> None:
    """A free names an allocation made before it, once."""
    for name in NAMES:
        alive: set[int] = set()
        for before, event in pairwise([Event(0, 0), *stream(name).events]):
            del before
            if event.n_bytes > 0:
                alive.add(event.ordinal)
            else:
                alive.remove(event.ordinal)
