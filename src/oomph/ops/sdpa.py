"""scaled_dot_product_attention: which kernel torch takes on CUDA, and what each fused one allocates and saves.

Shapes [B, N, S, D] for queries, [B, K, T, D] for keys and values: batch, heads, positions, head size. The choice
follows ATen/native/transformers/cuda/sdp_utils.cpp for compute capability 8.0 and more, as referee/sdpa.py does; the
math kernel has a file of its own. Scratch memory inside the kernels is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oomph.ops.elementwise import result
from oomph.ops.indexing import expand, pad_last, slice_axis
from oomph.ops.matmul import autocast_argument
from oomph.ops.sdpa_math import math_attention
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym, elementwise_strides, new

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
LOG_SUM_EXP_STEP = 32  # rows; mem_efficient_attention pads its log-sum-exp to a multiple


@dataclass(frozen=True)
class Call:
    """The other arguments of one call: a mask [B, 1, S, T] or none, dropout rate, and the two flags."""

    mask: Sym | None = None
    rate: float = 0.0
    is_causal: bool = False
    grouped: bool = False  # enable_gqa: keys may have fewer heads


def scaled_dot_product_attention(query: Sym, key: Sym, value: Sym, call: Call) -> Sym:
    """Return F.scaled_dot_product_attention on the kernel torch takes; autocast casts its arguments, the last first."""
    value = autocast_argument(value)
    key = autocast_argument(key)
    query = autocast_argument(query)
    with query.tape.without_autocast():
        return KERNELS[taken(query.tape.kernel, query, key, value, call)](query, key, value, call)


def taken(asked: str, query: Sym, key: Sym, value: Sym, call: Call) -> str:
    """Return the kernel that torch takes when one is asked for.

    >>> from oomph.tape import Tape
    >>> tape = Tape()
    >>> half, single = (tape.empty((1, 8, 64, 128), dtype) for dtype in ("bf16", "fp32"))
    >>> taken("flash", half, half, half, Call()), taken("flash", single, single, single, Call())
    ('flash', 'efficient')
    """
    return next((each for each in ORDER[asked] if usable(each, query, key, value, call)), "math")


def usable(kernel: str, query: Sym, key: Sym, value: Sym, call: Call) -> bool:
    """Say whether a fused kernel takes these tensors (sdp_utils.cpp, can_use_*)."""
    if not all(yes(each.strides[-1] == 1) for each in (query, key, value)):
        return False
    size, half = query.shape[-1], query.dtype in HALF
    shared = not yes(query.shape[1] == key.shape[1])
    if shared and not call.grouped:
        return False
    if kernel == "flash":
        square = not call.is_causal or yes(query.shape[2] == key.shape[2])
        return half and call.mask is None and square and yes(size <= FLASH_HEAD_DIM)
    fits = yes(size % (ALIGNMENT if half else FP32_ALIGNMENT) == 0)
    if kernel == "efficient":
        return fits and not shared
    short = yes(key.shape[2] == 1) or (call.rate > 0 and yes(query.shape[2] == 1))
    return half and fits and yes(size <= CUDNN_HEAD_DIM) and not short and (call.rate * SIXTEENTH).is_integer()


def _in_layout_of(x: Sym, op: str) -> Sym:
    strides = x.strides if x.is_dense() else elementwise_strides(x.shape, (x,))
    return new(x.tape, x.shape, x.dtype, strides, op)


def flash_attention(query: Sym, key: Sym, value: Sym, call: Call | None = None) -> Sym:
    """Return flash attention: saves k, q, v, the fp32 log-sum-exp [B, N, S], the output and the random state.

    Keys and values may have fewer heads. Head sizes are padded to a multiple of 8 and cut again. Output and gradients
    keep the memory order of the inputs. Source: ATen/native/transformers/attention.cpp (pad_last_dim) and
    cuda/attention.cu, _scaled_dot_product_flash_attention.

    Output 2·128·64·2 B, log-sum-exp 2·64·4 B, random state 24 B:
    >>> from oomph.tape import Tape
    >>> tape = Tape()
    >>> q = tape.parameter((1, 2, 64, 128), "bf16")
    >>> sum(one.storage.n_bytes for one in flash_attention(q, q, q).node.saved[3:])
    33304
    """
    size = query.shape[-1]
    if yes(size % ALIGNMENT == 0):
        return _flash(query, key, value)
    missing = ALIGNMENT - size % ALIGNMENT
    query, key, value = pad_last(query, missing), pad_last(key, missing), pad_last(value, missing)
    return slice_axis(_flash(query, key, value), -1, 0, size)


def _flash(query: Sym, key: Sym, value: Sym) -> Sym:
    op = "_scaled_dot_product_flash_attention"
    node = record("Flash", (query, key, value), _same_layout_backward)
    save(node, key, query, value)
    tape, (batch, heads, length, _) = query.tape, query.shape
    out = _in_layout_of(query, op)
    log_sum_exp = new(tape, (batch, heads, length), "fp32", op=op)
    seed = new(tape, (2,), "uint64", op=op)
    offset = new(tape, (), "uint64", op=op)
    save(node, log_sum_exp, out, seed, offset)
    del offset, seed, log_sum_exp  # the C++ result dies back to front
    return made_by(out, node)


def _same_layout_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    key, query, value = saved[:3]
    results: Gradients = [_in_layout_of(one, f"{node.name}_backward") for one in (query, key, value)]
    del key, query, value
    return results


def efficient_attention(query: Sym, key: Sym, value: Sym, call: Call) -> Sym:
    """Return memory-efficient attention: saves mask, k, q, v, log-sum-exp, the output and the random state.

    A boolean mask becomes numbers [B, 1, S, T], its rows padded to 8 elements, shared by all heads. The fp32
    log-sum-exp has its rows padded to 32 and is there only for a backward pass. Output and gradients lie as
    [B, S, N, D]. Source: ATen/native/transformers/cuda/attention.cu, _scaled_dot_product_efficient_attention, and
    attention.cpp, preprocess_mask.

    Output 2·100·64·2 B, log-sum-exp 2·128·4 B, random state 16 B:
    >>> from oomph.tape import Tape
    >>> tape = Tape()
    >>> q = tape.parameter((1, 2, 100, 64), "bf16")
    >>> sum(one.storage.n_bytes for one in efficient_attention(q, q, q, Call()).node.saved[4:])
    26640
    """
    op = "_scaled_dot_product_efficient_attention"
    mask = _for_every_head(additive(call.mask, query.dtype), query, key)
    node = record("Efficient", (query, key, value), _efficient_backward)
    save(node, mask, key, query, value)
    tape, (batch, heads, length, size) = query.tape, query.shape
    out = _heads_inside(tape, (batch, heads, length, size), query.dtype, op)
    rows = (length + LOG_SUM_EXP_STEP - 1) // LOG_SUM_EXP_STEP * LOG_SUM_EXP_STEP
    log_sum_exp = new(tape, (batch, heads, rows), "fp32", op=op) if node is not None else None
    seed = new(tape, (), "int64", op=op)
    offset = new(tape, (), "int64", op=op)
    save(node, log_sum_exp, out, offset, seed)
    del offset, seed, log_sum_exp
    return made_by(out, node)


def _efficient_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    tape = saved[1].tape
    return [_heads_inside(tape, shape, dtype, "Efficient_backward") for shape, dtype in node.inputs]


def _heads_inside(tape: Any, shape: tuple[Size, ...], dtype: str, op: str) -> Sym:
    """Return a new [B, N, S, D] tensor that lies in memory as [B, S, N, D]."""
    _, heads, length, size = shape
    return new(tape, shape, dtype, (length * heads * size, size, heads * size, 1), op)


def cudnn_attention(query: Sym, key: Sym, value: Sym, call: Call) -> Sym:
    """Return cuDNN attention: saves mask, k, q, v, log-sum-exp [B, N, S, 1] fp32, the output and the random state.

    A boolean mask becomes numbers. Source: ATen/native/transformers/cuda/attention.cu,
    _scaled_dot_product_cudnn_attention.

    Output 2·64·128·2 B, log-sum-exp 2·64·4 B, random state 16 B:
    >>> from oomph.tape import Tape
    >>> tape = Tape()
    >>> q = tape.parameter((1, 2, 64, 128), "bf16")
    >>> sum(one.storage.n_bytes for one in cudnn_attention(q, q, q, Call()).node.saved[4:])
    33296
    """
    op = "_scaled_dot_product_cudnn_attention"
    mask = additive(call.mask, query.dtype)
    node = record("Cudnn", (query, key, value), _cudnn_backward)
    save(node, mask, key, query, value)
    tape, (batch, heads, length, _) = query.tape, query.shape
    out = _in_layout_of(query, op)
    log_sum_exp = new(tape, (batch, heads, length, 1), "fp32", op=op)
    seed = new(tape, (), "int64", op=op)
    offset = new(tape, (), "int64", op=op)
    save(node, log_sum_exp, out, offset, seed)
    del offset, seed, log_sum_exp
    return made_by(out, node)


def _cudnn_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    return _same_layout_backward(node, gradients, saved[1:])


def _math(query: Sym, key: Sym, value: Sym, call: Call) -> Sym:
    mask = additive(call.mask, query.dtype)
    return math_attention(query, key, value, mask, call.rate, call.is_causal, call.grouped)


KERNELS = {
    "flash": flash_attention,
    "efficient": efficient_attention,
    "cudnn": cudnn_attention,
    "math": _math,
}


def additive(mask: Sym | None, dtype: str) -> Sym | None:
    """Return a boolean mask as 0 and minus infinity in a dtype (attention.cpp, convert_boolean_attn_mask)."""
    if mask is None:
        return None
    infinity = mask.tape.empty((), dtype, op="scalar_tensor")
    zero = mask.tape.empty((), dtype, op="scalar_tensor")
    numbers = result("where", mask.shape, dtype, mask)
    del zero, infinity
    return numbers


def _for_every_head(mask: Sym | None, query: Sym, key: Sym) -> Sym | None:
    """Return a mask with aligned rows for every head (attention.cpp, preprocess_mask)."""
    if mask is None:
        return None
    width = mask.shape[-1]
    if not all(yes(stride % ALIGNMENT == 0) for stride in mask.strides[:-1]):
        # C++ pads a full 8 where the width is a multiple of 8 already but another stride is not.
        mask = slice_axis(pad_last(mask, ALIGNMENT - width % ALIGNMENT), -1, 0, width)
    return expand(mask, (*query.shape[:3], key.shape[2]))
