"""Patches of images, and images put among the tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oomph.ops.elementwise import cast, grad, in_fp32
from oomph.ops.indexing import unsqueeze, view
from oomph.ops.kernel import run
from oomph.ops.matmul import autocast_argument
from oomph.ops.rotary import rotate_half
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import Size, product
from oomph.tape.sym import Sym, channels_last, is_channels_last, new
from oomph.workspaces import OUTPUTS, Buffer, Step


def conv_patches(x: Sym, weight: Sym, bias: Sym | None, patches: Sequence[Size]) -> Sym:
    """Return a convolution whose steps are as long as its kernel is wide: x [B, C, ...] to [B, O, *patches], weight
    [O, C, ...], bias [O]. Autocast casts all three.

    Saves x and the weight, whichever trains; backward makes the gradients that are wanted, with channels innermost
    where x has them so. cuDNN's own buffers are not known. Source: ATen/native/Convolution.cpp,
    determine_backend_memory_format; torch tools/autograd/derivatives.yaml (convolution).

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda x, weight: conv_patches(x, weight, None, (4, 4)), frozen(2, 3, 56, 56), (64, 3, 14, 14))
    Cost(allocated=4096, saved=112896, backward=75264)
    """
    bias = None if bias is None else autocast_argument(bias, cached=True)
    weight = autocast_argument(weight)
    x = autocast_argument(x)
    node = record("Convolution", (x, weight) if bias is None else (x, weight, bias), _conv_backward)
    save(node, x, weight)
    made = made_by(new(x.tape, (x.shape[0], weight.shape[0], *patches), x.dtype, op="convolution"), node)
    del bias, weight
    return made


def _conv_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    tape, inner = grad(gradients).tape, is_channels_last(saved[0])
    made: Gradients = []
    for at, (shape, dtype) in enumerate(node.inputs):
        strides = channels_last(shape) if inner and len(shape) == len(saved[0].shape) else None
        made.append(new(tape, shape, dtype, strides, op="convolution_backward") if node.needs(at) else None)
    return made


def unfolded(x: Sym, patch: Size) -> Sym:
    """Return F.unfold(x, patch, stride=patch) of images x [B, C, H, W]: [B, C · patch · patch, patches].

    Saves nothing; x wants no gradient. Source: ATen/native/cuda/Im2Col.cu.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda x: unfolded(x, 14), frozen(2, 3, 56, 56))
    Cost(allocated=37632, saved=0, backward=0)
    """
    batch, channels, height, width = x.shape
    patches = (height // patch) * (width // patch)
    return new(x.tape, (batch, channels * patch * patch, patches), x.dtype, op="im2col")


def pooled(x: Sym, side: Size) -> Sym:
    """Return the means of squares of x [B, H, P, P]: [B, H, side, side].

    Saves x; backward makes its gradient. Source: ATen/native/AveragePool2d.cpp; torch tools/autograd/derivatives.yaml
    (avg_pool2d).

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: pooled(x, 2), (2, 8, 4, 4))
    Cost(allocated=128, saved=512, backward=512)
    """
    node = record("AvgPool2D", (x,), _unpooled)
    save(node, x)
    return made_by(new(x.tape, (*x.shape[:2], side, side), x.dtype, op="avg_pool2d"), node)


def _unpooled(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    return [new(grad(gradients).tape, *node.inputs[0], op="avg_pool2d_backward")]


def pooled_pairs(x: Sym) -> Sym:
    """Return F.avg_pool1d(x, 2, 2) of x [B, H, T]: the means of neighbours, [B, H, T / 2]. What lies as [B, T, H] stays
    so.

    Saves x; backward makes its gradient. Source: ATen/native/Pooling.cpp, avg_pool1d; ATen/native/AveragePool2d.cpp.

    >>> from oomph.tape.testing import cost
    >>> cost(pooled_pairs, (2, 8, 16))
    Cost(allocated=256, saved=512, backward=512)
    """
    batch, hidden, length = x.shape
    half = length // 2
    node = record("AvgPool2D", (x,), _unpooled_pairs)
    save(node, x)
    strides = (half * hidden, half, 1) if x.is_contiguous() else (half * hidden, 1, hidden)
    return made_by(new(x.tape, (batch, hidden, half), x.dtype, strides, op="avg_pool2d"), node)


def _unpooled_pairs(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    x = saved[0]
    return [new(x.tape, x.shape, x.dtype, x.strides, op="avg_pool2d_backward")]


def sampled(x: Sym, places: Sym) -> Sym:
    """Return F.grid_sample(x, places, mode="bicubic") of x [1, C, H, W] at places [T, 2], both fp32: [C, T], without
    the axes of one that are left.

    Saves x and the places; backward makes x's gradient, and on a GPU one of the places beside it, which is dropped.
    Source: ATen/native/cuda/GridSampler.cpp, grid_sampler_2d_backward_cuda; torch tools/autograd/derivatives.yaml.

    >>> from oomph.tape.testing import Given, cost
    >>> places = Given((6, 2), "fp32", trains=False)
    >>> cost(sampled, Given((1, 8, 4, 4), "fp32"), places)
    Cost(allocated=192, saved=560, backward=560)
    """
    node = record("GridSampler2D", (x,), _sampled_backward)
    save(node, places, x)  # as the node keeps them
    return made_by(new(x.tape, (x.shape[1], places.shape[0]), x.dtype, op="grid_sampler_2d"), node)


def _sampled_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    places, x = saved
    own = new(x.tape, x.shape, x.dtype, op="grid_sampler_2d_backward")
    of_places = new(x.tape, places.shape, places.dtype, op="grid_sampler_2d_backward")
    del of_places
    return [own]


def interpolated(x: Sym, shape: tuple[Size, Size]) -> Sym:
    """Return F.interpolate(x, shape, mode="bilinear") of x [1, C, H, W]: [1, C, *shape], in fp32 under autocast.

    Saves nothing, sizes do; backward makes x's gradient. Source: ATen/native/cuda/UpSampleBilinear2d.cu; torch
    tools/autograd/derivatives.yaml (upsample_bilinear2d); ATen/autocast_mode.h, AT_FORALL_FP32.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: interpolated(x, (2, 3)), (1, 8, 4, 4))
    Cost(allocated=96, saved=0, backward=256)
    """
    x = in_fp32(x)
    node = record("UpsampleBilinear2D", (x,), _of_all_places)
    return made_by(new(x.tape, (*x.shape[:2], *shape), x.dtype, op="upsample_bilinear2d"), node)


def _of_all_places(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    return [new(grad(gradients).tape, *node.inputs[0], op="upsample_bilinear2d_backward")]


def squares(x: Sym, side: int) -> Sym:
    """Return F.unfold(x, side, stride=side) of x [1, C, P, Q]: each square of side · side places as a column, [1, C ·
    side², P · Q / side²], a new tensor.

    Saves nothing; backward folds the gradient back to x's shape. Both kernels first copy what they read if it is not
    contiguous. Source: ATen/native/cuda/Im2Col.cu, im2col_out_cuda_template, Col2Im.cu, col2im_out_cuda_template.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: squares(x, 2), (1, 64, 4, 6))
    Cost(allocated=3072, saved=0, backward=3072)
    """
    batch, channels, height, width = x.shape
    node = record("Im2Col", (x,), _folded)
    shape = (batch, channels * side**2, height * width // side**2)
    return made_by(run(x.tape, _read(x), lambda: new(x.tape, shape, x.dtype, op="im2col")), node)


def _folded(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, (shape, dtype) = grad(gradients), node.inputs[0]
    return [run(gradient.tape, _read(gradient), lambda: new(gradient.tape, shape, dtype, op="col2im"))]


def _read(x: Sym) -> tuple[Step, ...]:
    """Return the steps of a kernel that reads a contiguous tensor."""
    return (OUTPUTS,) if x.is_contiguous() else (Buffer("contiguous", x.shape, x.dtype), OUTPUTS)


def for_each(x: Sym, batch: Size) -> Sym:
    """Return x [H] as [B, 1, H], the same for each image: a view.

    Saves nothing; backward sums the gradient, of one image too, to one tensor. Source: ATen/native/TensorShape.cpp,
    expand; torch/csrc/autograd/FunctionsManual.cpp, sum_to.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: for_each(x, 2), (64,))
    Cost(allocated=0, saved=0, backward=128)
    """
    node = record("Expand", (x,), _summed)
    return made_by(Sym((batch, 1, *x.shape), x.dtype, (0, x.shape[0], *x.strides), x.storage), node)


def _summed(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    shape, dtype = node.inputs[0]
    return [new(grad(gradients).tape, shape, dtype, op="sum")]


def placeholders(input_ids: Sym, kinds: int = 1) -> list[Sym]:
    """Mirror get_placeholder_mask: booleans [B, S, 1] that say which tokens of input_ids [B, S] are an image's and, of
    two `kinds`, which are a video's.

    Beside them their numbers, that of images compared with the features', for a moment. Source: transformers 5.23,
    models/llava/modeling_llava.py, models/qwen2_vl/modeling_qwen2_vl.py.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(placeholders, ids(2, 8))
    Cost(allocated=34, saved=0, backward=0)
    """
    tape, (batch, length) = input_ids.tape, input_ids.shape
    masks = [tape.empty((batch, length), "bool", op="eq") for _ in range(kinds)]
    n_image_tokens = tape.empty((), "int64", op="sum")
    elements = tape.empty((), "int64", op="mul")
    equal = tape.empty((), "bool", op="eq")
    del elements
    all_true = tape.empty((), "bool", op="_is_all_true")
    del all_true
    del equal
    others = [tape.empty((), "int64", op="sum") for _ in range(kinds - 1)]
    del n_image_tokens, others
    return [Sym((batch, length, 1), "bool", (length, 1, 1), mask.storage) for mask in masks]


def in_order(x: Sym, order: Sym, together: int) -> Sym:
    """Return rows of x [T, H] in another order, `together` at a time: order [T / together] int64, a new tensor.

    Saves the order; backward adds the gradient's rows to zeros, under a trace in two tensors. Source: transformers
    5.23, models/qwen2_5_vl/modeling_qwen2_5_vl.py, permute_input_for_window_attn.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(lambda x, order: in_order(x, order, 4), (8, 64), ids(2))
    Cost(allocated=1024, saved=16, backward=1024)
    """
    total, width = x.shape
    groups = view(x, (total // together, together, width))
    node = record("Index", (groups,), _put_back)
    save(node, order)
    found = made_by(new(x.tape, groups.shape, x.dtype, op="index"), node)
    del groups
    return view(found, (total, width))


def _put_back(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, shape = grad(gradients), node.inputs[0][0]
    zeros = new(gradient.tape, shape, gradient.dtype, op="Index_backward")
    return [zeros if gradient.tape.on != "trace" else new(gradient.tape, shape, gradient.dtype, op="index_put")]


def sorted_order(order: Sym) -> Sym:
    """Return torch.argsort(order) of int64 [T]: beside it the sorted numbers, for a moment. Nothing is saved.

    Source: ATen/native/Sorting.cpp, argsort.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(sorted_order, ids(8))
    Cost(allocated=128, saved=0, backward=0)
    """
    values = new(order.tape, order.shape, "int64", op="sort")
    indices = new(order.tape, order.shape, "int64", op="sort")
    del values
    return indices


def rotary_vision(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Mirror apply_rotary_pos_emb_vision: q and k [T, N, D] turned in fp32 by cos and sin fp32 [T, D], cast back.

    Each of q and k takes a cast to fp32, a negated half and the halves joined, two products, their sum, and the cast
    back. Saves only the tables. Source: transformers 5.23, models/qwen2_vl/modeling_qwen2_vl.py.

    >>> from oomph.tape.testing import Given, cost
    >>> table = Given((4, 64), "fp32", trains=False)
    >>> cost(rotary_vision, (4, 2, 64), (4, 2, 64), table, table).allocated
    24576
    """
    orig_q_dtype, orig_k_dtype = q.dtype, k.dtype
    q, k = cast(q, "fp32"), cast(k, "fp32")
    cos, sin = unsqueeze(cos, 1), unsqueeze(sin, 1)
    q_embed = (q * cos) + (rotate_half(q) * sin)
    k_embed = (k * cos) + (rotate_half(k) * sin)
    q_embed = cast(q_embed, orig_q_dtype)
    k_embed = cast(k_embed, orig_k_dtype)
    return q_embed, k_embed


def masked_scatter(x: Sym, mask: Sym, source: Sym) -> Sym:
    """Return x.masked_scatter(mask, source): x [B, S, H] with the rows of a source [T, H] where a mask [B, S, 1] is
    set, a new tensor.

    Saves the mask; backward zeroes those places in a copy of the gradient, and picks them out of it for the source.
    CUDA makes a mask of x's size, and counts its places in int64 beside it. Source:
    ATen/native/cuda/IndexKernel.cpp, masked_scatter__cuda, and IndexKernel.cu, launch_masked_scatter_kernel;
    torch/csrc/autograd/FunctionsManual.cpp, masked_scatter_backward.

    >>> from oomph.tape.testing import Given, cost
    >>> cost(masked_scatter, (2, 4, 64), Given((2, 4, 1), "bool", trains=False), (3, 64))
    Cost(allocated=5632, saved=8, backward=6016)
    """
    node = record("MaskedScatter", (x, source), _scatter_backward)
    save(node, mask)
    steps = (OUTPUTS, Buffer("maskPrefixSum", x.shape, "int64"), Buffer("mask", x.shape, "bool"))
    return made_by(run(x.tape, steps, lambda: new(x.tape, x.shape, x.dtype, op="masked_scatter")), node)


def put_where(x: Sym, mask: Sym, values: Sym) -> Sym:
    """Return x [B, S, H] with the rows of values [T, H] where a mask [B, S] is set, written into x, which is handed
    back with its new history.

    Saves the mask; backward puts zeros there into a copy of the gradient, and picks the values' out of it. CUDA looks
    for the places (int64 pairs) each time. Source: torch tools/autograd/derivatives.yaml (index_put_);
    ATen/native/TensorAdvancedIndexing.cpp.

    >>> from oomph.tape.testing import Given, cost
    >>> cost(put_where, (2, 4, 64), Given((2, 4), "bool", trains=False), (3, 64))
    Cost(allocated=48, saved=8, backward=1888)
    """
    node = record("IndexPut", (x, values), _put_where_backward)
    save(node, mask)
    run(x.tape, (_places(mask, values.shape[0]), OUTPUTS), lambda: None)
    return made_by(x, node)


def _put_where_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, (_, (shape, dtype)) = grad(gradients), node.inputs
    tape, places = gradient.tape, _places(saved[0], shape[0])
    own = picked = None
    if node.needs(0):
        zeros = new(tape, shape, gradient.dtype, op="zeros")
        own = run(tape, (OUTPUTS, places), lambda: new(tape, gradient.shape, gradient.dtype, op="index_put"))
        del zeros
    if node.needs(1):
        picked = run(tape, (places, OUTPUTS), lambda: new(tape, shape, dtype, op="index"))
    return [own, picked]


def _places(mask: Sym, count: Size) -> Buffer:
    return Buffer("nonzero", (count, len(mask.shape)), "int64")


def _scatter_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, (_, (shape, dtype)) = grad(gradients), node.inputs
    tape, axes = gradient.tape, len(gradient.shape)
    own = picked = None
    if node.needs(0):
        own = new(tape, gradient.shape, gradient.dtype, op="masked_fill")
    if node.needs(1):
        steps = (Buffer("nonzero", (product(shape), axes), "int64"), OUTPUTS)
        picked = run(tape, steps, lambda: new(tape, shape, dtype, op="masked_select"))
    return [own, picked]
