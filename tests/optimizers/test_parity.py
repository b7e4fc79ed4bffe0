"""The tape's optimizer steps equal the real ones' under a trace, event by event: states, temporaries, their order."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.job import TrainJob
from oomph.optimizer_names import KINDS
from tests.optimizers import golden
from tests.optimizers.golden import GPT2, LLAMA, TIED
from tests.tape.grid import compare, played

pytestmark = pytest.mark.slow

# Adapters in fp32 beside a copy of the head in bf16.
TWO_DTYPES: dict[str, Any] = {"method": "lora", "modules_to_save": "lm_head"}
JOBS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (LLAMA, {"optimizer": "adamw_torch_fused", "steady": False}),
    (GPT2, {"optimizer": "adamw-amsgrad", "implementation": "loop"}),
    (LLAMA, {"optimizer": "adamw-amsgrad", "steady": False}),
    (GPT2, {"optimizer": "rmsprop", "steady": False}),
    (LLAMA, {"optimizer": "rmsprop", "implementation": "loop"}),
    (GPT2, {"optimizer": "adagrad", "steady": False}),
    (LLAMA, {"optimizer": "adagrad", "implementation": "loop", "precision": "fp32"}),
    (LLAMA, {**TWO_DTYPES, "optimizer": "adamw", "clip_gradients": True}),
    (LLAMA, {**TWO_DTYPES, "optimizer": "rmsprop"}),
    (LLAMA, {**TWO_DTYPES, "optimizer": "adagrad", "steady": False}),
    (GPT2, {"optimizer": "nadam", "implementation": "loop"}),
    (LLAMA, {"optimizer": "radam", "implementation": "loop"}),
    (LLAMA, {**TWO_DTYPES, "optimizer": "adamax", "steady": False}),
    (GPT2, {"optimizer": "adamax", "implementation": "loop"}),
    (LLAMA, {**TWO_DTYPES, "optimizer": "adadelta"}),
    (GPT2, {"optimizer": "adadelta", "implementation": "loop", "steady": False}),
    (LLAMA, {"optimizer": "adafactor-torch"}),
    (GPT2, {"optimizer": "adafactor-torch", "precision": "amp-bf16", "steady": False}),
    (LLAMA, {**TWO_DTYPES, "optimizer": "adafactor-torch-foreach"}),
    (LLAMA, {"optimizer": "adafactor"}),
    (GPT2, {"optimizer": "adafactor", "steady": False}),
    (TIED, {"optimizer": "adafactor", "precision": "amp-bf16", "steady": False}),
    (LLAMA, {"optimizer": "adamw_torch_8bit", "steady": False}),
    (GPT2, {"optimizer": "adamw_torch_4bit", "steady": False}),
    (TIED, {"optimizer": "torchao-adamw-fp8", "precision": "amp-bf16", "steady": False}),
    (LLAMA, {"optimizer": "adamw_bnb_8bit"}),
    (GPT2, {"optimizer": "adamw_8bit", "steady": False}),
    (TIED, {"optimizer": "adamw_8bit", "embedding_32bit": False, "steady": False}),
    (LLAMA, {"optimizer": "adamw_bnb_32bit", "steady": False}),
    (LLAMA, {"optimizer": "paged_adamw_8bit", "steady": False}),
    (GPT2, {"optimizer": "paged_adamw_32bit"}),
    (LLAMA, {"optimizer": "lion_8bit", "steady": False}),
    (GPT2, {"optimizer": "paged_lion_32bit", "steady": False}),
    (LLAMA, {"optimizer": "rmsprop_bnb_8bit", "precision": "fp16"}),
    (LLAMA, {"optimizer": "ademamix_8bit", "steady": False}),
    (GPT2, {"optimizer": "paged_ademamix_32bit", "steady": False}),
    (LLAMA, {"optimizer": "adagrad_bnb_8bit", "precision": "fp16", "steady": False}),
    (GPT2, {"optimizer": "sgd_bnb_32bit", "precision": "fp32"}),
    (LLAMA, {"optimizer": "galore_adamw", "optim_rank": 8}),
    (LLAMA, {"optimizer": "galore_adamw", "optim_rank": 300, "precision": "fp32", "steady": False}),
    (TIED, {"optimizer": "galore_adamw", "optim_rank": 8, "precision": "amp-bf16", "update_projection": True}),
    (LLAMA, {"optimizer": "galore_adamw_layerwise", "optim_rank": 8, "steady": False}),
    (LLAMA, {"optimizer": "schedule_free_adamw", "steady": False}),
    (GPT2, {"optimizer": "schedule_free_adamw", "implementation": "loop"}),
    (LLAMA, {"optimizer": "schedule_free_radam"}),
    (TIED, {"optimizer": "schedule_free_sgd", "precision": "amp-bf16", "steady": False}),
    (LLAMA, {"optimizer": "stable_adamw", "steady": False}),
    (GPT2, {"optimizer": "stable_adamw", "precision": "fp32", "steady": False}),
    (GPT2, {"optimizer": "optimi-adamw", "steady": False}),
    (LLAMA, {"optimizer": "lamb", "precision": "fp16", "steady": False}),
    (GPT2, {"optimizer": "lars", "precision": "amp-bf16"}),
    (LLAMA, {"optimizer": "galore_adafactor", "optim_rank": 300, "steady": False}),
    (TIED, {"optimizer": "galore_adafactor", "optim_rank": 8, "update_projection": True}),
    (LLAMA, {"optimizer": "galore_adamw_8bit", "optim_rank": 30, "steady": False}),
    (TIED, {"optimizer": "galore_adamw_8bit", "optim_rank": 300, "precision": "amp-bf16", "update_projection": True}),
    (LLAMA, {"optimizer": "galore_adamw_8bit_layerwise", "optim_rank": 30, "steady": False}),
    (LLAMA, {"optimizer": "galore_adamw_8bit_layerwise", "optim_rank": 30, "keep_outputs": True}),
    (LLAMA, {"optimizer": "galore_adamw_8bit", "optim_rank": 30, "zero_grad": "before-forward"}),
    (LLAMA, {"optimizer": "torchao-cpu-offload", "steady": False}),
    (LLAMA, {"optimizer": "muon", "precision": "fp32", "steady": False}),
    (GPT2, {"optimizer": "muon"}),
    (LLAMA, {"optimizer": "adamw", "optimizer_in_backward": True}),
    (GPT2, {"optimizer": "adamw", "optimizer_in_backward": True, "implementation": "loop", "steady": False}),
    (TIED, {"optimizer": "adamw_8bit", "optimizer_in_backward": True, "checkpointing": "reentrant", "steady": False}),
    (GPT2, {"optimizer": "adafactor", "optimizer_in_backward": True, "checkpointing": "non-reentrant"}),
    (LLAMA, {"optimizer": "sgd", "optimizer_in_backward": True, "precision": "amp-bf16"}),
    (LLAMA, {"optimizer": "sgd-momentum", "optimizer_in_backward": True, "steady": False}),
    # Where their packages are installed; files of an older torch are read by the script that records them.
    *(job for job in golden.JOBS if "denominators_apart" not in job[1]),
]


@pytest.mark.parametrize(
    ("raw", "inputs"), JOBS, ids=[f"{raw['model_type']}-{'-'.join(map(str, job.values()))}" for raw, job in JOBS]
)
def test_every_event_of_the_step_equals_the_trace(raw: dict[str, Any], inputs: dict[str, Any]) -> None:
    """First steps make states, later ones find them: same allocations, frees, order, peak and bytes of states."""
    from oomph.referee.optimizers import package_of

    job = TrainJob(1, 8, **inputs)
    pytest.importorskip(package_of(KINDS[job.optimizer])[0])
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize(
    "optimizer", ["adamw_bnb_8bit", "adamw_bnb_32bit", "lion_8bit", "ademamix_8bit", "adafactor", "muon"]
)
def test_states_are_as_large_as_on_a_real_cpu(optimizer: Any) -> None:
    """The libraries themselves, with nothing patched, on tensors that have memory: bytes of all states."""
    from oomph.referee.trace import trace

    job = TrainJob(1, 8, "fp32", "eager", optimizer=optimizer)
    tape, _ = played(LLAMA, job)
    assert tape.kept("optimizer state") == trace(LLAMA, job, device="cpu", real=True).optimizer_bytes
