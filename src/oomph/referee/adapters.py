"""The real PEFT around the real model: what a job's method does to it, on fake tensors as on a GPU."""

from __future__ import annotations

from typing import Any

import torch

from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.methods.targets import ALL_LINEAR, DEFAULT, split
from oomph.referee.meta import INSTALL

COMPUTE = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def adapt(model: Any, job: TrainJob, device: str) -> Any:
    """Return a model as PEFT wraps it for a job: its base quantised, prepared, with adapters."""
    try:
        import peft
    except ImportError:
        raise UnsupportedError("This method needs peft.", f"Do: {INSTALL}") from None
    if job.quantization != "none":
        from oomph.referee.quantised import quantise

        compute = getattr(torch, COMPUTE[job.precision.removeprefix("amp-")])
        model = quantise(model, job, compute if job.kbit_preparation else model.dtype, compute, device)
    if job.kbit_preparation:
        # Checkpointing is turned on where it is for all jobs, with the kind that the job asks for.
        prepare: Any = peft.prepare_model_for_kbit_training
        model = prepare(model, use_gradient_checkpointing=False)
        if job.narrow_tables:
            for table in (model.get_input_embeddings(), model.get_output_embeddings()):
                table.to(getattr(torch, COMPUTE[job.weight_dtype]))
    model = peft.get_peft_model(model, _config(peft, job), autocast_adapter_dtype=job.adapter_dtype == "fp32")
    if job.adapter_dtype == "base" and job.quantization != "none":
        # PEFT cannot tell a quantised base's dtype and leaves adapters in fp32; TRL casts them as here.
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(getattr(torch, COMPUTE[job.weight_dtype]))
    return model


def _config(peft: Any, job: TrainJob) -> Any:
    """Return PEFT's config of a method."""
    targets = {DEFAULT: None, ALL_LINEAR: ALL_LINEAR}.get(job.targets, list(split(job.targets)))
    rate = job.adapter_dropout if job.dropout else 0.0
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=job.rank,
        lora_alpha=2 * job.rank,
        target_modules=targets,
        lora_dropout=rate,
        modules_to_save=list(split(job.saved_modules)) or None,
    )
