"""The memory rule of each operation: what it allocates, what autograd saves, what its backward allocates.

Grouped by kind, one function per operation with its backward beside it. A rule is written in the order torch
works: record the node, save inputs, allocate the result, save results.
"""

from oomph.ops.activation import activate, gelu_new, sigmoid, silu, tanh
from oomph.ops.attention import attention, gpt2_attention, sink_attention
from oomph.ops.elementwise import add, add_in_place, cast, clamp, clamp_both, dropout, masked_fill, mean, mul, neg, power, rsqrt, softmax, softmax_as_is, softmax_in_fp32, sub, unary
from oomph.ops.grouped import grouped_mm
from oomph.ops.indexing import (
    cat,
    contiguous,
    copy_into_slice,
    every_other,
    expand,
    rows,
    slice_axis,
    split,
    split_sizes,
    transpose,
    unsqueeze,
    view,
)
from oomph.ops.loss import cross_entropy
from oomph.ops.masks import causal_mask
from oomph.ops.matmul import addmm, bmm, linear, matmul
from oomph.ops.norm import layer_norm
from oomph.ops.rotary import (
    apply_rotary,
    apply_rotary_complex,
    apply_rotary_halves,
    apply_rotary_interleaved,
    complex_tables,
    half_tables,
    rotary_tables,
)
from oomph.ops.routing import divide_in_place, gather, histogram, largest, sort, sum_over, take, topk
from oomph.ops.table import embedding

__all__ = [
    "activate",
    "add",
    "add_in_place",
    "addmm",
    "apply_rotary",
    "apply_rotary_complex",
    "apply_rotary_halves",
    "apply_rotary_interleaved",
    "attention",
    "bmm",
    "cast",
    "cat",
    "causal_mask",
    "clamp",
    "clamp_both",
    "complex_tables",
    "contiguous",
    "copy_into_slice",
    "cross_entropy",
    "divide_in_place",
    "dropout",
    "embedding",
    "every_other",
    "expand",
    "gather",
    "gelu_new",
    "gpt2_attention",
    "grouped_mm",
    "half_tables",
    "histogram",
    "largest",
    "layer_norm",
    "linear",
    "masked_fill",
    "matmul",
    "mean",
    "mul",
    "neg",
    "power",
    "rotary_tables",
    "rows",
    "rsqrt",
    "sigmoid",
    "silu",
    "sink_attention",
    "slice_axis",
    "softmax",
    "softmax_as_is",
    "softmax_in_fp32",
    "sort",
    "split",
    "split_sizes",
    "sub",
    "sum_over",
    "take",
    "tanh",
    "topk",
    "transpose",
    "unary",
    "unsqueeze",
    "view",
]
