"""The package mamba-ssm in a trace: its Python code as it is, launches left out.

What is compiled is stood for by functions that allocate as the host code does: csrc/selective_scan/selective_scan.cpp
of mamba-ssm 2.3.2. The code that runs is that for an H100; what tunes Triton's kernels by trying them is left out.
"""

# ruff: noqa: N803, N806  state-space matrices have capital letters, here as in the package

from __future__ import annotations

import sys
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from importlib.machinery import PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from oomph.referee import losses
from oomph.workspaces import MULTIPROCESSORS

CHUNK = 2048  # tokens between two states that the scan keeps
FILES = ("ops.selective_scan_interface", "ops.triton.selective_state_update", "ops.triton.ssd_combined")
AMP = ("custom_fwd", "custom_bwd")


def imported() -> None:
    """Import the package's functions, their kernels stood for; not its own first file, which imports whole models."""
    package, scan = ModuleType("mamba_ssm"), ModuleType("selective_scan_cuda")
    package.__path__ = list(PathFinder.find_spec("mamba_ssm").submodule_search_locations or ())  # type: ignore[union-attr]
    vars(scan).update(fwd=_scan_fwd, bwd=_scan_bwd)
    sys.modules["mamba_ssm"] = package
    stand_ins = {"triton.Config": _Config, "triton.autotune": _autotune}
    with (
        patch.dict(losses.TRITON, stand_ins),
        patch.dict(sys.modules, {"selective_scan_cuda": scan}),
        losses.without_triton(),
    ):
        utils = import_module("mamba_ssm.utils.torch")
        vars(utils).update({name: partial(getattr(torch.amp, name), device_type="cpu") for name in AMP})
        for name in FILES:
            import_module(f"mamba_ssm.{name}")
        made = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "mamba_ssm"}
    for name, module in made.items():
        sys.modules[name] = module  # which the patch took away with its own
        if isinstance(vars(module).get("torch"), ModuleType):
            vars(module)["torch"] = _OnOneDevice()


class _OnOneDevice:
    """torch for code that asks CUDA for what it is: the trace's device is called "cpu"."""

    cuda = SimpleNamespace(
        device=lambda index: nullcontext(),
        get_device_properties=lambda device: SimpleNamespace(multi_processor_count=MULTIPROCESSORS),
    )

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def get_autocast_gpu_dtype() -> torch.dtype:
        """Return the dtype of the trace's autocast."""
        return torch.get_autocast_dtype("cpu")


class _Config:
    """Stands for triton.Config: its sizes are asked for, but no allocation follows them."""

    def __init__(self, kwargs: Any, num_stages: int = 3, num_warps: int = 4, pre_hook: Any = None) -> None:
        self.kwargs, self.num_stages, self.num_warps = kwargs, num_stages, num_warps


def _autotune(configs: Any, **options: Any) -> Any:
    """Stand for triton.autotune, which is as if it had found the first of its configs best."""

    def tuned(kernel: Any) -> Any:
        kernel.configs, kernel.best_config = configs, configs[0]
        return kernel

    return tuned


def _scan_fwd(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Any, z: Any, bias: Any, softplus: bool
) -> list[Tensor]:  # fmt: skip
    """Allocate what selective_scan_fwd does."""
    batch, dim, length = u.shape
    gated = [] if z is None else [torch.empty_like(z)]
    out = torch.empty_like(delta)
    x = torch.empty((batch, dim, -(-length // CHUNK), 2 * A.shape[1]), dtype=A.dtype, device=u.device)
    return [out, x, *gated]


def _scan_bwd(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Any, z: Any, bias: Any, dout: Tensor, x: Any,
    out: Any, dz: Any, softplus: bool, recompute_out_z: bool,
) -> list[Any]:  # fmt: skip
    """Allocate what selective_scan_bwd does; gradients of B and C are made in fp32."""
    if z is not None and dz is None:
        dz = torch.empty_like(z)
    gated = [torch.empty_like(out)] if z is not None and recompute_out_z else []
    du, ddelta, dA = torch.empty_like(u), torch.empty_like(delta), torch.zeros_like(A)
    dB, dC = (torch.zeros_like(each, dtype=torch.float32) for each in (B, C))
    dD, dbias = (None if each is None else torch.zeros_like(each) for each in (D, bias))
    found = [du, ddelta, dA, dB.to(B.dtype), dC.to(C.dtype), dD, dbias, *([] if z is None else [dz]), *gated]
    del dC  # C++ locals die in reverse order
    del dB
    return found
