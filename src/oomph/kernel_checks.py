"""What no job can be beside kernels of packages: Unsloth's, axolotl's and flash-attn's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oomph.errors import UsageError
from oomph.job_words import FOUR_BIT, KERNEL_PARTS, PROMPTED, RANKED

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob


def check_parts(job: TrainJob) -> None:
    """Refuse parts of kernels that a library does not have."""
    known = KERNEL_PARTS.get(job.kernels, ())
    odd = [name for name in job.kernel_parts.split(",") if name not in known]
    if odd:
        fix = f"Choose from {','.join(known)}." if known else "They are of --kernels liger and axolotl."
        raise UsageError(f"The kernels {job.kernels} have no part {odd[0][:40]!r}.", fix)


def check_unsloth(job: TrainJob) -> None:
    """Refuse what Unsloth's operations leave to others or do otherwise."""
    if job.method not in RANKED:
        raise UsageError(
            "Unsloth's kernels are for adapters; whole models it trains with transformers' classes, compiled.",
            "Add --method lora, or --kernels torch: those classes, uncompiled.",
        )
    if job.precision not in ("bf16", "fp16") or job.kbit_preparation:
        raise UsageError(
            "Unsloth keeps all but adapters in 16 bit.", "Take precision bf16, without --kbit-preparation."
        )
    if job.quantization != "none" and not job.quantization.startswith(FOUR_BIT):
        raise UsageError(
            f"oomph plays Unsloth's kernels on weights in 16 bit or bitsandbytes' 4 bit, not on {job.quantization}.",
            "Take quantization nf4 or none, or other --kernels.",
        )
    if job.adapter_dropout or job.modules_to_save:
        what = "dropout on adapters or copies of modules"
        raise UsageError(f"oomph cannot play {what} with Unsloth's kernels yet.", "Leave them out.")


def check_axolotl(job: TrainJob) -> None:
    """Refuse what axolotl's operations do not take, or take in a way that is not played."""
    if job.method not in ("lora", "qlora") or job.kbit_preparation:
        fix = "Take --method lora or qlora, without --kbit-preparation, or --kernels torch."
        raise UsageError("axolotl's kernels are played for LoRA and QLoRA, on a base that PEFT did not prepare.", fix)
    if not job.quantization.startswith(("none", *FOUR_BIT)):
        raise UsageError("axolotl's kernels take bases in 16 bits or bitsandbytes' 4 bits.", "Say --kernels torch.")
    if job.precision.startswith("amp"):
        fix = f"Say --precision {job.precision.removeprefix('amp-')} --autocast, as axolotl loads weights."
        raise UsageError("axolotl's kernels add products in the dtype of their inputs, which autocast changes.", fix)


def check_flash_attn(job: TrainJob) -> None:
    """Refuse what the packages flash-attn refuse, and what is not played with them."""
    if job.precision == "fp32":
        fix = "Take precision bf16 or amp-bf16, or --attention efficient."
        raise UsageError("flash-attn computes in 16 bits alone: it refuses fp32.", fix)
    for wrong, what, fix in (
        (
            job.kbit_preparation and job.quantization == "none" and not job.autocast,
            "a base that kbit_preparation keeps in fp32",
            "Add --autocast, or leave --kbit-preparation out.",
        ),
        (job.method in PROMPTED and job.padding, f"{job.method} and a padding mask", "Say --attention flash."),
    ):
        if wrong:
            raise UsageError(f"oomph cannot play {job.attention} with {what} yet.", fix)


def check_flash_attn_served(job: InferJob) -> None:
    """Refuse what the packages flash-attn refuse, and what is not played with them."""
    if job.precision == "fp32":
        raise UsageError("flash-attn computes in 16 bits alone: it refuses fp32.", "Take precision bf16.")
    for wrong, what in (
        (job.padding, "a padding mask"),
        (job.cache not in ("none", "dynamic"), f"the cache {job.cache}"),
        (job.beams > 1 or job.candidates > 0, "beams or candidates"),
    ):
        if wrong:
            raise UsageError(f"oomph cannot play {job.attention} with {what} yet.", "Say --attention flash.")
