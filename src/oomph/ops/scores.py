"""What preference losses do to numbers per sequence or per token: small, but every event is in its place."""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import grad, in_fp32, result
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, new


def logsigmoid(x: Sym) -> Sym:
    """Return F.logsigmoid(x), shaped like x, in fp32 under autocast.

    Saves x, and on a CPU a buffer of its size; backward is one tensor. Source: torch tools/autograd/derivatives.yaml
    (log_sigmoid_forward), ATen/native/Activation.cpp (the buffer is empty on CUDA).

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(logsigmoid, fp32(8))
    Cost(allocated=32, saved=32, backward=32)
    """
    x = in_fp32(x)
    node = record("LogSigmoid", (x,), _like_gradient)
    save(node, x)
    made = result("log_sigmoid_forward", x.shape, x.dtype, x)
    buffer = result("log_sigmoid_forward", x.shape, x.dtype, x) if x.tape.on != "gpu" else None
    save(node, buffer)
    return made_by(made, node)


def _like_gradient(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [result(f"{node.name}_backward", gradient.shape, gradient.dtype, gradient)]


def log(x: Sym) -> Sym:
    """Return x.log(), shaped like x, in fp32 under autocast.

    Saves x: backward is g / x, one tensor. Source: torch tools/autograd/derivatives.yaml (log).

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(log, fp32(8))
    Cost(allocated=32, saved=32, backward=32)
    """
    x = in_fp32(x)
    node = record("Log", (x,), _like_gradient)
    save(node, x)
    return made_by(result("log", x.shape, x.dtype, x), node)


def log1p(x: Sym) -> Sym:
    """Return x.log1p(), shaped like x, in fp32 under autocast.

    Saves x: backward is g / (x + 1), two tensors. Source: torch tools/autograd/derivatives.yaml (log1p).

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(log1p, fp32(8))
    Cost(allocated=32, saved=32, backward=64)
    """
    x = in_fp32(x)
    node = record("Log1P", (x,), _with_one_more)
    save(node, x)
    return made_by(result("log1p", x.shape, x.dtype, x), node)


def expm1(x: Sym) -> Sym:
    """Return x.expm1(), shaped like x, in fp32 under autocast.

    Saves the result: backward is g · (result + 1), two tensors. Source: torch tools/autograd/derivatives.yaml (expm1).

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(expm1, fp32(8))
    Cost(allocated=32, saved=32, backward=64)
    """
    x = in_fp32(x)
    node = record("Expm1", (x,), _with_one_more)
    made = result("expm1", x.shape, x.dtype, x)
    save(node, made)
    return made_by(made, node)


def _with_one_more(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    one_more = result("add", gradient.shape, gradient.dtype, saved[0])
    made = result(node.name, gradient.shape, gradient.dtype, gradient, one_more)
    del one_more
    return [made]


def pick_rows(x: Sym, index: Sym) -> Sym:
    """Return x.index_select(0, index): rows of x [B, ..] at int64 [n].

    Saves the index; backward adds the gradient to zeros like x, in place, under a trace to a copy of them. Source:
    torch tools/autograd/derivatives.yaml (index_select), index_select_backward in TensorAdvancedIndexing.cpp.

    >>> from oomph.tape.testing import cost, fp32, ids
    >>> cost(pick_rows, fp32(8), ids(4))
    Cost(allocated=16, saved=32, backward=32)
    """
    node = record("IndexSelect", (x,), _added_to_zeros)
    save(node, index)
    return made_by(new(x.tape, (*index.shape, *x.shape[1:]), x.dtype, op="index_select"), node)


def _added_to_zeros(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    (shape, dtype), tape = node.inputs[0], grad(gradients).tape
    zeros = new(tape, shape, dtype, op="new_zeros")
    return [zeros if tape.on != "trace" else new(tape, shape, dtype, op="index_add")]


def nansum(x: Sym) -> Sym:
    """Return x.nansum(): a scalar.

    Saves x; backward is the gradient where x is a number: two masks and one tensor of x's size. Source:
    torch/csrc/autograd/FunctionsManual.cpp, nansum_backward.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(nansum, fp32(8))
    Cost(allocated=4, saved=32, backward=48)
    """
    node = record("Nansum", (x,), _where_numbers)
    save(node, x)
    return made_by(new(x.tape, (), x.dtype, op="nansum"), node)


def _where_numbers(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    x, gradient = saved[0], grad(gradients)
    unknown = result("ne", x.shape, "bool", x)
    known = result("logical_not", x.shape, "bool", x)
    made = result("mul", x.shape, gradient.dtype, x)
    del known, unknown, x
    return [made]


def nanmean(x: Sym) -> Sym:
    """Return x.nanmean(): the sum of what is a number by how many are, a scalar.

    Saves x and that number. Source: ATen/native/ReduceOps.cpp, nanmean.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(nanmean, fp32(8)).allocated
    24
    """
    known = result("ne", x.shape, "bool", x)
    number = count(known)
    del known
    total = nansum(x)
    node = record("Div", (total,), _like_gradient)
    save(node, number)
    made = made_by(new(x.tape, (), x.dtype, op="div"), node)
    del total, number
    return made


def minimum(a: Sym, b: Sym) -> Sym:
    """Return torch.min(a, b) of two tensors of one shape.

    Saves both; each gradient is halved where they are equal and 0 where the other is smaller: two comparisons, the half
    and the result. Source: torch tools/autograd/derivatives.yaml (minimum).

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(minimum, fp32(8), fp32(8))
    Cost(allocated=32, saved=64, backward=160)
    """
    node = record("Minimum", (a, b), _minimum_backward)
    save(node, b, a)
    return made_by(result("minimum", a.shape, a.dtype, a, b), node)


def _minimum_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    other = _smaller(gradient) if node.needs(1) else None
    own = _smaller(gradient) if node.needs(0) else None
    return [own, other]


def _smaller(gradient: Sym) -> Sym:
    half = result("div", gradient.shape, gradient.dtype, gradient)
    equal = result("eq", gradient.shape, "bool", gradient)
    made = result("where", gradient.shape, gradient.dtype, gradient)
    smaller = result("lt", gradient.shape, "bool", gradient)
    del smaller, equal, half
    return made


def maximum(a: Sym, b: Sym) -> Sym:
    """Return torch.max(a, b) of two tensors of one shape. As minimum.

    Saves both. Source: torch tools/autograd/derivatives.yaml (maximum).

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(maximum, fp32(8), fp32(8))
    Cost(allocated=32, saved=64, backward=160)
    """
    node = record("Maximum", (a, b), _minimum_backward)
    save(node, b, a)
    return made_by(result("maximum", a.shape, a.dtype, a, b), node)


def sum_rows(x: Sym) -> Sym:
    """Return x.sum(dim=1) of x [B, S]: [B], integers as int64.

    Saves nothing; backward is the gradient expanded, a view. Source: torch tools/autograd/derivatives.yaml
    (sum.dim_IntList).

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(sum_rows, fp32(4, 16))
    Cost(allocated=16, saved=0, backward=0)
    """
    node = record("Sum", (x,), _along_rows)
    return made_by(new(x.tape, x.shape[:1], summed_dtype(x), op="sum"), node)


def _along_rows(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, (shape, _) = grad(gradients), node.inputs[0]
    made = Sym(shape, gradient.dtype, (*gradient.strides, 0), gradient.storage)
    made.is_view = True
    return [made]


def summed_dtype(x: Sym) -> str:
    """Return the dtype of x.sum(): int64 for integers and booleans, else x's own. Allocates nothing.

    Source: ATen/native/ReduceOps.cpp, get_dtype_from_self.

    >>> from oomph.tape.testing import cost, frozen, ids
    >>> cost(lambda x: summed_dtype(x), frozen(4)).allocated, cost(lambda x: x.tape.empty((), summed_dtype(x)), ids(4))
    (0, Cost(allocated=8, saved=0, backward=0))
    """
    return x.dtype if x.dtype in ("bf16", "fp16", "fp32") else "int64"


def count(x: Sym) -> Sym:
    """Return x.sum() of a tensor without a gradient: a scalar, int64 for integers. Nothing else.

    Source: ATen/native/ReduceOps.cpp, sum.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(count, ids(4, 16))
    Cost(allocated=8, saved=0, backward=0)
    """
    return new(x.tape, (), summed_dtype(x), op="sum")


def compared(op: str, a: Sym, *others: Sym) -> Sym:
    """Return a comparison or conjunction of tensors of one shape: booleans. Nothing is saved.

    Source: ATen/native/BinaryOps.cpp.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(lambda a: compared("eq", a), ids(2, 8)).allocated
    16
    """
    return result(op, a.shape, "bool", a, *others)


def halves(x: Sym) -> tuple[Sym, Sym]:
    """Return x.chunk(2, dim=0) of x [2·B, ..]: two views [B, ..], which keep all of x alive.

    Saves nothing; backward joins the gradients to one tensor of x's size. Source:
    torch/csrc/autograd/FunctionsManual.cpp, split_backward.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(halves, fp32(8))
    Cost(allocated=0, saved=0, backward=32)
    """
    node = record("Split", (x,), _joined, outputs=2)
    half: Size = x.shape[0] // 2
    first, second = (Sym((half, *x.shape[1:]), x.dtype, x.strides, x.storage) for _ in range(2))
    return made_by(first, node, 0), made_by(second, node, 1)


def _joined(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    """Return both gradients in one tensor; what was not used counts as zeros, which are made first."""
    given = [one for one in gradients if one is not None]
    shape, dtype = node.inputs[0]
    zeros = [new(given[0].tape, (shape[0] // 2, *shape[1:]), dtype, op="zeros") for one in gradients if one is None]
    made = new(given[0].tape, shape, dtype, op="cat")
    del zeros
    return [made]
