"""A step of any depth from a few layers is the step played in full, whichever optimizer makes it."""

from __future__ import annotations

import pytest

from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.job_checks import ALL_AT_ONCE
from oomph.job_words import OptimizerName
from oomph.optimizer_names import KINDS
from oomph.play import train_step
from oomph.steps import step
from tests.referee import models

DEEP = model_from_config({**models.LLAMA, "num_hidden_layers": 9, "intermediate_size": 512})


@pytest.mark.parametrize("steady", [True, False])
@pytest.mark.parametrize("optimizer", KINDS)
def test_folded_steps_are_those_played_in_full(optimizer: OptimizerName, steady: bool) -> None:
    """Same peak, same end; nothing is extrapolated but the number of layers."""
    precision = "fp16" if optimizer.startswith(("rmsprop", "lars", "adagrad_bnb", "sgd_bnb")) else "bf16"
    for in_backward in {KINDS[optimizer].in_backward, optimizer not in ALL_AT_ONCE}:
        int8 = KINDS[optimizer].rule == "q_galore"
        job = TrainJob(
            1, 8, precision, optimizer=optimizer, steady=steady, optimizer_in_backward=in_backward, weight_quant=int8
        )
        short, whole = step(DEEP, job), train_step(DEEP, job)
        live = list(whole.live)
        assert short.folded
        assert (short.peak, short.end) == (max(live[whole.start : whole.end + 1]), live[whole.end])
