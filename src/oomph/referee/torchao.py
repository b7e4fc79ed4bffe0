"""A base that torchao quantised: its real tensor subclasses in the real maps, with random weights."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.methods.quantised import Base


def pack(model: Any, job: TrainJob | Base) -> None:
    """Exchange the weights of a model's linear maps for torchao's, as transformers' quantizer does."""
    try:
        torchao: Any = import_module("torchao.quantization")
    except ImportError:
        raise UnsupportedError("A base in torchao's formats needs torchao.", "Do: pip install torchao") from None
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    made_of = torchao.Int8Tensor if job.quantization == "torchao-int8" else torchao.Float8Tensor
    left = [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())]
    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear and should_convert_module(name, left):
            weight = made_of.from_hp(module.weight.data, granularity=torchao.PerRow())
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
    model.quantization_method = "torchao"
