"""Which parameters train, and how the others are stored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from oomph.job import TrainJob
from oomph.job_words import RANKED
from oomph.methods.targets import ALL_LINEAR, DEFAULT, LORA_TARGETS, attention_maps, has_stacks
from oomph.model import Model
from oomph.planning.lever import Lever, Price, halving, replaced, setting
from oomph.runtimes.base import Versions
from oomph.runtimes.peft import prepared

LEAST_RANK = 4  # the smallest that the LoRA paper finds enough on its tasks

QUERY_AND_VALUE = "q_proj,v_proj"  # what the LoRA paper adapts, and PEFT by default where it knows a model


def _lora(job: TrainJob, model: Model) -> Iterable[TrainJob]:
    if job.method == "full":
        known = job.targets != DEFAULT or model.model_type in LORA_TARGETS
        yield from _where_allowed(job, method="lora", targets=job.targets if known else QUERY_AND_VALUE)


def _packed_experts(job: TrainJob, model: Model) -> Iterable[TrainJob]:
    """Only attention gets adapters: PEFT 0.21 finds no parameters in experts that are packed."""
    stacked = has_stacks(model) and job.experts != "modules"
    if job.method in ("full", *RANKED) and not job.quantised_experts and stacked:
        named = job.targets not in (DEFAULT, ALL_LINEAR, QUERY_AND_VALUE)  # the last is what plain LoRA would choose
        targets = job.targets if named else attention_maps(model)
        yield from _where_allowed(job, method="qlora", targets=targets, quantised_experts=True, **_beside(job))


def _qlora(job: TrainJob, model: Model) -> Iterable[TrainJob]:
    if job.method in ("full", "lora", "lora-fa"):
        yield from _where_allowed(job, method="qlora", **_beside(job))


def _where_allowed(job: TrainJob, **values: Any) -> Iterable[TrainJob]:
    """Yield the changed job unless what it asks for does not go together: PPO knows no quantised base."""
    changed = replaced(job, values)
    if changed is not None:
        yield changed


def _beside(job: TrainJob) -> dict[str, Any]:
    """Return what PEFT's guides do beside a quantised base, where the job does not say otherwise."""
    taken = {name: default.value for name, default in prepared(Versions(), job.precision).items()}
    return taken if job.checkpointing == "none" else {**taken, "checkpointing": job.checkpointing}


_half_the_rank = halving("rank", LEAST_RANK)

LEVERS = (
    Lever(
        "adapters in the dtype of the weights",
        Price.ROUNDING,
        "Faster: inputs are not cast to fp32 and back; small updates of a bf16 adapter may be rounded away.",
        "https://huggingface.co/docs/peft/developer_guides/troubleshooting",
        setting(lambda job: job.method in RANKED, adapter_dtype="base"),
    ),
    Lever(
        "norms, embeddings and head in 16 bits",
        Price.ROUNDING,
        "Faster; what is not quantised stays in 16 bits, not fp32 as PEFT prepares it for steadier training.",
        "https://huggingface.co/docs/peft/developer_guides/quantization",
        setting(lambda job: job.kbit_preparation, method="lora", kbit_preparation=False),
    ),
    Lever(
        "LoRA",
        Price.TRAINING,
        "Faster steps; only small adapters train, which learn less of what is new, and forget less of what was known.",
        "https://arxiv.org/abs/2405.09673",
        _lora,
    ),
    Lever(
        "LoRA-FA",
        Price.TRAINING,
        "Faster; A stays as it was drawn and only B trains, in its paper as good as LoRA; inputs need not be kept.",
        "https://arxiv.org/abs/2308.03303",
        setting(lambda job: job.method == "lora", method="lora-fa"),
    ),
    Lever(
        "QLoRA",
        Price.TRAINING,
        "Slower than LoRA, as each weight is unpacked at each use; in its paper as good as LoRA on 16-bit weights.",
        "https://arxiv.org/abs/2305.14314",
        _qlora,
    ),
    Lever(
        "QLoRA with 4-bit experts",
        Price.TRAINING,
        "Slower: a layer's experts are unpacked together at each use (bitsandbytes' replace_parameter_4bit, axolotl's "
        "quantize_moe_experts); adapters stand beside attention only.",
        "https://docs.axolotl.ai/docs/expert_quantization.html",
        _packed_experts,
    ),
    Lever(
        "lower rank",
        Price.TRAINING,
        "A little faster; adapters of a lower rank can learn less.",
        "https://arxiv.org/abs/2106.09685",
        lambda job, model: _half_the_rank(job, model) if job.method in RANKED else (),
    ),
)
