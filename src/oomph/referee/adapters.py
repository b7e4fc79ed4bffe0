"""The real PEFT around the real model: what a job's method does to it, on fake tensors as on a GPU."""

from __future__ import annotations

from typing import Any

from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.methods.targets import ALL_LINEAR, DEFAULT, split
from oomph.referee.meta import INSTALL


def adapt(model: Any, job: TrainJob) -> Any:
    """Return a model as PEFT wraps it for a job."""
    try:
        import peft
    except ImportError:
        raise UnsupportedError("This method needs peft.", f"Do: {INSTALL}") from None
    return peft.get_peft_model(model, _config(peft, job), autocast_adapter_dtype=job.adapter_dtype == "fp32")


def _config(peft: Any, job: TrainJob) -> Any:
    """Return PEFT's config of a method."""
    targets = {DEFAULT: None, ALL_LINEAR: ALL_LINEAR}.get(job.targets, list(split(job.targets)))
    rate = job.adapter_dropout if job.dropout else 0.0
    return peft.LoraConfig(
        task_type="CAUSAL_LM", r=job.rank, lora_alpha=2 * job.rank, target_modules=targets, lora_dropout=rate
    )
