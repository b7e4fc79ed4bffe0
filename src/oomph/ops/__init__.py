"""The memory rule of each operation: what it allocates, what autograd saves, what its backward allocates.

Grouped by kind, one function per operation with its backward beside it. A rule is written in the order torch
works: record the node, save inputs, allocate the result, save results.
"""

from oomph.ops.activation import activate, gelu_new, silu, tanh
from oomph.ops.alibi import alibi_mask, alibi_of_length, alibi_of_mask, alibi_slopes, counted_along, falcon_alibi
from oomph.ops.attention import attention, encoder_attention, gpt2_attention
from oomph.ops.elementwise import (
    add,
    add_,
    cast,
    dropout,
    mean,
    mul,
    mul_,
    neg,
    power,
    rsqrt,
    softmax,
    softmax_as,
    softmax_in_fp32,
    unary,
)
from oomph.ops.indexing import (
    as_int32,
    cat,
    contiguous,
    expand,
    index,
    leading,
    picked,
    rows,
    select,
    slice_axis,
    split,
    split_sizes,
    transpose,
    unsqueeze,
    view,
)
from oomph.ops.loss import cross_entropy
from oomph.ops.masks import as_numbers, bidirectional_mask, causal_mask
from oomph.ops.matmul import addmm, autocast_argument, bmm, linear, linear_unfused, matmul
from oomph.ops.norm import layer_norm
from oomph.ops.rotary import apply_partial_rotary, apply_rotary, rotary_buffers, rotary_tables
from oomph.ops.table import embedding, embedding_at

__all__ = [
    "activate",
    "add",
    "add_",
    "addmm",
    "alibi_mask",
    "alibi_of_length",
    "alibi_of_mask",
    "alibi_slopes",
    "apply_partial_rotary",
    "apply_rotary",
    "as_int32",
    "as_numbers",
    "attention",
    "autocast_argument",
    "bidirectional_mask",
    "bmm",
    "cast",
    "cat",
    "causal_mask",
    "contiguous",
    "counted_along",
    "cross_entropy",
    "dropout",
    "embedding",
    "embedding_at",
    "encoder_attention",
    "expand",
    "falcon_alibi",
    "gelu_new",
    "gpt2_attention",
    "index",
    "layer_norm",
    "leading",
    "linear",
    "linear_unfused",
    "matmul",
    "mean",
    "mul",
    "mul_",
    "neg",
    "picked",
    "power",
    "rotary_buffers",
    "rotary_tables",
    "rows",
    "rsqrt",
    "select",
    "silu",
    "slice_axis",
    "softmax",
    "softmax_as",
    "softmax_in_fp32",
    "split",
    "split_sizes",
    "tanh",
    "transpose",
    "unary",
    "unsqueeze",
    "view",
]
