"""Unsloth's fused output projection and cross entropy: fp32 logits of a chunk or a tile at a time, the gradient made in
the forward pass.

Shape letters: T tokens, N of them that count, H hidden, V vocabulary, R tokens of a chunk.
"""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import cast, grad
from oomph.ops.kernel import let_go
from oomph.ops.slices import pieces
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym, new
from oomph.tape.tape import Tape

MOST_ROWS = 4096  # _MAX_ROWS, _BWD_ROWS: tokens of a chunk or of a tile
LEAST_LOGITS = 512 * 151936  # _MIN_LOGITS
LEAST_ROWS = 512
BUDGET = 2 * 2**30  # bytes: _CHUNK_GB, where twice as much is free
SPLIT = 16384  # columns: _SPLIT_COLS
TILED_SINCE = 4096  # tokens from which on a card of more than 24 GiB takes tiles: _flash_min_rows
MANY_SPLITS = 2  # of a row, above which they are made one by one and merged
PARTS, TILED_PARTS = 7, 8  # fp32 numbers of a row and split
WIDTH = 4  # bytes of a logit


def unsloth_cross_entropy(x: Sym, weight: Sym, targets: Sym, divisor: Sym, scaling: Sym, counted: Size) -> Sym:
    """Return Unsloth's fused_linear_cross_entropy of x [T, H], weight [V, H] and labels [T], of which N count: a
    scalar, fp32.

    Saves the gradients that the forward pass made: zeros like x and, if it trains, like the weight; backward makes
    each anew, scaled. Up to 4095 tokens, or with at most 32768 columns, one buffer of fp32 logits [R, V] serves all
    chunks; R is the power of two at or below T·H/V, at least so many that logits are 512·151936, at most 4096. The
    product with the weight is fp32 [R, H]. Above, the buffer is a tile [min(N, 4096), 16384] of 256 MiB, beside an fp32
    sum [R, H]. Cards up to 24 GiB of a compute capability of 8 or more take tiles for any number of tokens, which is
    not played: less, as is a card with less than 4 GiB free. Source: unsloth_zoo 2026.10.9,
    fused_losses/fused_linear.py, _ce_impl, _tiled_forward.

    A gradient of 1024·64·2 B for the weight, logits of 6 tokens, 6·1024·4 B, and small things.
    >>> from oomph.tape.testing import Given, cost, fp32, ids
    >>> one = Given((), "fp32", trains=False)
    >>> cost(lambda *x: unsloth_cross_entropy(*x, 6), (8, 64), (1024, 64), ids(8), one, one)
    Cost(allocated=160098, saved=132100, backward=132128)
    """
    tape = x.tape
    node = record("FusedLinearCE", (x, weight), _scaled)
    with tape.no_grad():
        bad = _marked(targets, "ne", "lt", "ge")  # noqa: F841  asserted on the device; lives to the end
        ok = new(tape, (), "bool", op="any")
        ok = new(tape, (), "bool", op="logical_not")  # noqa: F841
        loss, *made = _forward(x, weight, targets, divisor, scaling, counted)
    save(node, *made, scaling)
    return made_by(loss, node)


def _marked(targets: Sym, *compared: str) -> Sym:
    """Mirror (a) & ((b) | (c)) of comparisons."""
    tape, shape = targets.tape, targets.shape
    first, second, third = (new(tape, shape, "bool", op=op) for op in compared)
    either = new(tape, shape, "bool", op="bitwise_or")
    del second, third
    both = new(tape, shape, "bool", op="bitwise_and")
    del first, either
    return both


def _keep_index(targets: Sym, counted: Size) -> Sym:
    """Mirror _keep_index: where labels count, int64 [N]."""
    tape, shape = targets.tape, targets.shape
    low, high = new(tape, shape, "bool", op="ge"), new(tape, shape, "bool", op="lt")
    keep = new(tape, shape, "bool", op="bitwise_and")  # noqa: F841
    del low, high
    marked = new(tape, shape, "bool", op="ne")
    del marked
    return new(tape, (counted,), "int64", op="nonzero")


def _computed_in(weight: Sym) -> str:
    return weight.dtype if weight.tape.autocast is None else weight.tape.autocast.dtype


def _forward(
    x: Sym, weight: Sym, targets: Sym, divisor: Sym, scaling: Sym, counted: Size
) -> tuple[Sym, Sym, Sym | None]:
    """Mirror _ce_impl: its variables die in the order in which the function names them."""
    tape, (tokens, hidden), vocab = x.tape, x.shape, weight.shape[0]
    idx = _keep_index(targets, counted)
    grad_h = new(tape, (tokens, hidden), x.dtype, op="zeros")
    acc_w = new(tape, weight.shape, weight.dtype, op="zeros") if weight.requires_grad else None
    loss = new(tape, (), "fp32", op="zeros")
    if not yes(counted > 0):  # a sequence of one token has none to tell
        return loss, grad_h, acc_w
    w = cast(weight, _computed_in(weight))
    coef = new(tape, (), "fp32", op="div")
    lp_all = new(tape, (counted,), "fp32", op="empty")
    if yes(vocab > MANY_SPLITS * SPLIT) and yes(counted >= TILED_SINCE) and acc_w is None:
        _tiled(x, w, counted)
        left: list[Any] = []
    else:
        buf = new(tape, (chunk_rows(counted, hidden, vocab), (vocab + 8 - 1) // 8 * 8), "fp32", op="empty")
        ratio = None
        if acc_w is None:  # one of 16 bits is added to with rounded coefficients
            coef, ratio = _power_of_two(coef)
        left = [ratio, coef, *_chunked(x, w, buf, counted)]
        left[-1:-1] = [lp_all, buf]
        del ratio, buf
    nll = _negated(lp_all)
    loss = _mean(tape)
    del idx, w, coef, lp_all
    let_go(left)
    del nll
    return loss, grad_h, acc_w


def _negated(lp_all: Sym) -> Sym:
    """Mirror -lp_all.to(torch.float64)."""
    wide = new(lp_all.tape, lp_all.shape, "fp64", op="_to_copy")
    found = new(lp_all.tape, lp_all.shape, "fp64", op="neg")
    del wide
    return found


def _mean(tape: Tape) -> Sym:
    """Mirror (nll.sum() / divisor.to(torch.float64)).float()."""
    total, divisor = new(tape, (), "fp64", op="sum"), new(tape, (), "fp64", op="_to_copy")
    found = new(tape, (), "fp64", op="div")
    del total, divisor
    return cast(found, "fp32")


def _power_below(size: Size, parts: Size, most: int) -> int:
    """Return the largest power of two at or below size / parts, from 1 to `most`."""
    found = 1
    while found < most and yes(2 * found * parts <= size):
        found *= 2
    return found


def chunk_rows(counted: Size, hidden: Size, vocab: Size) -> Size:
    """Return how many tokens' logits are made at a time where there are no tiles. Allocates nothing.

    Source: unsloth_zoo 2026.10.9, fused_losses/fused_linear.py, fused_linear_rows.

    >>> from oomph.tape.testing import cost, frozen
    >>> chunk_rows(2048, 4096, 128256), chunk_rows(65536, 4096, 32000), cost(lambda x: chunk_rows(4, 4, 4), frozen(1))
    (512, 4096, Cost(allocated=0, saved=0, backward=0))
    """
    least = max(_power_below(LEAST_LOGITS, vocab, MOST_ROWS), LEAST_ROWS)
    rows: Size = max(_power_below(counted * hidden, vocab, MOST_ROWS), least)
    cap = BUDGET // (vocab * WIDTH)
    rows = rows if yes(rows <= cap) else cap
    return rows if yes(rows <= counted) else counted


def _chunked(x: Sym, w: Sym, buf: Sym, counted: Size) -> list[Any]:
    """Play the loop over chunks; return what its variables still hold, in the order in which it dies."""
    tape, hidden = x.tape, x.shape[1]
    h = t = lse = gh = None
    for count in pieces(counted, buf.shape[0]):
        h = new(tape, (count, hidden), x.dtype, op="index_select")
        t = new(tape, (count,), "int64", op="index_select")
        lse = _row_forward(tape, count, w.shape[0])
        gh = new(tape, (count, hidden), "fp32", op="mm")
        low = cast(gh, x.dtype)
        del low
    return [h, t, lse, gh]


def _power_of_two(coef: Sym) -> tuple[Sym, Sym]:
    """Mirror torch.exp2(torch.round(torch.log2(coef))) and what is left of it."""
    tape = coef.tape
    found = new(tape, (), "fp32", op="log2")
    for op in ("round", "exp2"):
        found = new(tape, (), "fp32", op=op)
    return found, new(tape, (), "fp32", op="div")


def _row_forward(tape: Tape, count: Size, vocab: Size) -> Sym:
    """Mirror _row_forward: log-sum-exps, parts of them where a row is split, and the coefficient with a minus."""
    lse = new(tape, (count,), "fp32", op="empty")
    splits = (vocab + SPLIT - 1) // SPLIT
    if yes(splits > MANY_SPLITS):
        part = new(tape, (PARTS, splits, count), "fp32", op="empty")
        del part
    negative = new(tape, (), "fp32", op="neg")
    del negative
    return lse


def _tiled(x: Sym, w: Sym, counted: Size) -> None:
    """Mirror _tiled_forward, whose variables die by name, those of its inner functions last."""
    tape, hidden = x.tape, x.shape[1]
    lse = new(tape, (counted,), "fp32", op="empty")
    negative = new(tape, (), "fp32", op="neg")
    splits = (w.shape[0] + SPLIT - 1) // SPLIT
    buf = new(tape, (MOST_ROWS, SPLIT), "fp32", op="empty")  # 256 MiB, whatever the budget beyond
    acc = new(tape, (MOST_ROWS, hidden), "fp32", op="empty")
    m_run = new(tape, (MOST_ROWS,), "fp32", op="empty")
    for count in pieces(counted, MOST_ROWS):
        h = new(tape, (count, hidden), x.dtype, op="index_select")
        t = new(tape, (count,), "int64", op="index_select")
        part = new(tape, (TILED_PARTS, splits, count), "fp32", op="empty")
    del h, negative, acc, m_run, lse, t, part, buf


def _scaled(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    """Mirror the operator's backward: each gradient once more, times a scalar."""
    tape = grad(gradients).tape
    *made, _ = saved
    wide, scaling = new(tape, (), "fp64", op="_to_copy"), new(tape, (), "fp64", op="_to_copy")
    s = new(tape, (), "fp64", op="div")  # noqa: F841
    del wide, scaling
    return [None if one is None else _scale_rows(one) for one in made]


def _scale_rows(u: Sym) -> Sym:
    narrow = new(u.tape, (1, 1), "fp32", op="_to_copy")
    out = new(u.tape, u.shape, u.dtype, op="empty")
    del narrow
    return out
