"""Levers: each has its sentence and source, a job on which it saves, a place in the docs; none is shown that costs."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oomph.job import TrainJob
from oomph.job_words import COMPLETING
from oomph.objectives import KINDS as OBJECTIVES
from oomph.objectives import OF_FACTORY, OF_FACTORY_ALONE
from oomph.planning.change import settings, together
from oomph.planning.lever import Lever, Price
from oomph.planning.levers import levers
from oomph.planning.upgrades import UPGRADES
from tests.objectives.embedding_cases import BERT, contrastive
from tests.planning.models import GPT2, HYBRID, LLAMA, MIXTRAL, bench, random_job, random_model, subject

DOCS = Path(__file__).parents[2] / "docs"
SMALL = {"vocab_size": 128}  # so that the peak is in the layers, not in the loss
DEEP = {"num_hidden_layers": 12}
WORDS = {"vocab_size": 50000}  # so that it is in the loss

# For each lever a model and a job at whose peak is what it takes away.
EXAMPLES: dict[str, tuple[dict[str, Any], TrainJob]] = {
    "drop the logits": (LLAMA | WORDS, TrainJob(2, 512)),
    "let outputs die with their step": (LLAMA | WORDS, TrainJob(1, 64, keep_outputs=True)),
    "no fp32 copies of the outputs": (LLAMA | WORDS, TrainJob(2, 512, fp32_outputs=True)),
    "no key-value cache": (LLAMA | SMALL, TrainJob(4, 1024, use_cache=True, attention="eager")),
    "free gradients after the step": (LLAMA, TrainJob(2, 1024, set_to_none=False)),
    "Liger's cross entropy": (LLAMA | WORDS, TrainJob(2, 512)),
    "Liger's kernels": (LLAMA, TrainJob(2, 1024)),
    "Unsloth's forward pass": (LLAMA, TrainJob(2, 1024, method="lora")),
    "packages for layers that keep a state": (HYBRID, TrainJob(2, 512)),
    "cut cross entropy": (LLAMA | WORDS, TrainJob(2, 512)),
    "adapters in the dtype of the weights": (LLAMA, TrainJob(2, 512, method="lora", rank=64)),
    "LoRA": (LLAMA, TrainJob(1, 64)),
    "LoRA-FA": (LLAMA | SMALL, TrainJob(4, 1024, method="lora")),
    "QLoRA": (LLAMA, TrainJob(1, 64)),
    "QLoRA with 4-bit experts": (MIXTRAL, TrainJob(1, 64)),
    "norms, embeddings and head in 16 bits": (LLAMA, TrainJob(1, 64, method="qlora")),
    "lower rank": (LLAMA, TrainJob(1, 64, method="lora", rank=64)),
    "fused optimizer": (LLAMA, TrainJob(1, 64)),
    "8-bit Adam": (LLAMA, TrainJob(1, 64)),
    "paged 8-bit Adam": (LLAMA, TrainJob(1, 64, optimizer="adamw_8bit")),
    "Adam in host memory": (LLAMA, TrainJob(1, 64)),
    "4-bit Adam": (LLAMA, TrainJob(1, 64, optimizer="adamw_8bit")),
    "APOLLO": (LLAMA, TrainJob(1, 64)),
    "AdaLomo": (LLAMA, TrainJob(1, 64)),
    "Adafactor": (LLAMA, TrainJob(1, 64)),
    "8-bit Lion": (LLAMA, TrainJob(1, 64)),
    "SGD with momentum": (LLAMA, TrainJob(1, 64)),
    "SGD": (LLAMA, TrainJob(1, 64, optimizer="sgd-momentum")),
    "flash attention": (LLAMA, TrainJob(2, 1024, attention="eager")),
    "memory-efficient attention": (LLAMA, TrainJob(2, 1024, attention="eager", padding=True)),
    "smaller micro-batches, more of them": (LLAMA, TrainJob(12, 256)),
    "GradCache": (BERT, contrastive(64, 64)),
    "fewer texts in a batch": (BERT, contrastive(64, 64)),
    "gradient checkpointing": (LLAMA, TrainJob(4, 1024)),
    "checkpoint every layer": (LLAMA | SMALL, TrainJob(8, 1024, checkpointing="non-reentrant", checkpoint_every=3)),
    "layers' inputs in host memory": (LLAMA | SMALL | DEEP, TrainJob(8, 1024, checkpointing="non-reentrant")),
    "autocast": (LLAMA | SMALL, TrainJob(2, 1024, method="qlora")),
    "mixed precision": (LLAMA, TrainJob(4, 1024, precision="fp32", attention="efficient")),
    "bf16 throughout": (LLAMA, TrainJob(4, 1024, precision="amp-bf16")),
    "no dropout": (GPT2 | SMALL, TrainJob(4, 1024)),
    "flash-attn for padded or packed batches": (LLAMA, TrainJob(2, 1024, attention="eager", padding=True)),
    "no padding mask": (LLAMA | SMALL, TrainJob(2, 1024, attention="eager", padding=True)),
    "packing without position ids": (LLAMA | SMALL, TrainJob(2, 1024, attention="eager", packing=True)),
    "shorter sequences": (LLAMA, TrainJob(1, 4096)),
}


@pytest.mark.parametrize("lever", levers(), ids=lambda lever: lever.name)
def test_a_lever_saves_where_it_should(lever: Lever) -> None:
    """On its example every setting takes less than the one before, down to the last."""
    raw, job = EXAMPLES[lever.name]
    on = bench(raw)
    steps = settings(on, lever, job)
    assert steps
    peaks = [on.peak(job), *(on.peak(together(job, [step])) for step in steps)]
    assert peaks == sorted(set(peaks), reverse=True)


@pytest.mark.parametrize("lever", [*levers(), *UPGRADES], ids=lambda lever: lever.name)
def test_a_lever_has_its_words(lever: Lever) -> None:
    """One sentence on its cost, a source to look it up, and a row in the docs."""
    assert lever.cost.endswith(".")
    assert lever.cost.count(". ") == 0
    assert lever.source.startswith("https://")
    assert lever.price.words
    assert f"| {lever.name} | {lever.price.words} | {lever.cost} | <{lever.source}> |" in (DOCS / "plan.md").read_text()


def test_a_batch_of_an_embedding_model_is_not_cut_into_micro_batches() -> None:
    """Its texts are each other's negatives: accumulated gradients of parts are those of another loss."""
    on, job = bench(BERT), contrastive(64, 64)
    found = {lever.name: settings(on, lever, job) for lever in levers()}
    assert not found["smaller micro-batches, more of them"]
    cached = [together(job, [step]) for step in found["GradCache"]]
    assert {each.objective for each in cached} == {"contrastive-cached"}
    assert [each.mini_batch_size for each in cached] == [32, 16, 8, 4, 2, 1][: len(cached)]


def test_names_are_distinct_and_prices_ascend() -> None:
    """A name says which lever; the ladder goes from the cheapest on."""
    names = [lever.name for lever in levers()]
    assert len(set(names)) == len(names)
    assert set(names) == set(EXAMPLES)
    prices = [lever.price for lever in levers()]
    assert prices == sorted(prices)
    assert set(prices) == set(Price)


@pytest.mark.parametrize("seed", range(12))
def test_no_lever_is_shown_that_takes_more(seed: int) -> None:
    """Whatever the job: what is kept of a lever's settings takes less than the job as it is."""
    rng = random.Random(seed)
    on, job = bench(random_model(rng)), random_job(rng)
    for lever in levers():
        for step in settings(on, lever, job):
            assert on.peak(together(job, [step])) < on.peak(job), (lever.name, step)


@pytest.mark.parametrize(
    ("objective", "code"),
    [
        *((name, "trl") for name in OBJECTIVES if name not in OF_FACTORY_ALONE),
        *((n, "llama-factory") for n in OF_FACTORY),
    ],
)
def test_no_lever_asks_for_what_an_objective_refuses(objective: str, code: str) -> None:
    """PPO knows neither checkpoints nor a quantised base, distillation no quantised one: such changes are left out."""
    prompt_len = 16 if objective in COMPLETING else 0
    job = TrainJob(2, 64, objective=objective, objective_code=code, prompt_len=prompt_len, targets="q_proj")
    jobs = (job,) if objective == "asft" else (job, replace(job, method="lora"))  # no reference beside adapters
    for model in (subject(raw).model for raw in (LLAMA, MIXTRAL)):
        for lever in (*levers(), *UPGRADES):
            for each in jobs:
                assert each not in list(lever.applied(each, model))


@pytest.mark.parametrize(
    "inputs",
    [{"qat": "8da4w"}, {"optimizer": "q_galore_adamw8bit", "weight_quant": True}],
)
def test_levers_that_do_not_go_with_a_job_are_left_out(inputs: dict[str, Any]) -> None:
    """Adapters go with neither, checkpointing with both: jobs that cannot be are no error of a plan's."""
    job, model = TrainJob(6, 1024, **inputs), subject(LLAMA).model
    names = {lever.name for lever in levers() if list(lever.applied(job, model))}
    assert "gradient checkpointing" in names
    assert not {"LoRA", "QLoRA"} & names
