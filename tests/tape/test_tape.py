"""The tape without torch: published totals of real models, and what must hold for any job."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob, describe
from oomph.play import train_step
from oomph.steps import step
from oomph.units import GIB
from tests.configs import DEEPSEEK_V3, LLAMA_3_8B

QWEN3_8B: dict[str, Any] = {
    "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "head_dim": 128,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151936, "tie_word_embeddings": False,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "model_type": "gpt2", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 50257,
    "max_position_embeddings": 1024,
}  # fmt: skip


def saved_per_layer(raw: dict[str, Any], job: TrainJob) -> int:
    """Bytes one more layer keeps from its forward to its backward pass."""
    ends = [train_step(model_from_config({**raw, "num_hidden_layers": layers}), job, on="trace") for layers in (2, 3)]
    kept = [one.live[one.forward_end] - one.resident for one in ends]
    return kept[1] - kept[0]


@pytest.mark.parametrize(
    ("raw", "job", "expected"),
    [
        (LLAMA_3_8B, TrainJob(1, 2048, optimizer="none"), 411_321_344),
        (LLAMA_3_8B, TrainJob(1, 2048, optimizer="none", attention="eager"), 1_241_530_368),
        (LLAMA_3_8B, TrainJob(1, 2048, optimizer="none", precision="amp-bf16"), 931_415_040),
        (LLAMA_3_8B, TrainJob(1, 2048, optimizer="none", checkpointing="non-reentrant"), 2 * 2048 * 4096),
        (LLAMA_3_8B, TrainJob(1, 2048, optimizer="none", checkpointing="reentrant"), 2 * 2048 * 4096),
        (QWEN3_8B, TrainJob(1, 2048, optimizer="none"), 441_009_152),
        (GPT2, TrainJob(8, 1024, optimizer="none"), 365_364_224),
    ],
    ids=[
        "llama-flash",
        "llama-eager",
        "llama-amp",
        "llama-checkpointed",
        "llama-reentrant",
        "qwen3-flash",
        "gpt2-dropout",
    ],
)
def test_saved_bytes_per_layer(raw: dict[str, Any], job: TrainJob, expected: int) -> None:
    """What one layer saves, as traced through the real classes (transformers 5.23, torch 2.13)."""
    assert saved_per_layer(raw, job) == expected


@pytest.mark.parametrize(
    ("job", "gib"),
    [
        (TrainJob(1, 2048), 74.79),
        (TrainJob(1, 2048, implementation="fused"), 60.62),
        (TrainJob(4, 2048, implementation="fused", checkpointing="non-reentrant"), 62.61),
        (TrainJob(4, 2048, implementation="fused", checkpointing="reentrant"), 62.67),
        (TrainJob(4, 2048, implementation="fused", checkpointing="reentrant", checkpoint_every=3), 91.69),
        (TrainJob(8, 2048, implementation="fused", checkpointing="non-reentrant"), 76.77),
        (TrainJob(8, 2048, implementation="fused", checkpointing="non-reentrant", fp32_outputs=True), 80.69),
        (TrainJob(1, 2048, implementation="fused", precision="amp-bf16"), 121.99),
        (TrainJob(1, 2048, implementation="fused", attention="eager"), 85.36),
    ],
    ids=[
        "foreach", "fused", "checkpointed", "reentrant", "every-third", "large-logits", "fp32-outputs", "autocast",
        "eager",
    ],
)  # fmt: skip
def test_peaks_of_llama_3_8b(job: TrainJob, gib: float) -> None:
    """Allocated peaks of a whole step of Llama-3-8B, as traced."""
    assert round(train_step(model_from_config(LLAMA_3_8B), job, on="trace").peak / GIB, 2) == gib


def test_a_step_gives_back_what_it_took() -> None:
    """After zero_grad only parameters, buffers and states are there; the first step makes the states."""
    model = model_from_config({**LLAMA_3_8B, "num_hidden_layers": 2})
    steady = train_step(model, TrainJob(1, 64))
    parameters, buffers, states = (steady.kept(why) for why in ("parameter", "buffer", "optimizer state"))
    assert steady.live[-1] == steady.resident == parameters + buffers + states
    first = train_step(model, TrainJob(1, 64, steady=False))
    assert first.kept("optimizer state") == states == 2 * parameters
    assert first.resident == parameters + buffers
    assert first.live[-1] == steady.live[-1]


def test_tied_autocast_gradients_are_added_in_place_in_a_real_run() -> None:
    """A trace adds the two gradients of a tied table out of place: one table too many."""
    raw = {
        **LLAMA_3_8B,
        "num_hidden_layers": 1,
        "hidden_size": 256,
        "tie_word_embeddings": True,
        "intermediate_size": 64,
    }
    job = TrainJob(1, 8, precision="amp-bf16", optimizer="none")
    model = model_from_config(raw)
    real, traced = train_step(model, job), train_step(model, job, on="trace")
    table = 4 * raw["vocab_size"] * raw["hidden_size"]
    incoming = 4 * 8 * raw["hidden_size"]  # the embedding's incoming gradient, gone by the time of the sum
    assert traced.peak - real.peak == table - incoming


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4), st.integers(1, 200), st.sampled_from(["none", "reentrant", "non-reentrant"]))
def test_more_never_takes_less(batch: int, seq_len: int, checkpointing: Any) -> None:
    """One more sequence or token never lowers the peak."""
    model = model_from_config({**LLAMA_3_8B, "num_hidden_layers": 2, "vocab_size": 1000, "intermediate_size": 300})
    peaks = [
        train_step(model, TrainJob(b, s, checkpointing=checkpointing)).peak
        for b, s in ((batch, seq_len), (batch + 1, seq_len), (batch, seq_len + 1))
    ]
    assert peaks[0] <= min(peaks[1:])


def test_every_byte_is_freed_and_the_collector_is_put_back() -> None:
    """Nothing of a played step stays alive, and playing does not leave the cycle collector off."""
    assert gc.isenabled()
    played = train_step(model_from_config({**LLAMA_3_8B, "num_hidden_layers": 1}), TrainJob(1, 8))
    assert sum(1 if event >= 0 else -1 for event in played.recorder.events) == 0
    assert gc.isenabled()


def test_every_allocation_has_a_name() -> None:
    """Each event's label says the operation, the shape, the dtype and the instant."""
    recorder = train_step(model_from_config({**LLAMA_3_8B, "num_hidden_layers": 1}), TrainJob(1, 8)).recorder
    labels = recorder.stream().labels
    assert len(labels) == len(recorder.allocations)
    assert all(label.op and label.dtype and label.instant for label in labels.values())


def test_a_family_without_a_program_is_refused() -> None:
    """With the way to go on."""
    with pytest.raises(UnsupportedError, match="play deepseek yet"):
        train_step(model_from_config({**DEEPSEEK_V3, "model_type": "deepseek", "num_hidden_layers": 4}), TrainJob())


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "mish"},
        {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}},
        {"architectures": ["LlamaForSequenceClassification"], "problem_type": "multi_label_classification"},
        {"architectures": ["LlamaModel"]},
    ],
    ids=["activation", "rope", "several labels", "bare"],
)
def test_what_a_config_asks_for_without_a_rule_is_refused(changes: dict[str, Any]) -> None:
    """Never something else in its place."""
    with pytest.raises(UnsupportedError, match="oomph cannot play"):
        train_step(model_from_config({**LLAMA_3_8B, "num_hidden_layers": 1, **changes}), TrainJob(1, 8))


def test_a_kept_step_of_another_model_refuses_as_well() -> None:
    """A model that is refused is not answered from the kept step of one that is alike in every size."""
    raw = {**LLAMA_3_8B, "num_hidden_layers": 1}
    assert step(model_from_config(raw), TrainJob(1, 8)).peak
    with pytest.raises(UnsupportedError, match="longrope"):
        step(model_from_config({**raw, "rope_scaling": {"rope_type": "longrope", "factor": 2.0}}), TrainJob(1, 8))


def test_jobs_refuse_what_no_job_could_have() -> None:
    """Values are checked, close matches suggested; every input is printed."""
    with pytest.raises(UsageError, match="flsh"):
        TrainJob(attention="flsh")  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        TrainJob(batch=0)
    with pytest.raises(UsageError, match="not both"):
        TrainJob(padding=True, packing=True)
    assert describe(TrainJob())["optimizer"] == "adamw"
