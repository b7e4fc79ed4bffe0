"""A base that HQQ quantised: its real maps, with empty codes."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from oomph.errors import UnsupportedError
from oomph.formats.hqq import DEFAULT_GROUP, Hqq
from oomph.formats.linear import Matrix
from oomph.job import TrainJob
from oomph.methods.quantised import Base

DTYPES = {"uint8": torch.uint8, "int32": torch.int32}


def pack(model: Any, job: TrainJob | Base, device: str) -> list[str]:
    """Exchange a model's linear maps but the head for HQQ's; return the last parts of their names."""
    try:
        core: Any = import_module("hqq.core.quantize")
    except ImportError:
        raise UnsupportedError("A base in HQQ needs hqq.", "Do: pip install hqq") from None
    _, bits, *group = job.quantization.split("-")
    scheme = Hqq(int(bits.removesuffix("bit")), int(group[0].removeprefix("g")) if group else DEFAULT_GROUP)
    names: dict[str, None] = {}
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear and module is not head:
            model.set_submodule(name, _made(core, module, scheme, device))
            names[name.rpartition(".")[2]] = None
    model.quantization_method = "hqq"
    return list(names)


def _made(core: Any, module: Any, scheme: Hqq, device: str) -> Any:
    """Return an HQQLinear as large as a module, with empty codes."""
    dtype = module.weight.dtype
    rows, columns = module.weight.shape
    made = core.HQQLinear(None, None, compute_dtype=dtype, device=device, initialize=False)
    tensors = {
        one.name[1:]: torch.empty(one.shape, dtype=DTYPES.get(one.dtype, dtype), device=device)
        for one in scheme.tensors(Matrix("", rows, columns, 1, "bf16"))
    }
    made.W_q = torch.nn.Parameter(tensors.pop("W_q"), requires_grad=False)
    packing = core.Quantizer.bit_to_packing[scheme.bits]
    made.meta = {
        **tensors, "nbits": scheme.bits, "group_size": scheme.group, "shape": torch.Size((rows, columns)),
        "axis": scheme.axis, "packing": packing, "unpack_view_dtype": core.Quantizer.unpack_view_dtype[packing],
        "view_as_float": False, "quant_scale": False, "quant_zero": False, "compute_dtype": dtype,
    }  # fmt: skip
    made.bias = None if module.bias is None else torch.empty(rows, dtype=dtype, device=device)
    made.in_features, made.out_features, made.ready = columns, rows, True
    return made
