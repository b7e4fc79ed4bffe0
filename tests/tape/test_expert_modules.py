"""Experts as transformers 4 built them: the bytes of real CPU runs are the estimate's.

expert_modules.json holds what models of transformers 5.23 took whose decoder layers, sparse blocks and MLPs were those
of transformers 4.57.3 (the source of the classes, run in the module of 5.23), under the tracker, with the routing that
the tape assumes forced on topk as test_eager_experts.py does, and with PEFT 0.21 told not to translate target names.
Qwen's events were equal one by one; Mixtral's but for the order in which gradients die, as its MLP declares w2 before
w3. Four numbers: peak, parameters, gradients, optimizer states.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oomph.compare import peak_bytes
from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.play import play, train_step
from oomph.steps import step
from tests.tape.grid import played

ROWS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "expert_modules.json").read_text("utf-8"))


@pytest.mark.parametrize("row", ROWS, ids=[f"{n} {row['config']['model_type']}" for n, row in enumerate(ROWS)])
def test_the_bytes_are_those_of_the_real_classes(row: dict[str, Any]) -> None:
    """Loops over experts, evenly hit or not, in full and with adapters on some maps or on all, also the router."""
    tape, events = played(row["config"], TrainJob(**row["job"]))
    assert [
        peak_bytes(events), tape.kept("parameter", tape.start), tape.kept("gradient", tape.backward_end),
        tape.kept("optimizer state"),
    ] == row["bytes"]  # fmt: skip


def test_experts_are_quantised_and_adapted_one_by_one() -> None:
    """QLoRA on all linear maps: four bits and a few for each weight of an expert, where stacks keep sixteen."""
    config, job = ROWS[0]["config"], TrainJob(1, 8, method="qlora", targets="all-linear", experts="modules")
    model = model_from_config(config)
    apart, stacked = (train_step(model, one) for one in (job, replace(job, experts="grouped_mm", targets="q_proj")))
    experts = 2 * 4 * 3 * config["hidden_size"] * config["intermediate_size"]  # layers, experts, maps
    least = experts * (2 - 1)  # bytes: 16 bits each and less than 8
    assert apart.kept("parameter", apart.start) < stacked.kept("parameter", stacked.start) - least


def test_layers_fold() -> None:
    """A deeper model's peak, told from few layers, is the one played in full."""
    model, job = model_from_config({**ROWS[0]["config"], "num_hidden_layers": 6}), TrainJob(1, 8, experts="modules")
    assert step(model, job).peak == max(train_step(model, job).live)


def test_what_has_no_such_loop_is_refused() -> None:
    """A type whose class of transformers 4 is not known, and stacks that are quantised where there are none."""
    raw = ROWS[0]["config"] | {"model_type": "granitemoe"}
    with pytest.raises(UnsupportedError, match="granitemoe"):
        play(model_from_config(raw), TrainJob(1, 8, experts="modules"))
    with pytest.raises(UsageError, match="modules"):
        TrainJob(1, 8, method="qlora", experts="modules", quantised_experts=True)
