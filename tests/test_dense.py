"""Dense decoder families as jobs: what a layer keeps, patterns of layers, what is refused by name."""

from __future__ import annotations

import random
from typing import Any

import pytest

from oomph.answer import resolve
from oomph.errors import UnsupportedError
from oomph.explain import saved_tensors
from oomph.families import model_from_config
from oomph.header import Source
from oomph.job import InferJob, TrainJob
from oomph.job_ledger import job_ledger
from oomph.play import play, train_step
from oomph.programs import program_of
from oomph.steps import step
from tests.tape.dense import FAMILIES, config
from tests.tape.grid import infer_job, job

GEMMA_2_9B: dict[str, Any] = {
    "model_type": "gemma2", "vocab_size": 256000, "hidden_size": 3584, "intermediate_size": 14336,
    "num_hidden_layers": 42, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256,
}  # fmt: skip
GEMMA_3_4B: dict[str, Any] = {
    "model_type": "gemma3_text", "vocab_size": 262208, "hidden_size": 2560, "intermediate_size": 10240,
    "num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "sliding_window": 1024, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}  # fmt: skip


def test_gemma_2_9b_keeps_as_much_as_a_trace_of_its_class() -> None:
    """417,406,976 bytes a layer at 1 x 1024, sliding and full alike: four norms in fp32, scores bounded."""
    found = saved_tensors(model_from_config(GEMMA_2_9B), TrainJob(1, 1024))
    assert (found.every, found.periods, found.row_bytes) == (2, 21, 2 * 417_406_976)
    capped = [row for row in found.rows if row.needed_by == "Tanh backward"]
    assert sum(row.n_bytes for row in capped) == 2 * 2 * 16 * 1024 * 1024  # bf16 [1, 16, 1024, 1024] in two layers


def test_a_sliding_layer_of_gemma_3_4b_keeps_as_much_as_a_trace_of_its_class() -> None:
    """449,031,168 bytes at 1 x 2048: a mask, so the efficient kernel, repeated keys, and a mask of floats."""
    raw = {**GEMMA_3_4B, "layer_types": ["sliding_attention"] * 34}
    found = saved_tensors(model_from_config(raw), TrainJob(1, 2048))
    assert (found.every, found.row_bytes) == (1, 449_031_168)


@pytest.mark.parametrize(
    "job",
    [
        TrainJob(1, 2048, clip_gradients=True),
        TrainJob(1, 2048, checkpointing="non-reentrant"),
        TrainJob(1, 2048, checkpointing="reentrant", checkpoint_every=3, implementation="loop"),
        InferJob(1, 4096, decode=2),
        InferJob(2, 512, decode=1, cache="static"),
    ],
    ids=["plain", "checkpointed", "every third checkpointed", "served", "static cache"],
)
def test_gemma_3_folds_to_its_full_play(job: TrainJob | InferJob) -> None:
    """Five sliding layers and a full one are a period; 45 layers are seven of them and three more."""
    model = model_from_config({**GEMMA_3_4B, "num_hidden_layers": 45})
    folded, full = step(model, job), play(model, job)
    assert (folded.folded, folded.recipe.period % 6) == (True, 0)
    assert (folded.peak, folded.resident, folded.end) == (full.peak, full.resident, full.live[full.end])


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_folds_to_its_full_play(model_type: str) -> None:
    """Deep models of every family, training and serving: peak, resident and end bytes are those of the full play."""
    rng = random.Random(model_type)
    raw = config(rng, model_type) | {"num_hidden_layers": rng.randint(13, 30)}
    if raw.pop("layer_types", None) is not None and model_type == "exaone4":
        raw["layer_types"] = (["sliding_attention"] * 3 + ["full_attention"]) * 8
        raw["layer_types"] = raw["layer_types"][: raw["num_hidden_layers"]]
    raw.pop("no_rope_layers", None)
    model, training, serving = model_from_config(raw), job(rng, model_type), infer_job(rng)
    trained, full = step(model, training), train_step(model, training)
    assert (trained.peak, trained.resident, trained.end) == (full.peak, full.resident, full.live[full.end]), training
    served, full = step(model, serving), play(model, serving)
    assert (served.peak, served.resident, served.end) == (full.peak, full.resident, full.live[full.end]), serving


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ({**GEMMA_2_9B, "sliding_window": None}, "sliding layers without a window"),
        ({**GEMMA_2_9B, "layer_types": ["full_attention"] * 42}, "layers without a window"),
        ({**GEMMA_3_4B, "use_bidirectional_attention": True}, "bidirectional attention"),
        ({**GEMMA_3_4B, "rope_parameters": {"full_attention": {"rope_type": "dynamic"}}}, "rope_type=dynamic"),
        ({**GEMMA_2_9B, "model_type": "olmo", "clip_qkv": 8.0}, "clip_qkv"),
        ({**GEMMA_2_9B, "model_type": "glm", "rope_scaling": {"type": "longrope"}}, "rope_type=longrope"),
    ],
)
def test_what_the_tape_has_no_rule_for_is_refused_by_name(raw: dict[str, Any], named: str) -> None:
    """The model can be weighed; asked to play it, oomph says what is missing."""
    model = model_from_config(raw)
    assert model.params > 0
    with pytest.raises(UnsupportedError, match=named):
        program_of(model)


def test_an_odd_share_of_turned_channels_is_refused() -> None:
    """A rotary embedding turns pairs; the real class fails on its shapes."""
    raw = {**GEMMA_2_9B, "model_type": "glm", "head_dim": 20, "partial_rotary_factor": 0.25}
    with pytest.raises(UnsupportedError, match="pairs"):
        step(model_from_config(raw), TrainJob(1, 8))


@pytest.mark.parametrize("kernel", ["flash", "eager"])
def test_gemma_2_runs_with_the_eager_kernel_whatever_is_asked_for(kernel: Any) -> None:
    """The step is the same, and the ledger says why."""
    model, asked = model_from_config(GEMMA_2_9B, "gemma-2-9b"), TrainJob(1, 128, attention=kernel)
    assert step(model, asked).peak == step(model, TrainJob(1, 128, attention="eager")).peak
    found = job_ledger(resolve(Source("gemma-2-9b", "config", GEMMA_2_9B)), asked)
    assert any("eager attention kernel" in warning for warning in found.warnings) == (kernel == "flash")
