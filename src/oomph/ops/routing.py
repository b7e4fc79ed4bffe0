"""Sending tokens to experts and back: the largest scores, sorting, picking rows, counting.

Shape letters: T tokens, E experts, k experts of a token, M = T·k pairs of token and expert, H hidden.
"""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import grad, result, wider
from oomph.ops.indexing import unsqueeze
from oomph.ops.kernel import run
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import Size, product
from oomph.tape.sym import Sym, broadcast, new
from oomph.workspaces import index_put_with_sort, sort_pairs


def topk(x: Sym, number: Size) -> tuple[Sym, Sym]:
    """Return the `number` largest of x [.., E] over the last axis: values in x's dtype and int64 indices, [.., k].

    Saves the indices: backward scatters the values' gradients into zeros shaped like x, in place; under a trace into a
    copy of them. Up to 4096 values CUDA sorts them where they are. Source: torch
    tools/autograd/derivatives.yaml (topk), torch/csrc/autograd/FunctionsManual.cpp, value_selecting_reduction_backward;
    ATen/native/cuda/TensorTopK.cpp.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(lambda x: topk(x, 2), fp32(100, 8))
    Cost(allocated=2400, saved=1600, backward=3200)
    """
    node = record("Topk", (x,), _into_zeros, outputs=2)
    shape = (*x.shape[:-1], number)
    values = new(x.tape, shape, x.dtype, op="topk")
    indices = new(x.tape, shape, "int64", op="topk")
    save(node, indices)
    return made_by(values, node), indices


def largest(x: Sym, keepdim: bool = False) -> Sym:
    """Return x.max(-1).values of x [.., E]: [..], or [.., 1]; the int64 indices are made too.

    Saves the indices: backward scatters the gradient into zeros shaped like x, in place; under a trace into a copy of
    them. Source: torch/csrc/autograd/FunctionsManual.cpp, value_selecting_reduction_backward.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(largest, fp32(100, 8))
    Cost(allocated=1200, saved=800, backward=3200)
    """
    node = record("Max", (x,), _into_zeros)
    shape = (*x.shape[:-1], 1) if keepdim else x.shape[:-1]
    values = new(x.tape, shape, x.dtype, op="max")
    indices = new(x.tape, shape, "int64", op="max")
    save(node, indices)
    del indices
    return made_by(values, node)


def amax(x: Sym) -> Sym:
    """Return x.amax(-1) of x [.., E]: [..], without indices.

    Saves x and the result. Backward compares the two, keeps the gradient where they are equal and divides it by how
    many are. Source: torch tools/autograd/derivatives.yaml (amax), torch/csrc/autograd/FunctionsManual.cpp,
    scale_grad_by_count.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(amax, fp32(100, 8))
    Cost(allocated=400, saved=3600, backward=8000)
    """
    node = record("Amax", (x,), _amax_backward)
    out = new(x.tape, x.shape[:-1], x.dtype, op="amax")
    save(node, x, out)
    return made_by(out, node)


def _amax_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, x = grad(gradients), saved[0]
    mask = result("eq", x.shape, "bool", x)
    own = result("mul", x.shape, gradient.dtype, mask)
    count = new(x.tape, (*x.shape[:-1], 1), "int64", op="sum")
    own = result("div", x.shape, gradient.dtype, own)
    del mask, count, x
    return [own]


def max_with_index(x: Sym) -> tuple[Sym, Sym]:
    """Return x.max(-1, keepdim=True) of x [.., E]: the values and int64 indices, [.., 1] each.

    Saves the indices: backward as that of `largest`. Source: torch/csrc/autograd/FunctionsManual.cpp,
    value_selecting_reduction_backward.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(lambda x: max_with_index(x)[0], fp32(100, 8))
    Cost(allocated=1200, saved=800, backward=3200)
    """
    node = record("Max", (x,), _into_zeros)
    shape = (*x.shape[:-1], 1)
    values = new(x.tape, shape, x.dtype, op="max")
    indices = new(x.tape, shape, "int64", op="max")
    save(node, indices)
    return made_by(values, node), indices


def gather(x: Sym, index: Sym) -> Sym:
    """Return x.gather(-1, index): of x [.., E] the values at int64 indices [.., k].

    Saves the index, and x for nothing but its shape: backward adds the gradient to zeros shaped like x, in place; under
    a trace to a copy of them.
    Source: torch/csrc/autograd/FunctionsManual.cpp, gather_backward.

    >>> from oomph.tape.testing import cost, fp32, ids
    >>> cost(gather, fp32(100, 8), ids(100, 2))
    Cost(allocated=800, saved=4800, backward=3200)
    """
    node = record("Gather", (x,), _into_zeros)
    save(node, index, x)
    return made_by(new(x.tape, index.shape, x.dtype, op="gather"), node)


def scatter(values: Sym, index: Sym, width: Size) -> Sym:
    """Return numbers [T, E] that are one number but at int64 indices [T, k] of E, where they are `values` [T, k].

    Saves the index: backward gathers from the gradient, one tensor like the values. Source: torch
    tools/autograd/derivatives.yaml (scatter.src).

    >>> from oomph.tape.testing import cost, fp32, ids
    >>> cost(lambda values, index: scatter(values, index, 8), fp32(100, 2), ids(100, 2))
    Cost(allocated=3200, saved=1600, backward=800)
    """
    whole = new(values.tape, (*values.shape[:-1], width), values.dtype, op="full_like")
    node = record("Scatter", (values,), _gathered)
    save(node, index)
    return made_by(whole, node)


def _gathered(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    return [new(grad(gradients).tape, node.inputs[0][0], node.inputs[0][1], op="gather")]


def _into_zeros(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    """Return zeros shaped like the input with the gradient written in: in place but under a trace."""
    gradient = grad(gradients)
    return [_filled(gradient, node.inputs[0][0], "scatter")]


def _filled(gradient: Sym, shape: Any, op: str) -> Sym:
    zeros = new(gradient.tape, shape, gradient.dtype, op="new_zeros")
    return zeros if gradient.tape.on != "trace" else new(gradient.tape, shape, gradient.dtype, op=op)


def sort(x: Sym) -> tuple[Sym, Sym]:
    """Return the values of x [M] in order, and int64 indices of where they stood. No gradient: x are integers.

    Up to 4096 values CUDA sorts them where they are, above with buffers (workspaces.sort_pairs). Source:
    ATen/native/cuda/Sort.cpp, sort_cuda_kernel.

    Above: indices of 8·8192 B and cub's second copy of values and indices.
    >>> from oomph.tape.testing import cost, ids
    >>> cost(sort, ids(4096)), cost(sort, ids(8192)).allocated - 2 * 8 * 8192
    (Cost(allocated=65536, saved=0, backward=0), 196608)
    """
    tape = x.tape
    values = new(tape, x.shape, x.dtype, op="sort")
    indices = new(tape, x.shape, "int64", op="sort")
    run(tape, sort_pairs(product(x.shape)), lambda: None)
    return values, indices


def take(x: Sym, index: Sym) -> Sym:
    """Return x[index]: rows of x [T, H] at int64 [M], a new [M, H]; of a vector [T] values [M].

    Saves the index: backward adds the gradient's rows to zeros as large as x, in place, under a trace to a copy of
    them. CUDA sorts the indices for it (workspaces.index_put_with_sort). Source:
    ATen/native/TensorAdvancedIndexing.cpp, index; torch/csrc/autograd/FunctionsManual.cpp, index_backward.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(take, (100, 64), ids(200))
    Cost(allocated=25600, saved=1600, backward=24000)
    """
    node = record("Index", (x,), _take_backward)
    save(node, index)
    return made_by(new(x.tape, (*index.shape, *x.shape[1:]), x.dtype, op="index"), node)


def _take_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, (shape, dtype) = grad(gradients), node.inputs[0]
    zeros = new(gradient.tape, shape, dtype, op="new_zeros")
    if gradient.tape.on == "trace":
        return [new(gradient.tape, shape, dtype, op="index_put")]
    run(gradient.tape, index_put_with_sort(product(saved[0].shape)), lambda: None)
    return [zeros]


def take_pairs(x: Sym, rows: Sym, columns: Sym) -> Sym:
    """Return x[rows, columns, None] of x [T, k] at int64 [n]: a new [n, 1].

    Saves both indices: backward adds the gradient to zeros as large as x, as take's. Source:
    ATen/native/TensorAdvancedIndexing.cpp, index; torch/csrc/autograd/FunctionsManual.cpp, index_backward.

    >>> from oomph.tape.testing import cost, fp32, ids
    >>> cost(take_pairs, fp32(100, 2), ids(50), ids(50))
    Cost(allocated=200, saved=800, backward=3600)
    """
    x = unsqueeze(x, 2)
    node = record("Index", (x,), _take_backward)
    save(node, rows, columns)
    return made_by(new(x.tape, (*rows.shape, 1), x.dtype, op="index"), node)


def pick(x: Sym) -> Sym:
    """Return x[i], one expert's matrix [N, K] of a stack [E, N, K]: a view. Which one changes no byte.

    Saves nothing; backward allocates the whole stack again, zeros with the gradient copied in. Source: torch
    tools/autograd/derivatives.yaml (select.int), ATen/native/TensorShape.cpp, select_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(pick, (8, 64, 32))
    Cost(allocated=0, saved=0, backward=32768)
    """
    node = record("Select", (x,), _whole_stack)
    return made_by(Sym(x.shape[1:], x.dtype, x.strides[1:], x.storage), node)


def _whole_stack(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    return [new(grad(gradients).tape, node.inputs[0][0], grad(gradients).dtype, op="select_backward")]


def index_add_in_place(x: Sym, index: Sym, source: Sym) -> Sym:
    """Return x.index_add_(0, index, source): rows of source [n, H] added to x [T, H] in place.

    Saves the index and the source, of which only the shape is needed: its gradient are rows of the incoming one, a new
    [n, H]. Source: torch tools/autograd/derivatives.yaml (index_add).

    >>> from oomph.tape.testing import cost, ids
    >>> cost(index_add_in_place, (100, 64), ids(50), (50, 64))
    Cost(allocated=0, saved=6800, backward=6400)
    """
    node = record("IndexAdd", (x, source), _index_add_backward)
    save(node, index, source)
    return made_by(x.detach(), node)


def _index_add_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, (shape, _) = grad(gradients), node.inputs[1]
    rows = new(gradient.tape, shape, gradient.dtype, op="index_select") if node.needs(1) else None
    return [gradients[0] if node.needs(0) else None, rows]


def one_hot(index: Sym, classes: Size) -> Sym:
    """Return one_hot(index [T, k]): int64 [T, k, classes]. A CPU first looks for the smallest and largest index.

    No gradient. Source: ATen/native/Onehot.cpp.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(lambda x: one_hot(x, 9), ids(100, 2))
    Cost(allocated=14400, saved=0, backward=0)
    """
    tape = index.tape
    if tape.on != "gpu":
        smallest = tape.empty((), "int64", op="aminmax")
        greatest = tape.empty((), "int64", op="aminmax")
        del smallest, greatest
    return tape.empty((*index.shape, classes), "int64", op="zeros")


def nonzero(x: Sym, count: Size) -> Sym:
    """Return x.nonzero(), the int64 places [count, axes] of what is not 0; how many there are must be assumed.

    No gradient. The few bytes that CUDA counts in are not counted. Source: ATen/native/cuda/Nonzero.cu.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(lambda x: nonzero(x, 50), ids(2, 100))
    Cost(allocated=800, saved=0, backward=0)
    """
    return x.tape.empty((count, len(x.shape)), "int64", op="nonzero")


def histogram(x: Sym, bins: Size) -> Sym:
    """Return how many of the expert numbers x [M] fall on each of E experts: int32 [E].

    No gradient. The caller has cast x to int32; on a CPU both are fp32, which is as wide. Source:
    ATen/native/cuda/SummaryOps.cu, _histc_cuda.

    >>> from oomph.tape.testing import Given, cost
    >>> cost(lambda x: histogram(x, 8), Given((200,), "int32", trains=False))
    Cost(allocated=32, saved=0, backward=0)
    """
    return new(x.tape, (bins,), "int32", op="histc")


def sum_over(x: Sym, axis: int, keepdim: bool = False, dtype: str | None = None) -> Sym:
    """Return x.sum(axis): x without that axis, or with length 1 there, in fp32 under autocast, or in a dtype that is
    asked for.

    Saves nothing, sizes do: backward is the gradient expanded, a view. Source: torch
    tools/autograd/derivatives.yaml (sum.dim_IntList); torch/csrc/autograd/FunctionsManual.cpp, sum_backward.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(lambda x: sum_over(x, 1), fp32(100, 2, 64))
    Cost(allocated=25600, saved=0, backward=0)
    """
    if dtype is None:
        dtype = "fp32" if x.tape.autocast is not None and not x.tape.autocast_paused else x.dtype
    node = record("Sum", (x,), _expanded)
    if node is not None:
        node.context = (axis % len(x.shape), keepdim)
    shape = list(x.shape)
    shape[axis] = 1
    if not keepdim:
        del shape[axis]
    return made_by(new(x.tape, shape, dtype, op="sum"), node)


def _expanded(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, (axis, keepdim) = grad(gradients), node.context
    strides = list(gradient.strides)
    if keepdim:
        strides[axis] = 0
    else:
        strides.insert(axis, 0)
    made = Sym(node.inputs[0][0], gradient.dtype, strides, gradient.storage)
    made.is_view = True
    return [made]


def divide(x: Sym, y: Sym) -> Sym:
    """Return x / y in their common shape and dtype.

    Saves y, and x if y wants a gradient. Backward: x's gradient g / y, and for y's four tensors of x's size. Source:
    torch tools/autograd/derivatives.yaml (div.Tensor), torch/csrc/autograd/FunctionsManual.cpp, div_tensor_other_grad.

    >>> from oomph.tape.testing import cost, fp32, frozen
    >>> cost(divide, (4, 256), (4, 256)), cost(divide, (4, 256), frozen(4, 256))
    (Cost(allocated=2048, saved=4096, backward=10240), Cost(allocated=2048, saved=2048, backward=2048))
    >>> cost(lambda x: divide(x, sum_over(x, -1, keepdim=True)), fp32(100, 2))
    Cost(allocated=1200, saved=1200, backward=4400)
    """
    node = record("Div", (x, y), _divide_backward)
    if node is not None:
        save(node, y, x if y.requires_grad else None)
    return made_by(result("div", broadcast(x.shape, y.shape), wider(x.dtype, y.dtype), x, y), node)


def divide_in_place(x: Sym, y: Sym) -> Sym:
    """Return x /= y, x [T, k] by y [T, 1]: x's own bytes.

    Saves y and a copy of what x was, which y's gradient needs; without a gradient there is no copy. Backward: x's
    gradient g / y, and for y's four tensors of x's size, summed. Source: torch tools/autograd/derivatives.yaml
    (div.Tensor), torch/csrc/autograd/FunctionsManual.cpp, div_tensor_other_grad.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(lambda x: divide_in_place(x, sum_over(x, -1, keepdim=True)), fp32(100, 2))
    Cost(allocated=1200, saved=1200, backward=4400)
    """
    node = record("Div", (x, y), _divide_backward)
    original = new(x.tape, x.shape, x.dtype, x.strides, op="clone") if node is not None else None
    save(node, y, original)
    del original  # in C++, before the caller's tensors
    return made_by(x.detach(), node)


def _divide_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, (y, x) = grad(gradients), saved
    other = None
    if node.needs(1):
        quotient = result("div", x.shape, wider(x.dtype, y.dtype), x, y)
        again = result("div", x.shape, quotient.dtype, quotient, y)
        negated = result("neg", gradient.shape, gradient.dtype, gradient)
        other = result("mul", gradient.shape, wider(negated.dtype, again.dtype), negated, again)
        del negated, again, quotient
    own = result("div", gradient.shape, wider(gradient.dtype, y.dtype), gradient, y) if node.needs(0) else None
    return [own, other]
