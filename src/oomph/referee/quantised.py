"""A base that bitsandbytes quantised, with random weights: its real modules, on a GPU and without memory.

On a GPU linear maps are built without memory and quantised one after the other, so that no whole model ever lies there
in 16 bits. On fake tensors bitsandbytes' parameter classes cannot be made; a plain parameter carries what they would,
and forward and backward are bitsandbytes' own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensor

from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.methods.quantised import Base

INSTALL = "pip install bitsandbytes"
BLOCK, NESTED_BLOCK = 64, 256  # bitsandbytes' defaults, functional.py quantize_4bit
STACKED = 3  # axes of experts in one parameter
STATE = ("absmax", "code", "offset")  # tensors of a QuantState; its state2 has the first two


@contextmanager
def linear_maps_without_memory() -> Iterator[None]:
    """Build every nn.Linear inside on the meta device; where the rest is built is left alone."""
    original = torch.nn.Linear.__init__

    def init(
        self: Any, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        original(self, in_features, out_features, bias, device="meta", dtype=dtype)

    with patch.object(torch.nn.Linear, "__init__", init):
        yield


def quantise(model: Any, job: TrainJob | Base, loaded: torch.dtype, compute: torch.dtype, device: str) -> Any:
    """Return the model with bitsandbytes' modules in the place of those that transformers would convert."""
    try:
        import bitsandbytes as bnb
    except ImportError:
        raise UnsupportedError("A quantised base needs bitsandbytes.", f"Do: {INSTALL}") from None
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    left = [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())]
    if job.quantised_experts:
        _stacks(model, job.quantization, loaded, device)
    for name, module in list(model.named_modules()):
        if (type(module) is torch.nn.Linear or isinstance(module, Conv1D)) and should_convert_module(name, left):
            made = (
                _eight_bit(bnb, module, loaded, device)
                if job.quantization == "int8"
                else _four_bit(bnb, module, job.quantization, loaded, compute, device)
            )
            model.set_submodule(name, made)
            module.to_empty(device="meta")
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.weight.is_meta:
            module.to_empty(device=device)
            module.weight.data.normal_()
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = job.quantization != "int8", job.quantization == "int8"
    model.is_quantized = True
    return model


def _stacks(model: Any, how: str, loaded: Any, device: str) -> None:
    """Pack every stack of experts as bitsandbytes' replace_parameter_4bit does, as axolotl calls it while loading."""
    import bitsandbytes as bnb
    from bitsandbytes.nn import parametrize

    kind, nested = how.removesuffix("-dq"), how.endswith("-dq")
    stacks = [
        (module, name)
        for path, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() == STACKED and "expert" in f"{path}.{name}"
    ]
    for module, name in stacks:
        weight = torch.empty(getattr(module, name).shape, dtype=loaded, device=device)
        setattr(module, name, packed := _packed(bnb, weight, kind, nested))
        unpacking = parametrize.Bnb4bitParametrization(packed.quant_state)
        torch.nn.utils.parametrize.register_parametrization(module, name, unpacking, unsafe=True)
        parametrize._register_parametrization_hooks(module, name)


def _packed(bnb: Any, weight: Any, kind: str, nested: bool) -> Any:
    """Return a parameter of codes that knows its QuantState."""
    if isinstance(weight, FakeTensor):
        return _fake_parameter(bnb, weight, kind, nested)
    codes, state = bnb.functional.quantize_4bit(weight.normal_(), compress_statistics=nested, quant_type=kind)
    parameter = torch.nn.Parameter(codes, requires_grad=False)
    parameter.quant_state = state
    return parameter


def _four_bit(bnb: Any, module: Any, how: str, loaded: Any, compute: Any, device: str) -> Any:
    """Return a Linear4bit as large as a module, its weight random."""
    rows, columns = module.weight.shape if isinstance(module, torch.nn.Linear) else module.weight.shape[::-1]
    kind, nested = how.removesuffix("-dq"), how.endswith("-dq")
    weight = torch.empty(rows, columns, dtype=loaded, device=device)
    options = {"quant_type": kind, "quant_storage": torch.uint8, "compress_statistics": nested}
    if isinstance(weight, FakeTensor):
        made = bnb.nn.Linear4bit.__new__(bnb.nn.Linear4bit)
        torch.nn.Module.__init__(made)
        made.in_features, made.out_features, made.compute_dtype = columns, rows, compute
        made.compute_type_is_set, made.support_avx512bf16_for_cpu = True, False
        made.weight = _fake_parameter(bnb, weight, kind, nested)
        for name, value in options.items():
            setattr(made.weight, name, value)
    else:
        made = bnb.nn.Linear4bit(
            columns, rows, False, compute, nested, kind, quant_storage=torch.uint8, device="meta"
        )  # fmt: skip
        made.weight = bnb.nn.Params4bit(weight.normal_(), requires_grad=False, module=made, **options).to(device)
    bias = getattr(module, "bias", None)
    made.bias = None if bias is None else torch.nn.Parameter(torch.zeros(rows, dtype=loaded, device=device), False)
    return made


def _eight_bit(bnb: Any, module: Any, loaded: Any, device: str) -> Any:
    """Return a Linear8bitLt as large as a module, its weight random; a trace takes its inputs to have no outliers."""
    rows, columns = module.weight.shape if isinstance(module, torch.nn.Linear) else module.weight.shape[::-1]
    weight = torch.empty(rows, columns, dtype=torch.float16, device=device)
    if isinstance(weight, FakeTensor):
        made = bnb.nn.Linear8bitLt.__new__(bnb.nn.Linear8bitLt)
        torch.nn.Module.__init__(made)
        made.in_features, made.out_features, made.index = columns, rows, None
        made.state = bnb.MatmulLtState()
        codes, made.state.SCB, _ = bnb.functional.int8_vectorwise_quant(weight)
        made.state.CB, made.state.has_fp16_weights = codes, False
        made.weight = torch.nn.Parameter(codes, requires_grad=False)
        made.weight.CB, made.weight.has_fp16_weights = None, False
        # On a CPU's tensors bitsandbytes takes another way; these stand for a GPU's.
        bnb.matmul = _as_on_gpu(bnb)
    else:
        made = bnb.nn.Linear8bitLt(columns, rows, False, has_fp16_weights=False, threshold=6.0, device="meta")
        made.weight = bnb.nn.Int8Params(weight.normal_().cpu(), requires_grad=False, has_fp16_weights=False).to(device)
    bias = getattr(module, "bias", None)
    made.bias = None if bias is None else torch.nn.Parameter(torch.zeros(rows, dtype=loaded, device=device), False)
    return made


def _as_on_gpu(bnb: Any) -> Any:
    """Return bitsandbytes.matmul that takes fake tensors as it takes a GPU's."""
    real = bnb.autograd._functions.matmul

    def matmul(
        x: Any, weight: Any, out: Any = None, state: Any = None, threshold: float = 0.0, bias: Any = None
    ) -> Any:
        if isinstance(x, FakeTensor):
            return bnb.autograd._functions.MatMul8bitLt.apply(x, weight, out, bias, state)
        return real(x, weight, out, state, threshold, bias)

    return matmul


def _fake_parameter(bnb: Any, weight: Any, kind: str, nested: bool) -> Any:
    """Return what Params4bit and its QuantState hold, as functional.quantize_4bit makes it."""
    ops, functional = torch.ops.bitsandbytes, bnb.functional
    packed, absmax = ops.quantize_4bit(weight, BLOCK, kind, torch.uint8)
    options: dict[str, Any] = {}
    if nested:
        offset, table = absmax.mean(), torch.empty(256)
        absmax, absmax2 = ops.quantize_blockwise(absmax - offset, table, NESTED_BLOCK)
        inner = functional.QuantState(absmax=absmax2, code=table, blocksize=NESTED_BLOCK, dtype=torch.float32)
        options = {"offset": offset, "state2": inner}
    parameter = torch.nn.Parameter(packed, requires_grad=False)
    parameter.quant_state = functional.QuantState(
        absmax=absmax, shape=weight.shape, dtype=weight.dtype, blocksize=BLOCK, code=torch.empty(16), quant_type=kind,
        **options,
    )  # fmt: skip
    return parameter


def teach_dora() -> None:
    """Let PEFT's DoRA find the weights of fake 4-bit maps, which it knows by the class of a real parameter.

    What it calls for them is bitsandbytes' own. Its copy of a map, made for FSDP, would lose what they carry.
    """
    from importlib import import_module

    dora: Any = import_module("peft.tuners.lora.dora")
    original = dora.dequantize_module_weight
    if original.__name__ == "dequantise":
        return

    def dequantise(module: Any) -> Any:
        weight = getattr(module, "weight", None)
        state = getattr(weight, "quant_state", None)
        if state is None or not isinstance(weight, FakeTensor):
            return original(module)
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, state)

    dora.dequantize_module_weight = dequantise
    dora.deepcopy = lambda module: module if isinstance(module.weight, FakeTensor) else deepcopy(module)


def scales(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, tensor) of what quantised weights need beside their codes; neither parameters nor buffers."""
    for name, module in model.named_modules():
        meta = getattr(module, "meta", None)  # HQQ's
        if isinstance(meta, dict):
            yield from ((f"{name}.{key}", each) for key, each in meta.items() if isinstance(each, torch.Tensor))
            if isinstance(module.bias, torch.Tensor):
                yield f"{name}.bias", module.bias
        scale = getattr(getattr(module, "state", None), "SCB", None)
        if isinstance(scale, torch.Tensor):
            yield f"{name}.SCB", scale
    for name, parameter in model.named_parameters():
        for inner in getattr(parameter, "tensor_data_names", ()):  # torchao's subclasses, of which that is all there is
            yield f"{name}.{inner}", getattr(parameter, inner)
        if isinstance(zeros := getattr(parameter, "zero_point", None), torch.Tensor):
            yield f"{name}.zero_point", zeros
        if isinstance(getattr(parameter, "scales", None), torch.Tensor):  # Q-GaLore's
            yield from ((f"{name.rpartition('.')[0]}.{key}", getattr(parameter, key)) for key in ("scales", "zeros"))
        state = getattr(parameter, "quant_state", None)
        for inner in (state, getattr(state, "state2", None)):
            for each in STATE:
                tensor = getattr(inner, each, None)
                if isinstance(tensor, torch.Tensor):
                    yield f"{name}.{'nested_' if inner is not state else ''}{each}", tensor
