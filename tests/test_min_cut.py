"""torch.compile's estimate: how far it is from AOTAutograd's own partitioner, and how it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.min_cut import MOST_MORE, _of, min_cut
from oomph.steps import step
from tests.min_cut_cases import JOB, MODELS
from tests.test_cli import as_json

REAL: dict[str, int] = json.loads((Path(__file__).parent / "min_cut.json").read_text(encoding="utf-8"))["saved_bytes"]


@pytest.mark.parametrize("name", MODELS)
def test_the_cut_is_close_to_the_real_partitioners(name: str) -> None:
    """A lower bound, with the margin that answers tell an upper one, and below what eager torch saves."""
    found = min_cut(model_from_config(MODELS[name]), JOB)
    assert found.saved_bytes <= REAL[name] <= (1 + MOST_MORE) * found.saved_bytes
    assert REAL[name] < found.eager_bytes


def test_the_record_is_of_these_models() -> None:
    """Nothing is compared that was not recorded."""
    assert set(REAL) == set(MODELS)


def test_depth_is_told_from_shallow_models() -> None:
    """Each layer saves the same: three depths lie on a line."""
    found = [
        min_cut(model_from_config(MODELS["llama"] | {"num_hidden_layers": depth}), JOB).saved_bytes
        for depth in (4, 8, 12)
    ]
    assert found[2] - found[1] == found[1] - found[0] > 0


@pytest.mark.parametrize(
    "changes",
    [{}, {"freeze_layers": 5, "freeze_embeddings": True}, {"method": "lisa", "active_layers": 4},
     {"method": "prefix-tuning"}],
)  # fmt: skip
def test_depth_changes_nothing(changes: dict[str, Any]) -> None:
    """Also where some layers train and others do not: what is told is what the whole graph says."""
    model, job = model_from_config(MODELS["llama"] | {"num_hidden_layers": 12}), TrainJob(1, 32, **changes)
    assert min_cut(model, job) == _of(model, job)


def test_figures_stay_those_of_the_eager_step() -> None:
    """The estimate is a sentence beside them."""
    model = model_from_config(MODELS["llama"])
    assert step(model, TrainJob(2, 64, compile=True)).peak == step(model, TrainJob(2, 64)).peak


def test_an_answer_labels_the_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    """With its margin, and that it is one."""
    found = as_json(capsys, "train", "qwen2.5-0.5b", "--compile", "--seq", "512")
    (said,) = [one for one in found["warnings"] if "torch.compile" in one]
    assert "Estimate" in said
    assert "at least" in said


@pytest.mark.parametrize(
    "changes",
    [{"checkpointing": "reentrant"}, {"activation_offload": "trl"}, {"objective": "dpo"}, {"method": "qlora"}],
    ids=str,
)
def test_what_it_says_nothing_about_is_refused(changes: dict[str, Any]) -> None:
    """Each by name."""
    with pytest.raises(UsageError, match=r"torch\.compile"):
        TrainJob(**{"compile": True, **changes})


@pytest.mark.slow
def test_a_trace_refuses_compiled_code() -> None:
    """It would show the eager step."""
    from oomph.referee.trace import refuse_other_code

    with pytest.raises(UnsupportedError, match="eager torch"):
        refuse_other_code(TrainJob(compile=True))
