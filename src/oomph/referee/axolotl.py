"""axolotl's LoRA kernels without its package: its file of autograd functions and its patcher, as they are.

What they import from their neighbours is put in its place here: launches that do nothing around what is allocated.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import re
import sys
import types
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch

from oomph.errors import UnsupportedError
from oomph.job_words import AXOLOTL_PARTS
from oomph.referee.unsloth import cut

AXOLOTL = "pip install --no-deps axolotl"
PACKAGE = "oomph_axolotl"  # the name under which its files are imported
PATCHER = (
    "QKV_PATCHES", "ORIGINAL_O_CODE", "PATCHED_O_CODE", "SUPPORTED_ACTIVATIONS", "APPLY_FN_MAPPING",
    "LINEAR_ATTN_IN_PROJS", "LINEAR_ATTN_OUT_PROJ", "original_apply_qkv", "original_apply_qkv_optional_v",
    "original_apply_o", "patch_self_attn_lora", "find_self_attn_in_layer", "find_linear_attn_in_layer",
    "find_mlp_in_layer", "get_layers", "apply_lora_kernel_patches", "_patch_embedding_layers",
)  # fmt: skip


@contextmanager
def patched(model: Any, parts: Collection[str], between: Callable[[], None]) -> Iterator[None]:
    """Give a model with adapters axolotl's kernels of mlp, qkv and o inside; its class of attention has its own forward
    back afterwards. `between` is done where plugins patch: after attention is rewritten, before modules are patched.

    Raises UnsupportedError for a class whose code axolotl does not know.
    """
    found = _patcher()
    attention = next(type(each.self_attn) for each in found["get_layers"](model) if hasattr(each, "self_attn"))
    before = attention.forward
    switches = {f"lora_{name}_kernel": name in parts for name in AXOLOTL_PARTS}
    cfg = SimpleNamespace(**switches, lora_embedding_kernel=True, use_scattermoe=False, use_sonicmoe=False)
    found["get_attention_cls_from_config"] = lambda cfg: attention
    try:
        try:
            if cfg.lora_qkv_kernel or cfg.lora_o_kernel:
                found["patch_self_attn_lora"](cfg)
        except AssertionError as error:
            raise UnsupportedError(f"axolotl's LoRA kernels: {error}.", "Leave --kernels out.") from error
        between()
        found["apply_lora_kernel_patches"](model, cfg)
        yield
    finally:
        attention.forward = before
        if hasattr(attention, "_original_forward"):
            del attention._original_forward


@cache
def _patcher() -> dict[str, Any]:
    """Return the functions and constants of monkeypatch/lora_kernels.py among all that they know."""
    root = _root()
    lora = _functions(root / "kernels")
    names: dict[str, Any] = {
        "importlib": importlib, "inspect": inspect, "types": types, "logging": logging, "torch": torch,
        "nn": torch.nn, "LOG": MagicMock(), "PeftModelForCausalLM": object, "re": re,
    }  # fmt: skip
    names.update({name: each for name, each in vars(lora).items() if name.startswith("apply_lora")})
    cut(root / "monkeypatch" / "utils.py", ("detab_code",), names)
    cut(root / "monkeypatch" / "lora_kernels.py", PATCHER, names)
    return names


def _root() -> Path:
    """Return the package's folder."""
    found = PathFinder.find_spec("axolotl")
    if found is None or not found.submodule_search_locations:
        raise UnsupportedError("A trace of axolotl's kernels needs axolotl.", f"Do: {AXOLOTL}")
    return Path(next(iter(found.submodule_search_locations)))


def _functions(where: Path) -> Any:
    """Return its module of autograd functions; decorators for CUDA are those for this device."""
    package, kernels = ModuleType(PACKAGE), ModuleType(f"{PACKAGE}.kernels")
    package.__path__, kernels.__path__ = [str(where.parent)], [str(where)]
    utils = ModuleType(f"{PACKAGE}.kernels.utils")
    vars(utils)["torch_amp_custom_fwd"] = partial(torch.amp.custom_fwd, device_type="cpu")()
    vars(utils)["torch_amp_custom_bwd"] = partial(torch.amp.custom_bwd, device_type="cpu")()
    made = [package, kernels, utils, _quantize(where)]
    for name in ("swiglu", "geglu"):
        activation = ModuleType(f"{PACKAGE}.kernels.{name}")
        names = vars(activation)
        launch = {f"_{name}_{way}_kernel": _Launch() for way in ("fwd", "bwd")}
        names.update(launch, torch=_OnOneDevice(), register_kernel_op=_unregistered)
        cut(where / f"{name}.py", (f"{name}_forward", f"{name}_backward", f"_{name}_bwd_op"), names)
        made.append(activation)
    for each in made:
        sys.modules.setdefault(each.__name__, each)
    return import_module(f"{PACKAGE}.kernels.lora")


def _quantize(where: Path) -> ModuleType:
    """Return kernels/quantize.py with its calls of bitsandbytes' library left out."""
    made = ModuleType(f"{PACKAGE}.kernels.quantize")
    names = vars(made)
    nothing = lambda *args: None  # noqa: E731
    dtypes = dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), nothing)
    names.update(
        torch=torch, bnb=import_module("bitsandbytes"), _is_float8_tensor=lambda weight: False, _ptr=nothing,
        _int=nothing, _stream=nothing, cdequantize_blockwise_fp32=nothing, _NF4_DEQUANT_KERNELS=dtypes,
    )  # fmt: skip
    cut(where / "quantize.py", ("dequantize", "_ctypes_nf4_dequant"), names)
    return made


class _Launch:
    """A kernel of Triton's whose launches do nothing."""

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda **arguments: None


class _OnOneDevice:
    """torch for code that asks for "cuda" by name: tensors are made where the trace makes them."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def empty(*shape: Any, dtype: torch.dtype, device: str) -> torch.Tensor:
        """Return an empty tensor on the trace's device."""
        return torch.empty(*shape, dtype=dtype)


def _unregistered(name: str, mutates_args: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """Mirror register_kernel_op, of which nothing but dispatching depends."""
    return lambda function: function
