"""What other tools get wrong about activations and training states, each as a test with the right answer.

Letters and numbers are those of the collected list, sections C and D. Peaks are of the tape, which an H100 bears out
(tests/test_recordings.py). What is about several GPUs (A5 to A8, S3, S7 to S9) waits for jobs on several of them, A11
for vLLM's own programs.
"""

from __future__ import annotations

from functools import cache

import pytest

from oomph import rules
from oomph.explain import saved_tensors
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.model import Model
from oomph.steps import Step, step
from oomph.units import GIB
from tests.configs import LLAMA_3_8B, LLAMA_3_70B

TOKENS, HIDDEN, VOCAB, HEADS = 2048, 4096, 128256, 32
PARAMS = 8_030_261_248


@cache
def llama() -> Model:
    """Llama-3-8B."""
    return model_from_config(LLAMA_3_8B)


def played(**job: object) -> Step:
    """One sequence of 2048 tokens, forward and backward, no optimizer unless named."""
    return step(llama(), TrainJob(1, TOKENS, **{"optimizer": "none", **job}))  # type: ignore[arg-type]


def beside_weights(found: Step, name: str = "loss backward") -> float:
    """GiB at the peak of a stretch beside what stays."""
    return (max(int(one.peak) for one in found.stretches if one.name == name) - int(found.resident)) / GIB


def test_a1_a12_activations_of_an_unfused_layer() -> None:
    """34sbh is 8.5 GiB for all layers; transformers keeps 49 bytes per token and channel, and at the loss 15.7 GiB
    stand beside the weights, logits and their fp32 copies among them."""
    layer = saved_tensors(llama(), TrainJob(1, TOKENS)).layers_bytes / 32
    assert layer == 411_321_344 == pytest.approx(49.03 * TOKENS * HIDDEN, rel=1e-3)
    assert beside_weights(played()) == pytest.approx(15.75, abs=0.01)
    shape = rules.shape_of(llama(), TOKENS, 1)
    assert 34 * TOKENS * HIDDEN * 32 == 8.5 * GIB
    assert rules.training_activations(shape) / GIB == pytest.approx(28.5)  # with the scores flash never writes


def test_a2_eager_attention_keeps_six_bytes_a_score() -> None:
    """28.5 by 34 + 5as/h; softmax in fp32 and its cast are six bytes a score and head, in all 40 GiB."""
    eager, flash = (
        saved_tensors(llama(), TrainJob(1, TOKENS, attention=kernel)).layers_bytes // 32  # type: ignore[arg-type]
        for kernel in ("eager", "flash")
    )
    scores = 6 * HEADS * TOKENS**2
    assert eager == 1_241_530_368
    assert scores < eager - flash < 1.05 * scores
    assert beside_weights(played(attention="eager")) == pytest.approx(40.0, abs=0.6)


def test_a3_the_vocabulary_counts() -> None:
    """A formula without V says 2.5 GiB: the loss alone takes close to 14 bytes a logit while its gradient is made."""
    few = model_from_config({**LLAMA_3_8B, "vocab_size": 1024})
    loss = beside_weights(played()) - beside_weights(step(few, TrainJob(1, TOKENS, optimizer="none")))
    assert 13.5 < loss * GIB / (TOKENS * (VOCAB - 1024)) <= 14


def test_a4_checkpointing_keeps_two_bytes_a_token_channel_and_layer() -> None:
    """Llama-3-70B: 2.5 GiB, not 42.5, for what only the inputs of layers take; then one layer and the logits."""
    model = model_from_config(LLAMA_3_70B)
    kept = saved_tensors(model, TrainJob(1, TOKENS, checkpointing="non-reentrant")).layers_bytes
    assert kept == 80 * 2 * TOKENS * 8192 == 2.5 * GIB


def test_a10_scores_are_per_query_head() -> None:
    """Grouped queries shrink keys and values, never the scores: 4 bytes and 2 of each of 32 heads, in one layer at a
    time."""
    job = InferJob(1, TOKENS, cache="none", attention="eager")
    grouped = step(llama(), job)
    all_heads = step(model_from_config({**LLAMA_3_8B, "num_key_value_heads": HEADS}), job)
    assert int(grouped.peak) - int(grouped.resident) >= 6 * HEADS * TOKENS**2
    assert int(all_heads.peak - all_heads.resident) <= int(grouped.peak - grouped.resident) * 1.05


def test_s1_states_are_summed_not_maximised() -> None:
    """accelerate prints the largest of model, gradients, states and step; all of them live at once: fp32 AdamW keeps 16
    bytes a parameter and its foreach step takes 4 more, 149.6 GiB where accelerate says 119.7 for fp32 and 55.9 for
    fp16."""
    whole = played(optimizer="adamw", precision="fp32", attention="efficient")
    at_step = max(int(one.peak) for one in whole.stretches if one.name == "optimizer step")
    assert at_step == pytest.approx(20 * PARAMS, rel=1e-3)


@pytest.mark.parametrize(
    ("precision", "implementation", "each"), [("bf16", "fused", 8), ("bf16", "foreach", 10), ("amp-bf16", "fused", 16)]
)
def test_s2_bytes_a_parameter_depend_on_the_convention(precision: str, implementation: str, each: int) -> None:
    """Pure bf16 is 8 bytes a parameter, 10 with foreach's temporary; fp32 weights under autocast are 16."""
    whole = played(optimizer="adamw", precision=precision, implementation=implementation)
    at_step = max(int(one.peak) for one in whole.stretches if one.name == "optimizer step")
    assert at_step == pytest.approx(each * PARAMS, rel=2e-3)


def test_s6_an_mlp_is_most_of_a_layer() -> None:
    """4h² a layer has no MLP in it: its three matrices are 81 % of a layer of Llama-3-8B."""
    kinds = llama().by_kind
    assert kinds["mlp"] / (kinds["mlp"] + kinds["attention"]) == pytest.approx(0.81, abs=0.01)


def test_s10_checkpointing_changes_the_total() -> None:
    """A total that is a largest-of ignores activations; without an optimizer checkpointing saves 10 of 33 GiB."""
    without, with_it = (played(checkpointing=how) for how in ("none", "non-reentrant"))
    assert (int(without.peak) - int(with_it.peak)) / GIB > 0.2
    assert int(without.forward_end) - int(with_it.forward_end) == pytest.approx(
        32 * (411_321_344 - 2 * TOKENS * HIDDEN), rel=1e-5
    )
