"""scaled_dot_product_attention on CUDA: what each fused kernel allocates and saves.

Shapes [B, N, S, D] for queries, [B, K, T, D] for keys and values: batch, heads, positions, head size. Which kernel
torch takes is in kernel_choice.py, the math kernel in sdpa_math.py, the buffers inside a kernel in workspaces.py; a
tape does not know its device, so they are those of compute capability 8.0 (A100).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.attention_workspaces import efficient_backward, flash_backward, flash_forward
from oomph.ops.elementwise import grad, result
from oomph.ops.indexing import expand, swapped
from oomph.ops.joining import pad_last
from oomph.ops.kernel import run
from oomph.ops.kernel_choice import ALIGNMENT, Call, taken
from oomph.ops.matmul import autocast_argument
from oomph.ops.sdpa_math import math_attention
from oomph.ops.slices import slice_axis
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.selective import selected
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym, elementwise_strides, new
from oomph.workspaces import OUTPUTS, Buffer, Step

LOG_SUM_EXP_STEP = 32  # rows; mem_efficient_attention pads its log-sum-exp to a multiple


def scaled_dot_product_attention(query: Sym, key: Sym, value: Sym, call: Call) -> Sym:
    """Return F.scaled_dot_product_attention of q [B, N, S, D] and k, v [B, K, T, D] on the kernel that torch takes: a
    new [B, N, S, D]. Autocast casts its arguments, the last first.

    Saves what the kernel taken saves, under autocast the casts. Source: ATen/native/transformers/attention.cpp,
    scaled_dot_product_attention; ATen/autocast_mode.h lists it in the lower precision.

    fp32 is nothing for flash, so memory-efficient: q, k, v, output 64·2·128·4 B each, log-sum-exp 2·64·4 B, random
    state 16 B; in backward three gradients, a product as large, two sums of 2·64·4 B, and for each head two tiles of
    128·64 numbers of 4 B with locks of 16 B.
    >>> from oomph.tape.testing import attending, cost, fp32
    >>> cost(attending(scaled_dot_product_attention, Call()), *[fp32(1, 64, 2, 128)] * 3)
    Cost(allocated=66064, saved=262672, backward=394304)
    """
    if call.mask is not None and call.mask.dtype != "bool":
        call = replace(call, mask=autocast_argument(call.mask))
    value = autocast_argument(value)
    key = autocast_argument(key)
    query = autocast_argument(query)
    with query.tape.without_autocast():
        return KERNELS[taken(query.tape.kernel, query, key, value, call)](query, key, value, call)


def _in_layout_of(x: Sym, op: str, width: Size | None = None) -> Sym:
    """Return a new tensor in the memory order of x, of another width if that is given (alloc_with_matching_layout)."""
    if width is not None and not yes(width == x.shape[-1]):
        shape = (*x.shape[:-1], width)
        return new(x.tape, shape, x.dtype, elementwise_strides(shape, (x,)), op)
    strides = x.strides if x.is_dense() else elementwise_strides(x.shape, (x,))
    return new(x.tape, x.shape, x.dtype, strides, op)


def flash_attention(query: Sym, key: Sym, value: Sym, call: Call | None = None) -> Sym:
    """Return flash attention of q [B, N, S, D] and k, v [B, K, T, D]: a new [B, N, S, D], scores are never written out.

    Saves k, q, v and the output, from which backward computes the scores again tile by tile, the fp32 log-sum-exp
    [B, N, S] that makes them probabilities, and the random state, which repeats the dropout. Keys and values may have
    fewer heads. Head sizes are padded to a multiple of 8 and cut again. Output and gradients keep the memory order of
    the inputs. Backward adds up the gradient of q in fp32 (workspaces.flash_backward), and first copies the output and
    its gradient if they do not lie in memory as [B, S, N, D], as after padding. Source:
    ATen/native/transformers/attention.cpp (pad_last_dim); cuda/attention.cu, _scaled_dot_product_flash_attention;
    cuda/attention_backward.cu, _flash_attention_backward.

    q, k, v and output 64·2·128·2 B each, log-sum-exp 2·64·4 B, random state 24 B; in backward three gradients, 64
    positions padded to 128: 2·128·4 B of sums, 128·2·128·4 B of q's gradient.
    >>> from oomph.tape.testing import attending, cost
    >>> cost(attending(flash_attention), *[(1, 64, 2, 128)] * 3)
    Cost(allocated=33304, saved=131608, backward=230400)
    """
    size = query.shape[-1]
    drops = call is not None and call.rate > 0
    if yes(size % ALIGNMENT == 0):
        return _flash(query, key, value, drops)
    missing = ALIGNMENT - size % ALIGNMENT
    query, key, value = pad_last(query, missing), pad_last(key, missing), pad_last(value, missing)
    return slice_axis(_flash(query, key, value, drops), -1, 0, size)


def _flash(query: Sym, key: Sym, value: Sym, drops: bool) -> Sym:
    op = "_scaled_dot_product_flash_attention"
    node = record("Flash", (query, key, value), _flash_backward)
    save(node, key, query, value)
    tape, (batch, heads, length, head_size) = query.tape, query.shape

    def made() -> tuple[Sym, Sym, Sym, Sym]:
        out = _in_layout_of(query, op)
        log_sum_exp = new(tape, (batch, heads, length), "fp32", op=op)
        splits: tuple[Step, ...] = (OUTPUTS,)
        if not drops and tape.on == "gpu":
            splits = flash_forward(batch, heads, length, head_size, key.shape[2])
        states = run(tape, splits, lambda: (new(tape, (2,), "uint64", op=op), new(tape, (), "uint64", op=op)))
        return (out, log_sum_exp, *states)

    out, log_sum_exp, seed, offset = selected(tape, "attention", made)
    save(node, log_sum_exp, out, seed, offset)
    if tape.on == "gpu":  # a C++ result dies front to back, in a trace Python's back to front
        del log_sum_exp, seed, offset
    else:
        del offset, seed, log_sum_exp
    return made_by(out, node)


def _flash_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    key, query, _, _, out = saved[:5]
    batch, heads, length, size = query.shape
    steps = (
        *_copies(grad_out=grad(gradients), out=out),
        *flash_backward(batch, heads, key.shape[1], length, size, query.dtype, key.shape[2]),
    )
    return run(query.tape, steps, lambda: _same_layout_backward(node, gradients, saved))


def _copies(**tensors: Sym) -> tuple[Step, ...]:
    """Return the copies a kernel makes of [B, N, S, D] tensors that do not lie in memory as [B, S, N, D]."""
    return tuple(
        Buffer(name, one.shape, one.dtype) for name, one in tensors.items() if not swapped(one, 1, 2).is_contiguous()
    )


def _same_layout_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    key, query, value = saved[:3]
    results: Gradients = [_in_layout_of(one, f"{node.name}_backward") for one in (query, key, value)]
    del key, query, value
    return results


def efficient_attention(query: Sym, key: Sym, value: Sym, call: Call) -> Sym:
    """Return memory-efficient attention of q [B, N, S, D] and k, v [B, N, T, D]: a new [B, N, S, D].

    Saves mask, k, q, v and the output, from which backward computes the scores again, the fp32 log-sum-exp, its rows
    padded to 32 and there only for a backward pass, and the random state. A boolean mask becomes numbers [B, 1, S, T],
    its rows padded to 8 elements, shared by all heads. Output and gradients lie as [B, S, N, D]. Backward adds up the
    gradient of q in fp32 (workspaces.efficient_backward), and first copies the output's gradient if it does not lie so.
    Source: ATen/native/transformers/cuda/attention.cu, _scaled_dot_product_efficient_attention; attention.cpp,
    preprocess_mask; cuda/attention_backward.cu, _efficient_attention_backward.

    q, k, v and output 100·2·64·2 B each, log-sum-exp 2·128·4 B, random state 16 B; in backward three gradients,
    2·100·4 B of sums, and for each head two tiles of 64·64 numbers of 4 B with locks of 16 B.
    >>> from oomph.tape.testing import attending, cost
    >>> cost(attending(efficient_attention, Call()), *[(1, 100, 2, 64)] * 3)
    Cost(allocated=26640, saved=103440, backward=143200)
    """
    op = "_scaled_dot_product_efficient_attention"
    mask = _for_every_head(additive(call.mask, query.dtype), query, key)
    node = record("Efficient", (query, key, value), _efficient_backward)
    save(node, mask, key, query, value)
    tape, (batch, heads, length, _) = query.tape, query.shape

    def made() -> tuple[Sym, Sym | None, Sym, Sym]:
        out = _heads_inside(tape, (batch, heads, length, value.shape[-1]), query.dtype, op)
        rows = (length + LOG_SUM_EXP_STEP - 1) // LOG_SUM_EXP_STEP * LOG_SUM_EXP_STEP
        log_sum_exp = new(tape, (batch, heads, rows), "fp32", op=op) if node is not None else None
        return out, log_sum_exp, new(tape, (), "int64", op=op), new(tape, (), "int64", op=op)

    out, log_sum_exp, seed, offset = selected(tape, "attention", made)
    save(node, log_sum_exp, out, offset, seed)
    del offset, seed, log_sum_exp
    return made_by(out, node)


def _efficient_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    tape, (batch, heads, length, value_size) = gradient.tape, gradient.shape
    size = node.inputs[0][0][-1]
    backward = efficient_backward(batch, heads, length, size, gradient.dtype, value_size=value_size)
    steps = (*_copies(grad_out=gradient), *backward)
    op = "Efficient_backward"
    return run(tape, steps, lambda: [_heads_inside(tape, shape, dtype, op) for shape, dtype in node.inputs])


def _heads_inside(tape: Any, shape: tuple[Size, ...], dtype: str, op: str) -> Sym:
    """Return a new [B, N, S, D] tensor that lies in memory as [B, S, N, D]."""
    _, heads, length, size = shape
    return new(tape, shape, dtype, (length * heads * size, size, heads * size, 1), op)


def cudnn_attention(query: Sym, key: Sym, value: Sym, call: Call) -> Sym:
    """Return cuDNN attention of q [B, N, S, D] and k, v [B, K, T, D]: a new [B, N, S, D] in the memory order of q.

    Saves mask, k, q, v and the output, from which backward computes the scores again, the fp32 log-sum-exp
    [B, N, S, 1] and the random state. A boolean mask becomes numbers. cuDNN's own workspace is not known and not
    counted. Source: ATen/native/transformers/cuda/attention.cu, _scaled_dot_product_cudnn_attention;
    cuda/attention_backward.cu, _cudnn_attention_backward.

    q, k, v and output 64·2·128·2 B each, log-sum-exp 2·64·4 B, random state 16 B; in backward three gradients.
    >>> from oomph.tape.testing import attending, cost
    >>> cost(attending(cudnn_attention, Call()), *[(1, 64, 2, 128)] * 3)
    Cost(allocated=33296, saved=131600, backward=98304)
    """
    op = "_scaled_dot_product_cudnn_attention"
    mask = additive(call.mask, query.dtype)
    node = record("Cudnn", (query, key, value), _cudnn_backward)
    save(node, mask, key, query, value)
    tape, (batch, heads, length, _) = query.tape, query.shape

    def made() -> tuple[Sym, Sym, Sym, Sym]:
        out = _in_layout_of(query, op, value.shape[-1])
        log_sum_exp = new(tape, (batch, heads, length, 1), "fp32", op=op)
        return out, log_sum_exp, new(tape, (), "int64", op=op), new(tape, (), "int64", op=op)

    out, log_sum_exp, seed, offset = selected(tape, "attention", made)
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
    """Return a mask of numbers as it is, a boolean one as 0 and minus infinity in a dtype: a new tensor of its shape,
    made in every layer again; the two numbers are scalars for a moment. Without a mask nothing.

    Source: ATen/native/transformers/attention.cpp, convert_boolean_attn_mask.

    >>> from oomph.tape.testing import Given, cost
    >>> cost(lambda mask: additive(mask, "bf16"), Given((1, 1, 64, 64), "bool", trains=False))
    Cost(allocated=8196, saved=0, backward=0)
    """
    if mask is None or mask.dtype != "bool":
        return mask
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
