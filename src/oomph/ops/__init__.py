"""The memory rule of each operation: what it allocates, what autograd saves, what its backward allocates.

Grouped by kind, one function per operation with its backward beside it. A rule is written in the order torch
works: record the node, save inputs, allocate the result, save results.
"""

from oomph.ops.activation import activate, gelu_new, silu, tanh
from oomph.ops.attention import attention, gpt2_attention
from oomph.ops.elementwise import add, cast, dropout, mean, mul, neg, power, rsqrt, softmax, sub, unary
from oomph.ops.indexing import (
    cat,
    contiguous,
    expand,
    part,
    rows,
    slice_axis,
    split,
    split_heads,
    transpose,
    unsqueeze,
    view,
)
from oomph.ops.loss import cross_entropy
from oomph.ops.masks import causal_mask
from oomph.ops.matmul import addmm, bmm, linear, matmul
from oomph.ops.norm import layer_norm
from oomph.ops.rotary import apply_rotary, choose_frequencies, longrope_frequencies, rotary_tables
from oomph.ops.rotary_kinds import joined, rotate
from oomph.ops.table import embedding

__all__ = [
    "activate",
    "add",
    "addmm",
    "apply_rotary",
    "attention",
    "bmm",
    "cast",
    "cat",
    "causal_mask",
    "choose_frequencies",
    "contiguous",
    "cross_entropy",
    "dropout",
    "embedding",
    "expand",
    "gelu_new",
    "gpt2_attention",
    "joined",
    "layer_norm",
    "linear",
    "longrope_frequencies",
    "matmul",
    "mean",
    "mul",
    "neg",
    "part",
    "power",
    "rotary_tables",
    "rotate",
    "rows",
    "rsqrt",
    "silu",
    "slice_axis",
    "softmax",
    "split",
    "split_heads",
    "sub",
    "tanh",
    "transpose",
    "unary",
    "unsqueeze",
    "view",
]
