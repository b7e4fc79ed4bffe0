"""The memory rule of each operation: what it allocates, what autograd saves, what its backward allocates.

Grouped by kind, one function per operation with its backward beside it. A rule is written in the order torch
works: record the node, save inputs, allocate the result, save results.
"""

from oomph.ops.activation import activate, gelu_new, silu, tanh
from oomph.ops.attention import attention, gpt2_attention
from oomph.ops.elementwise import add, add_, cast, dropout, mean, mul, neg, power, rsqrt, softmax, unary
from oomph.ops.indexing import (
    cat,
    contiguous,
    expand,
    leading,
    rows,
    slice_axis,
    split,
    split_sizes,
    transpose,
    unsqueeze,
    view,
)
from oomph.ops.loss import cross_entropy, fused_cross_entropy
from oomph.ops.masks import causal_mask
from oomph.ops.matmul import addmm, bmm, linear, matmul
from oomph.ops.norm import layer_norm
from oomph.ops.reduce import divided, mean_of_all, total
from oomph.ops.rotary import apply_partial_rotary, apply_rotary, rotary_buffers, rotary_tables
from oomph.ops.table import embedding

__all__ = [
    "activate",
    "add",
    "add_",
    "addmm",
    "apply_partial_rotary",
    "apply_rotary",
    "attention",
    "bmm",
    "cast",
    "cat",
    "causal_mask",
    "contiguous",
    "cross_entropy",
    "divided",
    "dropout",
    "embedding",
    "expand",
    "fused_cross_entropy",
    "gelu_new",
    "gpt2_attention",
    "layer_norm",
    "leading",
    "linear",
    "matmul",
    "mean",
    "mean_of_all",
    "mul",
    "neg",
    "power",
    "rotary_buffers",
    "rotary_tables",
    "rows",
    "rsqrt",
    "silu",
    "slice_axis",
    "softmax",
    "split",
    "split_sizes",
    "tanh",
    "total",
    "transpose",
    "unary",
    "unsqueeze",
    "view",
]
