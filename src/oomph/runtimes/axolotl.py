"""axolotl: the Trainer under autocast over weights in bf16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from oomph.job_words import FLASH_ATTN
from oomph.runtimes import trainer, trl
from oomph.runtimes.base import Default, Defaults, Runtime, Versions
from oomph.runtimes.base_keys import TYPES

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model


def defaults(versions: Versions) -> Defaults:
    """Return the defaults of a config that says no more than it must."""
    return {
        **trainer.defaults(versions),
        "precision": Default("bf16", "weights are loaded in bf16"),
        "autocast": Default(True, "bf16: auto is on, so all runs under autocast"),
        "fp32_outputs": Default(True, "accelerate returns fp32 logits under mixed precision"),
        "seq_len": Default(512, "sequence_len is 512"),
    }


def of_job(given: Mapping[str, Any]) -> Defaults:
    """Return its LoRA kernels, where check_auto_enable_lora_kernels switches them on, and what full training keeps."""
    if (
        given.get("method") in ("lora", "qlora")
        and given.get("objective", "sft") == "sft"
        and given.get("quantization", "none").startswith(("none", *TYPES))
        and not given.get("kbit_preparation")
    ):
        return {"kernels": Default("axolotl", "lora_mlp_kernel, lora_qkv_kernel, lora_o_kernel are on by default")}
    if _in_fp32(given):
        told = "without flash-attn or cut cross entropy norms, embedding and head of a model that trains stay fp32"
        return {"wide_tables": Default(True, told)}
    if given.get("method") == "dora":
        return {"kernels": Default("torch", "its LoRA kernels, which are on by default, are not modelled with DoRA")}
    return {}


def _in_fp32(given: Mapping[str, Any]) -> bool:
    """Tell whether what is made fp32 before training stays so: loaders/model.py, _configure_embedding_dtypes."""
    return (
        given.get("method", "full") == "full"
        and given.get("objective", "sft") == "sft"
        and given.get("attention") not in FLASH_ATTN
        and given.get("loss") != "cut"
        and given.get("precision", "bf16") in ("bf16", "fp16")
        and given.get("autocast", True)
        and given.get("qat", "none") == "none"
        and not given.get("zero_stage")
    )


def of_model(model: Model, job: TrainJob) -> Defaults:
    """Return transformers' code where axolotl stops with its LoRA kernels, and 16 bits where nothing else is played."""
    from oomph.kernels.axolotl import stops
    from oomph.methods.wide_tables import PLAYED

    if job.wide_tables and model.model_type not in PLAYED:
        told = (
            f"axolotl keeps norms, embedding and head of {model.model_type} in fp32 here, which is not played: 16 bits"
        )
        return {"wide_tables": Default(False, f"{told} take less")}
    why = stops(model, job.autocast) if job.kernels == "axolotl" else ""
    told = f"{why} Its config must say lora_mlp_kernel, lora_qkv_kernel and lora_o_kernel: false, as is played"
    return {"kernels": Default("liger" if job.kernel_parts else "torch", told)} if why else {}


def quantised(versions: Versions) -> Defaults:
    """Return what it makes of PEFT's preparation: loaders/model.py, _configure_embedding_dtypes."""
    return {"kbit_preparation": Default(False, "what the preparation makes fp32 is cast back before the first step")}


def packed(versions: Versions, attention: str) -> Defaults:
    """Return how a packed batch comes: as one row for flash-attn, else as so many rows."""
    if attention not in FLASH_ATTN:
        return {}
    return {"padding_free": Default(True, "sample_packing makes one row of micro_batch_size times sequence_len")}


RUNTIME = Runtime(
    "axolotl",
    "axolotl",
    "axolotl 0.19, utils/schemas/config.py, core/trainers/base.py",
    defaults,
    quantised=quantised,
    packed=packed,
    of_job=of_job,
    mixers=Default("fla", "flash-linear-attention is among its requirements, causal-conv1d is not"),
    of_model=of_model,
    of_objective=trl.of_objective,
)
