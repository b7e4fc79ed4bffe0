"""The trace from outside: a process of its own, with limits, progress and refusals."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import UnsupportedError
from oomph.job import InferJob, TrainJob
from oomph.referee import trace as referee
from oomph.stream import Event, Label, Stream
from tests.referee import models


def test_phases_between_marks() -> None:
    """Each mark begins a phase that ends where the next one begins."""
    stream = Stream([Event(0, 600), Event(1, 1), Event(0, -600)], [(0, "parameters"), (1, "forward"), (3, "end")])
    assert referee.phases(stream) == [
        referee.Phase("parameters", 0, 1024, 1024),
        referee.Phase("forward", 1024, 1536, 512),
        referee.Phase("end", 512, 512, 512),
    ]


def test_packed_and_unpacked() -> None:
    """The form between the processes loses nothing."""
    stream = Stream([Event(0, 8), Event(0, -8)], [(0, "forward")], {0: Label("mm", (2, 2), "bf16", "forward")})
    found = referee.Trace(stream, {0: "w"}, 1, 2, 3, 4, ("flash",), {"torch": "2.13.0"}, ("a warning",))
    assert referee._unpacked(referee._packed(found)) == found


def test_untested_versions_are_named() -> None:
    """Another torch may work, but nobody has checked."""
    assert referee._untested({"torch": "2.13.1+cpu", "transformers": "5.23.0"}) == []
    assert "torch 2.14.0 is untested" in referee._untested({"torch": "2.14.0", "transformers": "5.23.0"})[0]


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra to install is named."""
    monkeypatch.setattr(referee, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match="trace"):
        referee.run(models.LLAMA, TrainJob())


@pytest.mark.slow
@pytest.mark.parametrize("job", [TrainJob(batch=2, seq_len=5, accumulation=2), InferJob(seq_len=5, decode=2)])
def test_another_process_gives_the_same(job: Any) -> None:
    """The isolated trace equals the one made here, and says how far it is up to the end."""
    steps: list[tuple[int, int]] = []
    found = referee.run(models.LLAMA, job, lambda done, total: steps.append((done, total)))
    assert found == referee.trace(models.LLAMA, job)
    total = 2 * 2 * 2 * 2 if isinstance(job, TrainJob) else 2 * 3  # layers x directions x micro-batches x steps
    assert steps == [(done, total) for done in range(1, total + 1)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "says"), [("nonsense-9", "no architecture"), ("vit", "no AutoModelForCausalLM")]
)
def test_what_transformers_has_not(model_type: str, says: str) -> None:
    """The class that is missing is named."""
    with pytest.raises(UnsupportedError, match=says):
        referee.trace({**models.LLAMA, "model_type": model_type}, TrainJob(seq_len=5))


@pytest.mark.slow
def test_what_fails_is_refused() -> None:
    """What went wrong in the other process is said with exit code 3."""
    with pytest.raises(UnsupportedError, match=r"The trace failed: .*7") as caught:
        referee.run({**models.LLAMA, "num_attention_heads": 7}, TrainJob(seq_len=5))
    assert caught.value.exit_code == 3


@pytest.mark.slow
def test_a_trace_that_takes_too_long_is_stopped() -> None:
    """A hundred thousand layers end at the time limit."""
    with pytest.raises(UnsupportedError, match="more than 8 seconds"):
        referee.run({**models.LLAMA, "num_hidden_layers": 100_000}, TrainJob(), seconds=8)
