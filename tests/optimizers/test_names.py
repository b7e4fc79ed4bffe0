"""The table of optimizer names: what jobs take, what the HF Trainer calls them, which ways they have."""

from __future__ import annotations

from importlib import import_module
from typing import get_args

import pytest
from click.testing import CliRunner

from oomph.answer import resolve
from oomph.cli.app import cli
from oomph.errors import UnsupportedError, UsageError
from oomph.header import Source
from oomph.job import TrainJob
from oomph.job_ledger import job_ledger
from oomph.job_words import OptimizerName
from oomph.optimizer_names import KINDS, REFUSED
from oomph.runtimes.config_file import read
from tests.configs import LLAMA_3_8B

# Names that are not, or no more, the HF Trainer's.
OWN = {
    "adamw", "adamw_hf", "adamw-amsgrad", "adam", "nadam", "radam", "adamax", "adadelta", "sgd-momentum",
    "adamw_bnb_32bit", "muon", "muon-llama-factory",
    "adafactor-torch", "adafactor-torch-foreach", "torchao-adamw-4bit", "torchao-adamw-fp8",
    "apollo-mini", "lion", "came", "torchao-cpu-offload", "adam-mini", "prodigy", "optimi-adamw", "soap",
    "adamw-master", "lamb", "lars", "dadapt-adam", "shampoo", "sophia-g", "adopt", "adan", "adagrad_bnb_8bit",
    "adagrad_bnb_32bit", "sgd_bnb_8bit", "sgd_bnb_32bit", "q_galore_adamw8bit",
    "q_galore_adamw8bit_per_layer",
}  # fmt: skip


def test_a_job_takes_the_names_of_the_table() -> None:
    """The command line's choices are the table's names, and none at all."""
    assert {*KINDS, "none"} == set(get_args(OptimizerName))


def test_every_name_has_a_rule() -> None:
    """A rule's file says when its states are made, and has both functions."""
    for name, kind in KINDS.items():
        rule = import_module(f"oomph.optimizers.{kind.rule}")
        assert rule.STATES in ("before", "after", "within", "made"), name
        assert callable(rule.state), name
        assert callable(rule.step), name


@pytest.mark.slow
def test_names_are_those_of_the_trainer() -> None:
    """What is not oomph's own short name is a value of TrainingArguments.optim, and all of those are known."""
    from transformers.training_args import OptimizerNames

    assert (set(KINDS) - OWN) | set(REFUSED) == {each.value for each in OptimizerNames}
    assert not set(KINDS) & set(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_played_is_refused_with_the_reason(name: str) -> None:
    """By a job, and in a config file."""
    with pytest.raises(UsageError, match=REFUSED[name]):
        TrainJob(optimizer=name)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match=REFUSED[name]):
        read({"per_device_train_batch_size": 1, "optim": name}, "args.json")
    said = CliRunner().invoke(cli, ["train", "llama-3-8b", "--optim", name]).output
    assert f"{name} is not modelled" in " ".join(said.split())


def test_a_name_settles_the_implementation() -> None:
    """adamw_torch_fused is fused without more words, layerwise GaLore steps in backward, and the job says so."""
    assert TrainJob(optimizer="adamw_torch_fused").implementation == "fused"
    assert TrainJob(optimizer="galore_adamw_layerwise").optimizer_in_backward


@pytest.mark.parametrize(
    ("optimizer", "implementation"), [("adamw_torch_fused", "loop"), ("adamw_8bit", "fused"), ("rmsprop", "fused")]
)
def test_an_implementation_that_there_is_not_is_refused(optimizer: OptimizerName, implementation: str) -> None:
    """torch has no fused RMSprop, and bitsandbytes one way only."""
    with pytest.raises(UsageError, match="has no implementation"):
        TrainJob(optimizer=optimizer, implementation=implementation)  # type: ignore[arg-type]


def test_a_ledger_says_what_it_does_not_count() -> None:
    """Paged states are in unified memory: a warning names the optimizer, and there is none for others."""
    found = resolve(Source("llama", "config", LLAMA_3_8B))
    names: tuple[OptimizerName, OptimizerName] = ("paged_adamw_8bit", "adamw")
    paged, usual = (job_ledger(found, TrainJob(1, 8, optimizer=name)) for name in names)
    assert any("paged_adamw_8bit keeps its states in unified memory" in one for one in paged.warnings)
    assert not any("unified" in one for one in usual.warnings)
    offloaded = job_ledger(found, TrainJob(1, 8, optimizer="torchao-cpu-offload"))
    assert any("keeps its states in host memory" in one for one in offloaded.warnings)
    forgetful = TrainJob(1, 8, optimizer="q_galore_adamw8bit_per_layer", weight_quant=True)
    assert any("are never updated" in one for one in job_ledger(found, forgetful).warnings)
    compiled = job_ledger(found, TrainJob(1, 8, optimizer="adamw_torch_8bit"))
    assert any("makes its step by torch.compile" in one for one in compiled.warnings)
