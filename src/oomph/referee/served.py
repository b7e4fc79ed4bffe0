"""A quantised model that only reads and writes: real maps of bitsandbytes, HQQ and torchao, a stand-in for GPTQ's."""

from __future__ import annotations

from typing import Any

import torch

from oomph.errors import UnsupportedError
from oomph.job import InferJob
from oomph.methods.quantised import base_of

COMPUTE = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
NOT_HERE = ("awq", "aqlm", "fp8")  # whose kernels do not run in a trace


def served(model: Any, job: InferJob, device: str) -> Any:
    """Return a model as a job without gradients runs it; refused where the trace's libraries cannot."""
    if job.release != "5":
        raise UnsupportedError(f"A trace runs transformers 5, not {job.release}.", "Leave --release out.")
    if job.quantization == "none":
        return model
    if job.quantization.startswith(NOT_HERE):
        raise UnsupportedError(f"The kernels of {job.quantization} do not run in a trace.", "Ask oomph serve alone.")
    base = base_of(job)
    if job.quantization.startswith("gptq"):
        from oomph.referee.gptq import pack

        pack(model, base, device)
    elif job.quantization.startswith("hqq"):
        from oomph.referee import hqq

        hqq.pack(model, base, device)
    elif job.quantization.startswith("torchao"):
        from oomph.referee import torchao

        torchao.pack(model, base)
    else:
        from oomph.referee.quantised import quantise

        model = quantise(model, base, model.dtype, COMPUTE[base.precision], device)
    return model
