"""What is true of every engine: the ledger's sums, the verdict, and that a map says what single answers say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomph.answer import Subject, subject
from oomph.devices import Device, find
from oomph.engines import engine
from oomph.engines.base import Deployment, Engine, Limit, ServeJob, Share
from oomph.engines.serving import POOL, serve
from oomph.errors import UsageError
from oomph.ledger import Item, Printed

WEIGHTS, PER_TOKEN, MOST = 10 * 2**30, 131072, 64


def _deploy(found: Subject, job: ServeJob, devices: Sequence[Device]) -> Deployment:
    """Put equal weights on each device, and a cache of one size per token."""

    def needs(context: Any, concurrency: Any) -> Any:
        return context * concurrency * PER_TOKEN

    share = Share(
        "gpu",
        (Item("weights", "weights", WEIGHTS, safe=WEIGHTS + 512),),
        needs,
        lambda context, concurrency: (Item("keys and values", "kv_cache", needs(context, concurrency)),),
        room_bytes=devices[0].capacity_bytes - WEIGHTS if devices else None,
        capacity_bytes=devices[0].capacity_bytes if devices else None,
        pool=True,
        count=max(1, len(devices)),
    )
    printed = (Printed("weights_gib", "loading took 10.00 GiB", 10.0),)
    limits = {"concurrency": Limit(MOST, "--most is 64")}
    return Deployment((share,), job.context or 2048, printed, limits)


def _command(model: str, job: ServeJob) -> list[str]:
    return ["plain", model]


PLAIN = Engine("plain", "An engine", "these tests", ServeJob, (("plain",),), _deploy, _command, hub=True)


def _served(job: ServeJob, gpus: int) -> Any:
    return serve(subject("llama-3-8b"), PLAIN, job, [find("rtx-4090")] * gpus)


def test_a_ledger_counts_all_devices_and_the_figure_one() -> None:
    """Items are of the whole job, the figure is of the fullest device, which a pool fills."""
    found = _served(ServeJob(context=4096, concurrency=4), 2)
    capacity = find("rtx-4090").capacity_bytes
    assert found.total_bytes == 2 * capacity
    assert found.figures[0].n_bytes == capacity
    assert found.figures[0].safe_bytes == capacity + 512
    assert found.groups["kv_cache"] == 2 * (capacity - WEIGHTS)
    assert {item.device for item in found.items} == {"each of 2 gpu"}
    assert [item.name for item in found.items] == ["weights", "keys and values", POOL]
    assert found.printed[0].value == 10.0
    assert found.command == ("plain", "meta-llama/Meta-Llama-3-8B")


def test_without_a_device_it_says_what_is_taken() -> None:
    """No device, no verdict and no pool."""
    found = _served(ServeJob(context=4096), 0)
    assert found.verdict is None
    assert found.total_bytes == WEIGHTS + 4096 * PER_TOKEN


@pytest.mark.parametrize(
    ("context", "concurrency", "gpu_words"),
    [(2**20, 1, "Does not fit: 1,048,576 tokens need 128.00 GiB"), (16, 65, "a concurrency of 65 is more than 64")],
)
def test_what_does_not_fit_says_why(context: int, concurrency: int, gpu_words: str) -> None:
    """Too little room, or a limit of the engine's own."""
    verdict = _served(ServeJob(context=context, concurrency=concurrency), 1).verdict
    assert verdict.status == "too_big"
    assert gpu_words in verdict.sentence


@given(context=st.integers(1, 2**18), concurrency=st.integers(1, 80))
def test_a_map_is_what_single_answers_are(context: int, concurrency: int) -> None:
    """Deployment.fits on arrays agrees with the verdict of each cell."""
    np = pytest.importorskip("numpy")
    found = subject("llama-3-8b")
    job = ServeJob(context=context, concurrency=concurrency)
    deployed = _deploy(found, job, [find("rtx-4090")])
    contexts = np.array([context, context + 1, 2 * context])
    verdicts = [_served(replace(job, context=int(each)), 1).verdict.fits for each in contexts]
    assert list(deployed.fits(contexts, concurrency)) == verdicts


def test_an_engine_that_is_not_known_is_named() -> None:
    """A slip of the keyboard is no traceback."""
    with pytest.raises(UsageError, match="no engine 'vlm'"):
        engine("vlm")
