"""Published rows of Unsloth: its notebooks, which print reserved memory before and after training, and its table of the
longest sequences that fit a card. What a row does not say is Unsloth's default, from oomph.runtimes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from oomph.answer import Subject
from oomph.job import TrainJob
from oomph.job_words import Checkpointing, Kernel, Loss
from oomph.kernels.unsloth import PATCHES
from oomph.runtimes import runtime
from oomph.score.asking import Case, catalogued, device
from oomph.score.readers.training_words import versions_of
from oomph.score.reading import Answer, Ask, Question, notes, one_of, refuse, shown, whole, words

NAMES = ("Unsloth", "Unsloth notebook (TRL SFTTrainer)")
METHODS = ("lora", "qlora")
ATTENTION: dict[str, Kernel] = {"flash-attn 2": "flash", "xformers/SDPA/FA2": "efficient"}
CHECKPOINTING: dict[str, Checkpointing] = {"unsloth offloaded": "unsloth", "False": "none"}
LOSSES: dict[str, Loss] = {"cut cross entropy (unsloth)": "cut", "unsloth fused/CCE": "unsloth"}
OPTIMIZERS = ("adamw_8bit", "paged_adamw_8bit")
WITHOUT_BF16 = "T4"  # a GPU older than compute capability 8.0: Unsloth takes fp16
ALL_LENGTHS = "padded to length"
OWNERS, COPIES = "unsloth/", ("-unsloth-bnb-4bit", "-bnb-4bit")
MODELS = {  # of the same shape in the catalogue
    "tinyllama": "tinyllama-1.1b-chat-v1.0", "Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "mistral-7b-v0.3": "mistral-7b-instruct-v0.3", "Mistral-Nemo-Base-2407": "mistral-nemo-instruct-2407",
    "Qwen2.5-Coder-14B-Instruct": "qwen2.5-14b", "Qwen3-14B-Base": "qwen3-14b",
}  # fmt: skip
_CAP = re.compile(r"\bmax_seq_length cap (\d{1,7})\b", re.ASCII)
PLACEHOLDER = 2048  # tokens of a job whose weights alone are asked for


def is_unsloth(row: Mapping[str, Any]) -> bool:
    """Tell whether a row is of a program that this file reads."""
    return row.get("framework") in NAMES


def question(row: Mapping[str, Any]) -> Question:
    """Return what a row asks: of most notebooks only what was there before training, as no lengths were recorded."""
    subject = _subject(words(row, "model"))
    case = Case(subject, _job(row, subject, PLACEHOLDER), device(row.get("gpu")))
    asks: dict[str, Ask] = {"reserved_before_train_gib": case.weights}
    assumed = {
        "nf4 for all maps: Unsloth's dynamic copies leave some in 16 bit": "dynamic" in words(row, "weight_dtype"),
        "its release is not told: the loss is that of 2026": words(row, "loss_impl") == "unsloth fused/CCE",
        "attention by xformers, which comes with Unsloth": "xformers" in words(row, "attention_impl"),
        "a length that its authors read off a line, at which a card is about full": "fits" in words(row, "metric"),
    }
    said = tuple(text for text, so in assumed.items() if so)

    def reserved() -> Answer:
        return Case(subject, _job(row, subject, _length(row)), device(row.get("gpu"))).figure("reserved")

    return Question({**asks, "peak_reserved_gib": reserved, "fits_in_vram_gb": reserved}, said)


def _subject(name: str) -> Subject:
    """Return the model of a name; a copy by Unsloth has the shape of what it copies."""
    plain = name.removeprefix(OWNERS)
    for ending in COPIES:
        plain = plain.removesuffix(ending)
    return catalogued(MODELS.get(plain, plain))


def _length(row: Mapping[str, Any]) -> int:
    """Return how long batches are; a limit tells it only where they are packed."""
    if row.get("seq_len") is not None:
        return whole(row, "seq_len")
    cap = _CAP.search(notes(row))
    if cap is None or row.get("packing") is not True:
        raise refuse("seq_len", "a limit; the lengths of the real batches are not recorded")
    return int(cap[1])


def _job(row: Mapping[str, Any], subject: Subject, length: int) -> TrainJob:
    method, lora = words(row, "method"), row.get("lora")
    if row.get("n_gpus") != 1 or isinstance(row.get("n_gpus"), bool):
        raise refuse(f"n_gpus={shown(row.get('n_gpus'))}", "one GPU only")
    if row.get("cpu_offload") not in (None, False):
        raise refuse("cpu_offload", "not modelled yet")
    if method not in METHODS or not isinstance(lora, Mapping):
        raise refuse(f"method {shown(method)}", "trained on classes that Unsloth compiles, not modelled yet")
    if method == "qlora" and any(weight.kind == "moe_experts" for weight in subject.model.weights):
        raise refuse("experts", "which of them Unsloth quantises is not modelled yet")
    own = subject.model.model_type in PATCHES
    given: dict[str, Any] = {
        "method": method,
        "rank": whole(lora, "rank"),
        "batch": whole(row, "micro_batch"),
        "seq_len": length,
        "accumulation": row.get("grad_accum") and whole(row, "grad_accum"),
        "precision": "fp16" if WITHOUT_BF16 in str(row.get("gpu")) else "bf16",
        "attention": one_of(row, "attention_impl", ATTENTION) if own else "flash",
        "checkpointing": one_of(row, "checkpointing", CHECKPOINTING) if row.get("checkpointing") else None,
        "loss": one_of(row, "loss_impl", LOSSES),
        "optimizer": one_of(row, "optimizer", dict(zip(OPTIMIZERS, OPTIMIZERS, strict=True))),
        "kernels": "unsloth" if own else "torch",
    }
    versions = versions_of(words(row, "framework_version"), "")
    return runtime("unsloth").job(versions, **{name: value for name, value in given.items() if value is not None})
