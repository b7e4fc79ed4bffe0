"""A base that GPTQ quantised, with empty codes: what stands in for GPTQModel's maps in a trace.

GPTQModel unpacks weights in a compiled function that needs a GPU; here it is one allocation, which is what that
function returns. All around it, PEFT's adapters and torch's product, is the real code.
"""

from __future__ import annotations

from typing import Any

import torch

from oomph.errors import UnsupportedError
from oomph.formats.gptq import GROUPS, Gptq
from oomph.formats.linear import Matrix
from oomph.job import TrainJob
from oomph.methods.quantised import Base

DTYPES = {"int32": torch.int32, "fp16": torch.float16}


class TorchLinear(torch.nn.Module):  # type: ignore[misc]
    """GPTQModel's map while it trains (TorchLinear._forward_eager)."""

    def __init__(self, module: Any, scheme: Gptq, device: str) -> None:
        super().__init__()
        shape = module.weight.shape if isinstance(module, torch.nn.Linear) else module.weight.shape[::-1]
        self.out_features, self.in_features = shape
        for one in scheme.tensors(Matrix("", self.out_features, self.in_features, 1, "fp16")):
            self.register_buffer(one.name[1:], torch.empty(one.shape, dtype=DTYPES[one.dtype], device=device))
        bias = getattr(module, "bias", None)
        self.register_buffer("bias", None if bias is None else torch.empty(shape[0], dtype=torch.float16))

    def dequantize_weight(self) -> torch.Tensor:
        """Return the weight as the compiled function does."""
        return torch.empty(self.in_features, self.out_features, dtype=self.scales.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Unpack, multiply, add the bias in place."""
        out_shape = (*x.shape[:-1], self.out_features)
        x = x.reshape(-1, x.shape[-1])
        weights = self.dequantize_weight().to(x.dtype)
        out = torch.matmul(x, weights).reshape(out_shape)
        if self.bias is not None:
            bias = self.bias.to(out.dtype)
            out.add_(bias)
        return out


def pack(model: Any, job: TrainJob | Base, device: str) -> list[str]:
    """Exchange the linear maps inside a model's decoder layers; return the last parts of their names."""
    from transformers.pytorch_utils import Conv1D

    from oomph.referee.models import decoder_layers

    if job.gptq_kernel != "gptqmodel":
        fix = "Take --gptq-kernel gptqmodel, or ask oomph train alone."
        raise UnsupportedError("auto_gptq does not run with the transformers and PEFT of the trace.", fix)
    _, bits, group = job.quantization.split("-")
    scheme = Gptq(int(bits.removesuffix("bit")), GROUPS[group])
    names: dict[str, None] = {}
    for layer in decoder_layers(model):
        for name, module in list(layer.named_modules()):
            if type(module) is torch.nn.Linear or isinstance(module, Conv1D):
                layer.set_submodule(name, TorchLinear(module, scheme, device))
                names[name.rpartition(".")[2]] = None
    model.quantization_method = "gptq"
    return list(names)
