"""Which kernel torch takes on CUDA for a call of scaled_dot_product_attention.

The choice follows ATen/native/transformers/cuda/sdp_utils.cpp for compute capability 8.0 and more, as referee/sdpa.py
does. Nothing is allocated here.
"""

from __future__ import annotations

from dataclasses import dataclass

from oomph.tape.sizes import yes
from oomph.tape.sym import Sym

# Kernels in the order they are tried, by the one that is asked for; "math" always works.
ORDER = {
    "flash": ("flash", "efficient"),
    "efficient": ("efficient",),
    "cudnn": ("cudnn", "flash", "efficient"),
    "math": (),
}
HALF = ("fp16", "bf16")
FLASH_HEAD_DIM = 256  # sdp_utils.cpp, check_head_dim_size_flash
CUDNN_HEAD_DIM = 128  # check_cudnn_tensor_shapes, but for newer cuDNN on Hopper and Blackwell
ALIGNMENT = 8  # elements; pad_last_dim<8>, mem_eff_alignment, cuDNN's head sizes
FP32_ALIGNMENT = 4  # elements; minimum_gemm_alignment for fp32
SIXTEENTH = 16  # check_cudnn_dropout: rates are multiples of 1/16


@dataclass(frozen=True)
class Call:
    """The other arguments of one call: a mask [B, 1, S, T] or none, dropout rate, and the two flags."""

    mask: Sym | None = None
    rate: float = 0.0
    is_causal: bool = False
    grouped: bool = False  # enable_gqa: keys may have fewer heads


def taken(asked: str, query: Sym, key: Sym, value: Sym, call: Call) -> str:
    """Return the kernel that torch takes when one is asked for.

    >>> from oomph.tape import Tape
    >>> tape = Tape()
    >>> half, single = (tape.empty((1, 8, 64, 128), dtype) for dtype in ("bf16", "fp32"))
    >>> taken("flash", half, half, half, Call()), taken("flash", single, single, single, Call())
    ('flash', 'efficient')
    """
    return next((each for each in ORDER[asked] if _usable(each, query, key, value, call)), "math")


def _usable(kernel: str, query: Sym, key: Sym, value: Sym, call: Call) -> bool:
    """Say whether a fused kernel takes these tensors (sdp_utils.cpp, can_use_*)."""
    if not all(yes(each.strides[-1] == 1) for each in (query, key, value)):
        return False
    size, value_size, half = query.shape[-1], value.shape[-1], query.dtype in HALF
    if not yes(query.shape[0] == key.shape[0]):
        return False
    shared = not yes(query.shape[1] == key.shape[1])
    if shared and not call.grouped:
        return False
    if kernel == "flash":
        square = not call.is_causal or yes(query.shape[2] == key.shape[2])
        return half and call.mask is None and square and yes(size == value_size) and yes(size <= FLASH_HEAD_DIM)
    step = ALIGNMENT if half else FP32_ALIGNMENT
    fits = yes(size % step == 0) and yes(value_size % step == 0)
    if kernel == "efficient":
        return fits and not shared
    short = yes(key.shape[2] == 1) or (call.rate > 0 and yes(query.shape[2] == 1))
    return (
        half
        and fits
        and yes(size <= CUDNN_HEAD_DIM)
        and yes(value_size <= CUDNN_HEAD_DIM)
        and not short
        and (call.rate * SIXTEENTH).is_integer()
    )
