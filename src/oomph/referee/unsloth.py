"""Unsloth's autograd functions without Unsloth's package, which cannot be imported where there is no GPU.

Three of its files are taken as they are: norms, rotary embedding, fused adapters. What they import from their
neighbours is put in their place here: launches that do nothing, a matmul_lora cut out of its file, and dequantisation
that allocates what Unsloth's does.
"""

from __future__ import annotations
import __future__

import ast
import contextlib
import sys
from collections.abc import Collection
from functools import cache, partial
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import library

from oomph.errors import UnsupportedError
from oomph.referee.losses import without_triton

UNSLOTH = "pip install --no-deps unsloth"
PACKAGE = "oomph_unsloth"  # the name under which its files are imported
CUT_OUT = ("matmul_lora", "addmm_", "get_lora_parameters", "calculate_settings", "next_power_of_2")
_SCRATCH: dict[str, Any] = {}


@cache
def files() -> tuple[Any, Any, Any]:
    """Return its modules of norms, of the rotary embedding and of adapters."""
    where = root()
    package, kernels = ModuleType(PACKAGE), ModuleType(f"{PACKAGE}.kernels")
    package.__path__, kernels.__path__ = [str(where)], [str(where / "kernels")]
    devices = ModuleType(f"{PACKAGE}.device_type")
    vars(devices).update(DEVICE_COUNT=1, DEVICE_TYPE="cuda", DEVICE_TYPE_TORCH="cuda")
    with without_triton(), patch.object(library, "triton_op"):
        del library.triton_op  # with it they would register their kernels for torch.compile
        utils = _utils(where / "kernels" / "utils.py")
        zoo = ModuleType("unsloth_zoo.utils")
        vars(zoo)["Version"] = import_module("packaging.version").Version
        launch = ModuleType(f"{PACKAGE}.kernels.triton_launch")
        vars(launch).update(launch=lambda *args, **kwargs: None, _ENABLED=False)
        for each in (package, kernels, devices, utils, launch, ModuleType("unsloth_zoo"), zoo):
            sys.modules.setdefault(each.__name__, each)
        vars(kernels)["triton_launch"] = launch
        names = ("rms_layernorm", "rope_embedding", "swiglu", "fast_lora", "qk_norm_rope")
        norms, rotary, _, lora, _ = (import_module(f"{PACKAGE}.kernels.{name}") for name in names)
    vars(rotary)["_eviction_hints_ok"] = lambda device: True
    vars(norms)["_multirow_checked"] = lambda *args: False  # which of two kernels, tried out on the device
    return norms, rotary, lora


def forget() -> None:
    """Let the buffer go that weights share."""
    _SCRATCH.clear()


def root() -> Path:
    """Return the package's folder."""
    found = PathFinder.find_spec("unsloth")
    if found is None or not found.submodule_search_locations:
        raise UnsupportedError("A trace of Unsloth's kernels needs unsloth.", f"Do: {UNSLOTH}")
    return Path(next(iter(found.submodule_search_locations)))


def cut(path: Path, functions: Collection[str], names: dict[str, Any]) -> None:
    """Put functions and constants of a file among `names`, which are all that they know; annotations stay unread."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        name = node.targets[0] if isinstance(node, ast.Assign) else node
        if getattr(name, "name", getattr(name, "id", None)) in functions:
            code = compile(ast.Module([node], []), str(path), "exec", __future__.annotations.compiler_flag)
            exec(code, names)


def _utils(path: Path) -> ModuleType:
    """Return a stand-in for kernels/utils.py with the functions that matter cut out of it."""
    made = ModuleType(f"{PACKAGE}.kernels.utils")
    names = vars(made)
    never = type("Never", (), {})
    nothing = lambda *args, **kwargs: False  # noqa: E731
    cast = partial(torch.amp.custom_fwd, device_type="cpu"), partial(torch.amp.custom_bwd, device_type="cpu")
    names.update(
        torch=torch, torch_matmul=torch.matmul, Float8Tensor=never, Int4QuantState=never, fast_dequantize=_dequantise,
        _is_packed_state=nothing, _HAS_ADDMM_OP=False, _packed_base=lambda base: None, _base_quant_state=nothing,
        _FP8_WEIGHT_DTYPES=(), _has_active_dora_adapter=nothing, _has_active_lora_bias=nothing,
        _has_multiple_active_adapters=nothing, get_lora_parameters_bias=None, long_indexing=nothing,
        norm_num_warps=lambda *args: 4, torch_gpu_device=lambda device: contextlib.nullcontext(),
        torch_device_stream=None, torch_amp_custom_fwd=cast[0](), torch_amp_custom_bwd=cast[1](),
        triton_tanh=None, triton_cast=None, DEVICE_TYPE="cuda", triton=import_module("triton"), MAX_FUSED_SIZE=2**16,
    )  # fmt: skip
    names["next_power_of_2"] = names["triton"].next_power_of_2
    cut(path, CUT_OUT, names)
    return made


def _dequantise(
    weight: Any, quant_state: Any = None, out: Any = None, use_global_buffer: bool = False, dtype: Any = None
) -> Any:
    """Allocate what fast_dequantize does with its own kernels: the shared buffer, if too small, or a new tensor."""
    if quant_state is None:
        return weight
    shape, count = quant_state.shape, quant_state.shape.numel()
    if not use_global_buffer:
        made = torch.empty(shape, dtype=quant_state.dtype)
    else:
        known = _SCRATCH.get("weight")
        if known is None or known.numel() < count:
            _SCRATCH["weight"] = torch.empty(count, dtype=quant_state.dtype)
        del known
        made = _SCRATCH["weight"][:count].view(shape)
    return made.t() if weight.shape[0] == 1 else made


def plain(*maps: Any) -> bool:
    """Tell whether maps all have an adapter and no bias, as patch_peft_model asks."""
    return all(hasattr(one, "lora_A") and one.base_layer.bias is None for one in maps)


def fuse_attention(lora: Any, attention: Any) -> None:
    """Let q, k and v be computed together, and the output map with its adapter, as patch_peft_model does."""
    if plain(attention.q_proj, attention.k_proj, attention.v_proj):
        attention.apply_qkv = lora.apply_lora_qkv
    if plain(attention.o_proj):
        attention.apply_o = lora.apply_lora_o
