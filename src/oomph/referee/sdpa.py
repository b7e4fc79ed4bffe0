"""Which attention kernel CUDA would take, and the operation with that kernel's outputs and saved tensors.

A CPU build of torch picks its own CPU kernel, which saves other tensors. The rules follow
ATen/native/transformers/attention.cpp (scaled_dot_product_attention) and cuda/sdp_utils.cpp (can_use_*), for a GPU of
compute capability 8.0 or more. sdp_utils.cpp was read at a commit after 2.13 (001f694); that 2.13's memory-efficient
kernel takes no grouped queries is inferred from its shape rule, which gives key gradients the query's heads. Nothing
here has been checked on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor

from oomph.referee.autocast import without_autocast

aten = torch.ops.aten
# Kernels in the order they are tried, by the one that is asked for; "math" always works.
ORDER = {
    "flash": ("flash", "efficient"),
    "efficient": ("efficient",),
    "cudnn": ("cudnn", "flash", "efficient"),
    "math": (),
}
HALF = (torch.float16, torch.bfloat16)
RANK = 4  # other ranks go to math
FLASH_HEAD_DIM = 256  # check_head_dim_size_flash
CUDNN_HEAD_DIM = 128  # check_cudnn_tensor_shapes, but for newer cuDNN on Hopper and Blackwell
ALIGNMENT = 8  # elements; pad_last_dim<8>, mem_eff_alignment, cuDNN's head sizes
FP32_ALIGNMENT = 4  # elements; minimum_gemm_alignment for fp32
SIXTEENTH = 16  # check_cudnn_dropout: rates are multiples of 1/16


class Call(NamedTuple):
    """The other arguments of one call: mask [B or 1, N or 1, S, T] boolean or additive, dropout rate, and so on."""

    mask: Tensor | None = None
    dropout: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False


def usable(kernel: str, query: Tensor, key: Tensor, value: Tensor, call: Call) -> bool:
    """Say whether a fused kernel takes these [B, N, S, D] tensors."""
    if any(each.dim() != RANK or 0 in each.shape or each.stride(-1) != 1 for each in (query, key, value)):
        return False
    if query.shape[0] != key.shape[0]:  # check_batch_size_and_num_heads_dense
        return False
    size, value_size, half = query.shape[-1], value.shape[-1], query.dtype in HALF
    grouped = query.shape[1] != key.shape[1]
    if grouped and not call.enable_gqa:
        return False
    if kernel == "flash":
        square = not call.is_causal or query.shape[-2] == key.shape[-2]
        return half and call.mask is None and square and size == value_size and size <= FLASH_HEAD_DIM
    step = ALIGNMENT if half else FP32_ALIGNMENT
    fits = size % step == 0 and value_size % step == 0
    if kernel == "efficient":
        return (half or query.dtype == torch.float32) and fits and not grouped
    short = key.shape[-2] == 1 or (call.dropout > 0 and query.shape[-2] == 1)
    rate_fits = (call.dropout * SIXTEENTH).is_integer()
    return half and fits and max(size, value_size) <= CUDNN_HEAD_DIM and not short and rate_fits


def replacement(asked: str, taken: Callable[[str], None]) -> Callable[..., Tensor]:
    """Return a stand-in for F.scaled_dot_product_attention; it reports each kernel it takes."""

    def scaled_dot_product_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        guard: Any = nullcontext()
        if torch.is_autocast_enabled("cpu"):  # the C++ autocast wrapper comes before the choice, and only once
            guard = without_autocast()
            dtype = torch.get_autocast_dtype("cpu")
            if attn_mask is not None and attn_mask.is_floating_point():
                attn_mask = attn_mask.to(dtype)
            value, key, query = value.to(dtype), key.to(dtype), query.to(dtype)  # compilers go from the last argument
        call = Call(attn_mask, dropout_p, is_causal, scale, enable_gqa)
        kernel = next((each for each in ORDER[asked] if usable(each, query, key, value, call)), "math")
        taken(kernel)
        with guard:
            return KERNELS[kernel](query, key, value, call)

    return scaled_dot_product_attention


def _flash(query: Tensor, key: Tensor, value: Tensor, call: Call) -> Any:
    """Return flash attention, head sizes padded to a multiple of 8 and cut again as C++ does."""
    size = query.shape[-1]
    scale = 1 / math.sqrt(size) if call.scale is None else call.scale
    if missing := -size % ALIGNMENT:
        query, key, value = F.pad(query, (0, missing)), F.pad(key, (0, missing)), F.pad(value, (0, missing))
    out = aten._scaled_dot_product_flash_attention(query, key, value, call.dropout, call.is_causal, False, scale=scale)[
        0
    ]
    return out[..., :size] if missing else out


def _efficient(query: Tensor, key: Tensor, value: Tensor, call: Call) -> Any:
    mask = _expanded(_additive(call.mask, query.dtype), query, key)
    keep = _log_sum_exp_kept(query, key, value)
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, keep, call.dropout, call.is_causal, scale=call.scale
    )[0]


def _cudnn(query: Tensor, key: Tensor, value: Tensor, call: Call) -> Any:
    mask = _additive(call.mask, query.dtype)
    keep = _log_sum_exp_kept(query, key, value)
    return aten._scaled_dot_product_cudnn_attention(
        query, key, value, mask, keep, call.dropout, call.is_causal, False, scale=call.scale
    )[0]


def _math(query: Tensor, key: Tensor, value: Tensor, call: Call) -> Any:
    mask = _additive(call.mask, query.dtype)
    return aten._scaled_dot_product_attention_math(
        query, key, value, mask, call.dropout, call.is_causal, scale=call.scale, enable_gqa=call.enable_gqa
    )[0]


KERNELS = {"flash": _flash, "efficient": _efficient, "cudnn": _cudnn, "math": _math}


def _log_sum_exp_kept(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(each.requires_grad for each in tensors)


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return a boolean mask as 0 and -inf in the dtype of the query (convert_boolean_attn_mask)."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.where(mask, 0.0, torch.scalar_tensor(-math.inf, dtype=dtype))


def _expanded(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """Return a mask with aligned rows for every head (preprocess_mask): rows are padded, heads share storage."""
    if mask is None:
        return None
    aligned = mask.stride(-1) == 1 and all(stride % ALIGNMENT == 0 for stride in mask.stride()[:-1])
    if not aligned:
        width = mask.shape[-1]
        # C++ pads a full 8 where the width is a multiple of 8 already but another stride is not.
        mask = F.pad(mask, (0, ALIGNMENT - width % ALIGNMENT))[..., :width]
    return mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
