"""Rows of xMem's evaluation: four steps of fp32 training of a randomly initialised model, seen from NVML.

What its script does and what its figures mean was read in its source; a row says the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from oomph.job import TrainJob
from oomph.job_words import OptimizerName, ZeroGrad
from oomph.score.asking import Case, catalogued, device
from oomph.score.reading import MUST_NOT_FIT, Answer, Ask, Question, Schema, refuse, shown, whole, words

# torch.optim.Adam without weight decay runs the same functions as AdamW, foreach on a GPU. The script takes a name from
# torch.optim where it has it (exp/trainer/trainer.py, ModelPreparer), and torch has had an Adafactor, one parameter
# after another, since 2.5.
OPTIMIZERS: dict[str, OptimizerName] = {
    "AdamW": "adamw", "Adam": "adamw", "SGD": "sgd", "Adafactor": "adafactor-torch",
}  # fmt: skip
# zero_grad_mode: at the start of an iteration, after its forward pass, after its step; where it is not said, the first.
ZERO_GRAD: dict[object, ZeroGrad] = {
    None: "before-forward", 0: "before-forward", 1: "before-backward", 2: "after-step",
}  # fmt: skip
ASSUMED = (
    "PyTorch 2.6 and transformers 4.51, estimated by the rules of those oomph follows but for caches and heads",
    "a padding mask is passed; fp32, so memory-efficient attention, of T5 the eager one",
    "the outputs of a step live until the forward pass of the next one has ended",
)
TORCH_ADAFACTOR = "Adafactor is torch.optim's, where the script looks first"


def _group(row: Mapping[str, Any]) -> str:
    return "xMem"


def _question(row: Mapping[str, Any]) -> Question:
    job = job_of(row)
    found = catalogued(words(row, "model"))
    if found.model.objective == "seq2seq-lm":  # whose class had no other before transformers 5
        job = replace(job, attention="eager")
    case = Case(found, job, device(row.get("gpu"), _total_bytes(row)))
    asks: dict[str, Ask] = {
        "nvml_peak_gib": _refuse_nvml,
        "torch_reserved_peak_gib_est": lambda: case.figure("reserved"),
        MUST_NOT_FIT: case.must_not_fit,
    }
    unsaid = ("when gradients are zeroed is not said: taken as at the start",) * (row.get("zero_grad_mode") is None)
    chosen = (TORCH_ADAFACTOR,) * (job.optimizer == OPTIMIZERS["Adafactor"])
    return Question(asks, (*ASSUMED, *unsaid, *chosen))


def job_of(row: Mapping[str, Any]) -> TrainJob:
    """Return the job a row describes; raises UnsupportedError for what is no job of ours."""
    optimizer, zero_grad = words(row, "optimizer"), row.get("zero_grad_mode")
    if optimizer not in OPTIMIZERS:
        raise refuse(f"optimizer {shown(optimizer)}", "not modelled yet")
    if words(row, "dtype") != "float32" or row.get("grad_checkpointing") is not False:
        raise refuse("dtype or checkpointing", "only fp32 without checkpointing is known of this script")
    if isinstance(zero_grad, (bool, list, dict)) or zero_grad not in ZERO_GRAD:
        raise refuse(f"zero_grad_mode={shown(zero_grad)}", "0, 1 and 2 are known")
    return TrainJob(
        batch=whole(row, "batch_size"),
        seq_len=whole(row, "seq_len"),
        precision="fp32",
        attention="efficient",
        padding=True,
        use_cache=True,
        heads_of_4_51=True,
        keep_outputs=True,
        optimizer=OPTIMIZERS[optimizer],
        zero_grad=ZERO_GRAD[zero_grad],
    )


def _total_bytes(row: Mapping[str, Any]) -> int | None:
    value = row.get("gpu_total_bytes")
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 2**50 else None


def _refuse_nvml() -> Answer:
    raise refuse("nvml_peak_gib", "how much of the CUDA context is in it is not known; the reserved part is scored")


SCHEMA = Schema(
    "xMem",
    ("source", "task", "zero_grad_mode", "dup_group", "measured"),
    _group,
    _question,
    names=("nvml_peak_gib", "torch_reserved_peak_gib_est"),
    total_bytes=_total_bytes,
)
