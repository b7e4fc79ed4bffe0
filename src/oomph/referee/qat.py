"""torchao's fake quantisers, put into a model as people do before they train it."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from oomph.errors import UnsupportedError
from oomph.methods.qat import GROUP


def prepare(model: Any) -> Any:
    """Return a model whose linear maps round weights to int4 and inputs to int8."""
    if find_spec("torchao") is None:
        raise UnsupportedError("Quantisation-aware training needs torchao.", "Do: pip install torchao")
    quantization: Any = import_module("torchao.quantization")
    qat: Any = import_module("torchao.quantization.qat")
    torch: Any = import_module("torch")
    inputs = qat.IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
    weights = qat.IntxFakeQuantizeConfig(torch.int4, group_size=GROUP)
    config = qat.QATConfig(activation_config=inputs, weight_config=weights, step="prepare")
    quantization.quantize_(model, config)
    return model
