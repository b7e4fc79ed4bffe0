"""fms-acceleration's fused adapters without its package: its file as it is, its neighbours put in their place."""

from __future__ import annotations

import sys
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch

from oomph.referee.losses import foak
from oomph.referee.unsloth import cut

UTILS = "fused_ops.unsloth_lora.utils"
CUT_OUT = ("matmul_lora", "get_lora_parameters", "QUANT_STATE")


@cache
def adapters() -> Any:
    """Return its module of adapters beside maps of bitsandbytes; decorators for CUDA are those for this device."""
    root = foak("kernels.unsloth.rms_layernorm").__file__
    package = Path(root).parents[2]
    utils = ModuleType(f"fms_acceleration_foak.{UTILS}")
    names = vars(utils)
    names.update(torch=torch, fast_dequantize=_dequantise)
    cut(package / "fused_ops" / "unsloth_lora" / "utils.py", CUT_OUT, names)
    sys.modules[utils.__name__] = utils
    for name in ("swiglu", "geglu"):  # nothing of an MLP is fused here
        made = ModuleType(f"fms_acceleration_foak.fused_ops.unsloth_lora.{name}")
        made.__getattr__ = lambda wanted: None  # type: ignore[method-assign]
        sys.modules[made.__name__] = made
    forward, backward = torch.amp.custom_fwd, torch.amp.custom_bwd
    with (
        patch.object(torch.amp, "custom_fwd", lambda device_type: partial(forward, device_type="cpu")),
        patch.object(torch.amp, "custom_bwd", lambda device_type: partial(backward, device_type="cpu")),
    ):
        return foak("fused_ops.unsloth_lora.bnb.fast_lora")


def _dequantise(weight: Any, quant_state: Any = None, out: Any = None) -> Any:
    """Allocate what fast_dequantize does around kernels that write into what is there."""
    if quant_state is None:
        return weight
    out = torch.empty(quant_state.shape, dtype=quant_state.dtype)
    out_absmax = torch.empty(quant_state.absmax.numel(), dtype=torch.float32)
    out_absmax += quant_state.offset
    return out.t() if weight.shape[0] == 1 else out
