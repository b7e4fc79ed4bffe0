"""TRL's fused language head: log-probabilities of labels from tiles of logits, the logits never whole.

Shape letters: N tokens that count, H hidden, V vocabulary, B sequences, S tokens of each that have a next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from oomph.ops.elementwise import cast, grad, result
from oomph.ops.kernel import run
from oomph.ops.slices import pieces
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import Size, product
from oomph.tape.sym import Sym, new, view_of
from oomph.workspaces import OUTPUTS, Buffer, index_put_with_sort

TOKENS, COLUMNS = 4096, 32768  # of a tile: TOKEN_CHUNK_SIZE and _CHUNKED_LOGPROB_CHUNK_SIZE
STATISTICS = ("running_max", "sum_exp", "x_sum_exp", "sq_sum_exp", "z_sum", "max_before_target", "target_logit")


class Scored(NamedTuple):
    """What the head says of each token; None where nobody asked."""

    log_probs: Sym
    entropy: Sym | None = None
    log_sum_sq_probs: Sym | None = None
    mean_logits: Sym | None = None
    is_top1: Sym | None = None


def chunked_log_probs(hidden: Sym, weight: Sym, targets: Sym, outputs: Sequence[str] = ()) -> Scored:
    """Return log-probabilities fp32 [N] of targets [N] under hidden [N, H] and weight [V, H], and what `outputs` names.

    Seven fp32 numbers per token and one buffer of logits [min(N, 4096), 32768] in the dtype that is computed in, all
    freed at the end. Saves hidden, weight, targets, log-sum-exps and entropies. Backward makes zeros like hidden and,
    if it trains, like the weight, both fp32 whatever their dtype, the same buffer, and in 16 bit copies of both in it;
    the fp32 ones are alive to the end. Source: trl 1.16, kernels/chunked_logprob.py, ChunkedLogProbFunction.

    The tile of 2·8·32768 B; ten numbers of 4·8 B. Backward: gradients of 4 + 2 bytes for 8·64 and 256·64 numbers.
    >>> from oomph.tape.testing import cost, ids
    >>> cost(lambda *x: chunked_log_probs(*x).log_probs, (8, 64), (256, 64), ids(8))
    Cost(allocated=524608, saved=33888, backward=625664)
    """
    tape = hidden.tape
    node = record("ChunkedLogProbFunction", (hidden, weight), _backward, outputs=2)
    if node is not None:
        node.context = _computed_in(hidden)
    with tape.no_grad():
        scored, log_z = _forward(hidden, weight, outputs)
    save(node, hidden, weight, targets, log_z, log_z if scored.entropy is None else scored.entropy)
    made_by(scored.log_probs, node)
    if scored.entropy is not None:
        made_by(scored.entropy, node, 1)
    return scored


def _computed_in(hidden: Sym) -> str:
    autocast = hidden.tape.autocast
    return hidden.dtype if autocast is None else autocast.dtype


def _forward(hidden: Sym, weight: Sym, outputs: Sequence[str]) -> tuple[Scored, Sym]:
    """Mirror ChunkedLogProbFunction.forward: its log-sum-exps stay with the graph."""
    tape, count = hidden.tape, hidden.shape[0]
    statistics = [new(tape, (count,), "fp32", op=name) for name in STATISTICS]
    compute_dtype = _computed_in(hidden)
    mm_buf: Any = _buffer(hidden, compute_dtype)
    for rows in pieces(count, TOKENS):
        hidden_chunk = cast(view_of(hidden, (rows, hidden.shape[1]), hidden.strides), compute_dtype)
        for columns in pieces(weight.shape[0], COLUMNS):
            cast(view_of(weight, (columns, weight.shape[1]), weight.strides), compute_dtype)
    logarithm = new(tape, (count,), "fp32", op="log")
    log_z = new(tape, (count,), "fp32", op="add")
    del logarithm
    scored = Scored(new(tape, (count,), "fp32", op="sub"), *(_asked(hidden, name, outputs) for name in OPTIONAL))
    statistics.reverse()
    while statistics:
        statistics.pop()
    tile, mm_buf = mm_buf, None
    del hidden_chunk
    del tile
    return scored, log_z


OPTIONAL: dict[str, tuple[tuple[str, str], ...]] = {  # operations and dtypes; all but the last are temporaries
    "entropy": (("div", "fp32"), ("sub", "fp32")),
    "log_sum_sq_probs": (("log", "fp32"), ("log", "fp32"), ("mul", "fp32"), ("sub", "fp32")),
    "mean_logits": (("div", "fp32"),),
    "is_top1": (("ge", "bool"), ("gt", "bool"), ("bitwise_and", "bool")),
}


def _asked(hidden: Sym, name: str, outputs: Sequence[str]) -> Sym | None:
    """Return one of the numbers per token that are made on request."""
    if name not in outputs:
        return None
    *before, (op, dtype) = OPTIONAL[name]
    temporaries = [new(hidden.tape, (hidden.shape[0],), each, op=made) for made, each in before]
    found = new(hidden.tape, (hidden.shape[0],), dtype, op=op)
    temporaries.reverse()
    while temporaries:
        temporaries.pop()
    return found


def _buffer(hidden: Sym, dtype: str) -> Sym:
    return new(hidden.tape, (pieces(hidden.shape[0], TOKENS)[0], COLUMNS), dtype, op="tile of logits")


def _backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    """Mirror ChunkedLogProbFunction.backward."""
    hidden, weight, _, _, _ = saved
    tape, compute_dtype = hidden.tape, node.context
    grad_hidden = new(tape, hidden.shape, "fp32", op="zeros") if node.needs(0) else None
    grad_weight = new(tape, weight.shape, "fp32", op="zeros") if node.needs(1) else None
    mm_buf: Any = _buffer(hidden, compute_dtype)
    for rows in pieces(hidden.shape[0], TOKENS):
        hidden_chunk = cast(view_of(hidden, (rows, hidden.shape[1]), hidden.strides), compute_dtype)
        for columns in pieces(weight.shape[0], COLUMNS):
            w_chunk = cast(view_of(weight, (columns, weight.shape[1]), weight.strides), compute_dtype)
    found: Gradients = [
        None if grad_hidden is None else cast(grad_hidden, hidden.dtype),
        None if grad_weight is None else cast(grad_weight, weight.dtype),
    ]
    grad_hidden = grad_weight = None
    tile, mm_buf = mm_buf, None
    del hidden_chunk, w_chunk
    del tile
    return found


def take_where(x: Sym, mask: Sym, count: Size) -> Sym:
    """Return x[mask] of x [B, S] or [B, S, H] and a boolean mask [B, S], set `count` times: [count] or [count, H].

    Saves the mask; backward adds the gradient's rows to zeros as large as x, under a trace to a copy of them. CUDA
    first looks for the places (int64 pairs), and sorts them to add. Source: ATen/native/TensorAdvancedIndexing.cpp,
    index; torch/csrc/autograd/FunctionsManual.cpp, index_backward.

    >>> from oomph.tape.testing import Given, cost
    >>> cost(lambda x, mask: take_where(x, mask, 6), (2, 4, 64), Given((2, 4), "bool", trains=False)).saved
    8
    """
    node = record("Index", (x,), _put_back)
    if node is not None:
        node.context = count
    save(node, mask)
    return made_by(_selected(x, mask, count), node)


def _selected(x: Sym, mask: Sym, count: Size) -> Sym:
    shape = (count, *x.shape[len(mask.shape) :])
    return run(x.tape, (_places(mask, count), OUTPUTS), lambda: new(x.tape, shape, x.dtype, op="index"))


def _places(mask: Sym, count: Size) -> Buffer:
    return Buffer("nonzero", (count, len(mask.shape)), "int64")


def _put_back(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    tape, (shape, dtype) = grad(gradients).tape, node.inputs[0]
    zeros = new(tape, shape, dtype, op="new_zeros")
    if tape.on == "trace":
        return [new(tape, shape, dtype, op="index_put")]
    steps = (_places(saved[0], node.context), *index_put_with_sort(node.context))
    return [run(tape, steps, lambda: zeros)]


def scatter_where(source: Sym, mask: Sym) -> Sym:
    """Return zeros(mask.shape).masked_scatter(mask, source): a source [count] laid out over a mask [B, S].

    The zeros live until the result is there. Saves the mask; backward picks the gradient where it is set. CUDA counts
    the places that are set, an int64 each, beside it. Source: ATen/native/cuda/IndexKernel.cpp,
    masked_scatter__cuda; torch/csrc/autograd/FunctionsManual.cpp, masked_scatter_backward.

    >>> from oomph.tape.testing import Given, cost, fp32
    >>> cost(scatter_where, fp32(6), Given((2, 4), "bool", trains=False))
    Cost(allocated=128, saved=8, backward=120)
    """
    tape, count = source.tape, product(mask.shape)
    zeros = new(tape, mask.shape, source.dtype, op="new_zeros")
    node = record("MaskedScatter", (source,), _picked)
    save(node, mask)
    steps = (OUTPUTS, Buffer("maskPrefixSum", (count,), "int64"))
    return made_by(run(tape, steps, lambda: result("masked_scatter", mask.shape, source.dtype, zeros)), node)


def _picked(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    (count,), dtype = node.inputs[0]
    mask, tape = saved[0], grad(gradients).tape
    made = run(tape, (_places(mask, count), OUTPUTS), lambda: new(tape, (count,), dtype, op="masked_scatter_backward"))
    return [made]
