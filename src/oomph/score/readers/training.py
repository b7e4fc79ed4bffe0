"""Published rows of training runs. What a row does not say is a documented default of its program, or a refusal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from oomph.job import Checkpointing, Implementation, Kernel, Precision, TrainJob
from oomph.score.asking import Case, catalogued, device
from oomph.score.reading import MUST_NOT_FIT, Ask, Question, Schema, notes, refuse, shown, whole, words

# Programs that run transformers' own model code under its Trainer, from the start of their names.
TRAINERS = ("HF Trainer", "ms-swift 2.x (HF Trainer)", "ms-swift 3.x/4.x transformers backend", "TRL SFTTrainer")
FULL = ("full", "full SFT")
LOSSES = ("eager", "eager (HF)", "eager HF")
IMPLEMENTATIONS: dict[str, Implementation] = {
    "AdamW (HF adamw_torch default)": "foreach",
    "AdamW (HF adamw_torch)": "foreach",
    "AdamW (adamw_torch)": "foreach",
    "adamw_torch": "foreach",
    "adamw_torch_fused": "fused",
}
KERNELS: dict[str, Kernel] = {
    "flash_attention_2": "flash",
    "flash_attn": "flash",
    "flash_attn 2": "flash",
    "flash attention": "flash",
    "flash": "flash",
    "eager": "eager",
}
CHECKPOINTING: dict[str, Checkpointing] = {
    "none": "none",
    "full": "reentrant",
    "full (HF)": "reentrant",
    "full (HF gradient_checkpointing=True)": "reentrant",
    "full (HF, use_reentrant=False)": "non-reentrant",
}
LENGTHS = ("Lengths depend on dataset", "token count per batch unknown", "batch lengths unknown")
NOT_STATED = "not stated"
SAME_DTYPE = (None, "same as trainable param dtype")
MICRO_BATCHES = 2  # the first, and one more with gradients of the first beside it; all later ones repeat that
_VERSION = re.compile(r"transformers (\d+)\.")


def _group(row: Mapping[str, Any]) -> str:
    return shown(row.get("framework"))


def _question(row: Mapping[str, Any]) -> Question:
    job, assumed = job_of(row)
    return Question(_asks(row, Case(catalogued(words(row, "model")), job, device(row.get("gpu")))), assumed)


def job_of(row: Mapping[str, Any]) -> tuple[TrainJob, tuple[str, ...]]:
    """Return the job a row describes and what had to be assumed; raises UnsupportedError for what is no job of ours."""
    _refuse_kind(row)
    precision, autocast = _precision(row)
    checkpointing: Checkpointing = _one_of(row, "checkpointing", CHECKPOINTING)
    batch, packed, micro_batches = whole(row, "micro_batch"), row.get("packing"), whole(row, "grad_accum")
    if not isinstance(packed, (bool, str)):
        raise refuse("packing", "not said, so whether there is a mask")
    job = TrainJob(
        batch=batch,
        seq_len=whole(row, "seq_len"),
        precision=precision,
        attention=_one_of(row, "attention_impl", KERNELS),
        padding=packed is False and batch > 1,
        checkpointing=checkpointing,
        use_cache=checkpointing == "none",
        hold_logits=False,
        fp32_outputs=autocast,
        accumulation=min(micro_batches, MICRO_BATCHES),
        clip_gradients=True,
        implementation=_optimizer(row, precision),
    )
    assumed = {
        f"{words(row, 'framework_version')}, estimated by the rules of the versions oomph follows": True,
        "the Trainer clips gradients and drops the logits before backward, its defaults": True,
        "reentrant checkpointing: the default of transformers 4": checkpointing == "reentrant",
        "autocast over 16-bit weights casts nothing; accelerate copies logits to fp32": autocast,
        f"{micro_batches} micro-batches take what {MICRO_BATCHES} take": micro_batches > MICRO_BATCHES,
    }
    return job, tuple(text for text, so in assumed.items() if so)


def _asks(row: Mapping[str, Any], case: Case) -> dict[str, Ask]:
    if NOT_STATED in words(row, "metric"):
        raise refuse("metric", "which memory was measured is not stated")
    return {
        "peak_allocated_gib": lambda: case.figure("allocated"),
        "peak_reserved_gib": lambda: case.figure("reserved"),
        "nvidia_smi_gib": lambda: case.figure("device"),
        "resident_alloc_gib": case.resident,
        MUST_NOT_FIT: case.must_not_fit,
    }


def _refuse_kind(row: Mapping[str, Any]) -> None:
    """Refuse what no job of ours is, the most telling reason first."""
    method, gpus = words(row, "method"), row.get("n_gpus")
    if method not in FULL:
        raise refuse(f"method {shown(method)}", "not modelled yet")
    if gpus != 1 or isinstance(gpus, bool):
        raise refuse(f"n_gpus={shown(gpus)}", "one GPU only")
    framework = words(row, "framework")
    if not framework.startswith(TRAINERS) or "DeepSpeed" in framework or "FSDP" in framework:
        raise refuse(f"framework {shown(framework)}", "its model code or its engine is not modelled yet")
    loss = words(row, "loss_impl")
    if loss not in LOSSES:
        raise refuse(f"loss {shown(loss)}", "not modelled yet")
    if row.get("compile") not in (None, False):
        raise refuse("compile", "compiled code is not modelled")
    if row.get("cpu_offload") not in (None, False):
        raise refuse("cpu_offload", "not modelled yet")
    if row.get("unit_ambiguous") is not False and row.get("status") != "oom":
        raise refuse("unit", "whether its GB are GiB is not known")
    spread = row.get("parallel")
    for name, value in spread.items() if isinstance(spread, Mapping) else ():
        if value not in (None, 1, "none"):
            raise refuse(f"parallel {shown(name)}={shown(value)}", "not modelled yet")
    for text in LENGTHS:
        if text in notes(row):
            raise refuse("seq_len", "a limit; the lengths of the real batches are not recorded")


def _precision(row: Mapping[str, Any]) -> tuple[Precision, bool]:
    """Return the precision, and whether accelerate wraps 16-bit weights in autocast."""
    mode, dtype = words(row, "precision_mode"), words(row, "weight_dtype")
    if mode.startswith("pure bf16") and dtype in ("bf16", "bfloat16"):
        return "bf16", False
    if mode.startswith("pure fp16") and dtype == "fp16":
        return "fp16", False
    if mode.startswith("fp32") and dtype == "fp32":
        return "fp32", False
    if mode.startswith("amp bf16") and dtype in ("bf16", "bfloat16"):
        return "bf16", True
    if mode.startswith("amp ") and dtype == "fp32":
        return ("amp-fp16" if "fp16" in mode else "amp-bf16"), True
    raise refuse(f"precision {shown(mode)} over {shown(dtype)}", "not modelled yet")


def _optimizer(row: Mapping[str, Any], precision: str) -> Implementation:
    states = row.get("optimizer_dtype")
    if (
        states not in SAME_DTYPE
        and states != precision.removeprefix("amp-")
        and not (precision.startswith("amp-") and states == "fp32")
    ):
        raise refuse(f"optimizer_dtype {shown(states)}", f"weights are {precision}, and torch keeps states like them")
    implementation = IMPLEMENTATIONS.get(words(row, "optimizer"))
    if implementation is None:
        raise refuse(f"optimizer {shown(row['optimizer'])}", "not modelled yet")
    return implementation


def _one_of(row: Mapping[str, Any], key: str, known: Mapping[str, Any]) -> Any:
    value = words(row, key)
    if value not in known:
        raise refuse(f"{key} {shown(value)}", "not modelled yet")
    if known[value] == "reentrant" and not _is_transformers_4(row):
        raise refuse("framework_version", "which checkpointing is its default is not known")
    return known[value]


def _is_transformers_4(row: Mapping[str, Any]) -> bool:
    found = _VERSION.search(words(row, "framework_version"))
    return found is not None and found[1] == "4"


SCHEMA = Schema("training", ("framework", "method", "measured"), _group, _question)
