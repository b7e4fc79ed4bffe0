"""TRL's divergence of a student's and a teacher's next-token distributions, from tiles of both their logits.

Shape letters: N tokens that count, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import cast, grad
from oomph.ops.fused_head import COLUMNS, TOKENS
from oomph.ops.slices import pieces
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, new, view_of
from oomph.tape.tape import Tape

SUMS = ("s_sum", "s_x_sum", "t_sum", "t_weighted_gap", "s_weighted_gap", "jsd", "kl_student")


def chunked_divergence(hidden: Sym, weight: Sym, teacher: Sym, teacher_weight: Sym) -> tuple[Sym, Sym]:
    """Return the reverse KL divergence and the student's entropy, fp32 [N], of hidden [N, H] and weight [V, H] of both.

    Nine fp32 numbers per token and two fp32 buffers of logits [min(N, 4096), 32768], freed at the end, and some more of
    the former. Saves both models' hidden states and weights, log-sum-exps and divergences. Backward makes zeros like
    hidden and, if it trains, like the weight, both fp32 whatever their dtype, the buffers again, and of each tile a
    copy in the dtype of hidden. Source: trl 1.16, kernels/chunked_divergence.py, ChunkedDivergenceFunction, beta 1.

    Two tiles of 4·8·32768 B, 24 numbers of 4·8 B. Backward: gradients of 4 + 2 bytes for 8·64 and 256·64 numbers, a
    copy of 2·8·256 B, the incoming gradient of 4·8 B, and the tiles.
    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda *x: chunked_divergence(*x)[0], (8, 64), (256, 64), frozen(8, 64), frozen(256, 64))
    Cost(allocated=2097920, saved=67680, backward=2202656)
    """
    tape, count = hidden.tape, hidden.shape[0]
    node = record("ChunkedDivergenceFunction", (hidden, weight), _backward)
    with tape.no_grad():
        divergence, entropy, *log_sums = _forward(tape, count)
    save(node, hidden, weight, teacher, teacher_weight, *log_sums, divergence)
    log_sums.reverse()
    del log_sums
    return made_by(divergence, node), entropy


def _forward(tape: Tape, count: Size) -> tuple[Sym, Sym, Sym, Sym]:
    """Mirror ChunkedDivergenceFunction.forward: divergence, entropy, and log-sum-exps of both models."""
    statistics = [_from(tape, count, "zeros", "sub") for _ in ("s_max", "t_max")]
    statistics += [_numbers(tape, count, "zeros") for _ in SUMS]
    buffers = _buffers(tape, count)
    s_log_z: Any = None
    t_log_z: Any = None
    for rows in pieces(count, TOKENS):
        s_log_z = _from(tape, rows, "log", "add")
        t_log_z = _from(tape, rows, "log", "add")
    s_log_z = _from(tape, count, "log", "add")
    t_log_z = _from(tape, count, "log", "add")
    entropy = _from(tape, count, "div", "sub")
    divergence = _from(tape, count, "div", "sub", "add")
    statistics += buffers
    buffers.clear()
    statistics.reverse()
    while statistics:
        statistics.pop()
    return divergence, entropy, s_log_z, t_log_z


def _numbers(tape: Tape, count: Size, op: str) -> Sym:
    return new(tape, (count,), "fp32", op=op)


def _from(tape: Tape, count: Size, *ops: str) -> Sym:
    """Return the last of operations one of another: each result dies when the next is there."""
    made: Any = None
    for op in ops:
        made = _numbers(tape, count, op)
    found: Sym = made
    return found


def _buffers(tape: Tape, count: Size) -> list[Sym]:
    return [new(tape, (pieces(count, TOKENS)[0], COLUMNS), "fp32", op="tile of logits") for _ in range(2)]


def _backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    """Mirror ChunkedDivergenceFunction.backward."""
    hidden, weight, *_ = saved
    tape = hidden.tape
    made: list[Any] = [new(tape, hidden.shape[:1], grad(gradients).dtype, op="clone")]
    grad_hidden = new(tape, hidden.shape, "fp32", op="zeros") if node.needs(0) else None
    grad_weight = new(tape, weight.shape, "fp32", op="zeros") if node.needs(1) else None
    buffers = _buffers(tape, hidden.shape[0])
    grad_tile: Any = None
    for rows in pieces(hidden.shape[0], TOKENS):
        for columns in pieces(weight.shape[0], COLUMNS):
            grad_tile = cast(view_of(buffers[0], (rows, columns), buffers[0].strides), hidden.dtype)
    made += [grad_hidden, grad_weight, *buffers]
    buffers.clear()
    found: Gradients = [
        None if grad_hidden is None else cast(grad_hidden, hidden.dtype),
        None if grad_weight is None else cast(grad_weight, weight.dtype),
    ]
    grad_hidden = grad_weight = None
    made.append(grad_tile)
    grad_tile = None
    made.reverse()
    while made:
        made.pop()
    return found
