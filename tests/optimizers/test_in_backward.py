"""Optimizers that step within the backward pass: what they save, and what they do not go with."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.steps import step
from oomph.streams import job_stream
from tests.optimizers.test_state_sizes import MISTRAL_7B, PARAMS, kept, played


def test_no_two_layers_have_gradients_at_once() -> None:
    """Of 14.5 GB of gradients less than two percent is ever there: the largest weight's."""
    usual, in_backward = played(MISTRAL_7B), played(MISTRAL_7B, optimizer_in_backward=True)
    assert kept(usual, "gradients") == pytest.approx(2 * PARAMS, rel=1e-3)
    assert kept(in_backward, "gradients") < 0.02 * 2 * PARAMS
    assert in_backward.folded


def test_states_are_the_same_but_for_code_books() -> None:
    """An optimizer of one parameter whose states have 8 bits has two code books of its own: 290 pairs, not one."""
    one, each = (played(MISTRAL_7B, optimizer="adamw_8bit", optimizer_in_backward=on) for on in (False, True))
    assert kept(each, "optimizer") - kept(one, "optimizer") == 2 * 1024 * (9 * 32 + 2 - 1)


def test_lomo_has_two_gradients_at_most() -> None:
    """The next one comes before the one before is used; then an fp32 copy of it and of its weight is made."""
    one = played(MISTRAL_7B, optimizer="lomo", checkpointing="non-reentrant")
    assert kept(one, "gradients") < 2 * 0.02 * 2 * PARAMS
    assert one.peak - 2 * PARAMS == pytest.approx(8 * 32000 * 4096, rel=0.1)


@pytest.mark.parametrize("optimizer", ["galore_adamw_8bit_layerwise", "galore_adamw_layerwise", "lomo"])
def test_a_later_step_of_a_stream_updates_what_the_first_did(optimizer: str) -> None:
    """Also a parameter that the first step gave another storage: gradients of the second do not stay."""
    first, later = (TrainJob(1, 64, optimizer=optimizer, steady=steady) for steady in (False, True))
    model = model_from_config({**MISTRAL_7B, "num_hidden_layers": 3})
    highest = max(int(step(model, job).peak) for job in (first, later))
    assert job_stream(model, later).peak_bytes == pytest.approx(highest, rel=1e-3)


@pytest.mark.parametrize(
    "other",
    [
        {"optimizer": "adalomo", "method": "lora"},
        {"optimizer": "torchao-cpu-offload"},
        {"accumulation": 2},
        {"clip_gradients": True},
        {"optimizer": "none"},
        {"set_to_none": False},
    ],
)
def test_what_needs_all_gradients_is_refused(other: dict[str, Any]) -> None:
    """Accumulation, clipping, no optimizer, gradients that stay, states of what is frozen."""
    with pytest.raises(UsageError, match="in backward does not go with"):
        TrainJob(optimizer_in_backward=True, **other)
