"""Output projection and cross entropy as one operation: logits of a chunk of tokens at a time, or none."""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import cast
from oomph.ops.matmul import autocast_argument
from oomph.ops.slices import pieces
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym, new

SIXTEEN_BITS = ("bf16", "fp16")
LOCK_TOKENS, LOCK_COLUMNS = 128, 64  # what shares a lock in cut cross entropy


def chunk_tokens(tokens: Size, hidden: Size, vocab: Size) -> Size:
    """Return how many tokens Liger takes at a time: so many that their logits are as large as all hidden states,
    rounded up to a power of two, never more than there are. Allocates nothing.

    Source: liger-kernel 0.8.5, ops/fused_linear_cross_entropy.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> chunk_tokens(4 * 4096, 4096, 32000), cost(lambda x: chunk_tokens(4, 4, 4), frozen(1)).allocated
    (2048, 0)
    """
    chunk = power_of_two((tokens + (vocab + hidden - 1) // hidden - 1) // ((vocab + hidden - 1) // hidden))
    return chunk if yes(tokens >= chunk) else tokens


def power_of_two(size: Size) -> int:
    """Return the smallest power of two that is at least `size`. Allocates nothing.

    Source: triton.next_power_of_2.

    >>> from oomph.tape.testing import cost, frozen
    >>> power_of_two(1), power_of_two(513), cost(lambda x: power_of_two(3), frozen(1)).allocated
    (1, 1024, 0)
    """
    found = 1
    while not yes(size <= found):
        found *= 2
    return found


def _rows(x: Sym, count: Size) -> Sym:
    return Sym((count, x.shape[1]), x.dtype, x.strides, x.storage)


def fused_linear_cross_entropy(x: Sym, weight: Sym, target: Sym) -> Sym:
    """Return Liger's LigerFusedLinearCrossEntropyLoss of x [T, H], weight [V, H], labels [T]: a scalar, fp32.

    Saves the gradients, made in the forward pass: zeros like x and, if it trains, like the weight; backward hands them
    out. Beside them an fp32 number and a boolean per token, and one buffer for the logits of a chunk, which the kernel
    turns into their gradient. Where the product cannot write into a buffer (fp32 weights under autocast), each chunk's
    logits are a new tensor, and so is its share of x's gradient. In fp32, and off the GPU, the weight's gradient takes
    an fp32 tensor of its size for each chunk. Source: liger-kernel 0.8.5, ops/fused_linear_cross_entropy.py.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(fused_linear_cross_entropy, (8, 64), (256, 64), ids(8))
    Cost(allocated=34868, saved=33792, backward=4)
    """
    tape = x.tape
    node = record("LigerFusedLinearCrossEntropyFunction", (x, weight), _made_before)
    with tape.no_grad():
        loss, grad_input, grad_weight = _liger_forward(x, weight, target)
    save(node, grad_input, grad_weight)
    return made_by(loss, node)


def _liger_forward(_input: Sym, weight: Sym, target: Sym) -> tuple[Sym, Sym, Sym | None]:
    """Mirror fused_linear_cross_entropy_forward; frames let go of their variables in the order of first use."""
    tape, (tokens, hidden), vocab = _input.tape, _input.shape, weight.shape[0]
    chunk_size = chunk_tokens(tokens, hidden, vocab)
    low = tape.autocast.dtype if tape.autocast is not None else None
    in_place = tape.on == "gpu" and _input.dtype == weight.dtype and low in (None, _input.dtype)
    grad_input = new(tape, _input.shape, _input.dtype, op="zeros_like")
    grad_weight = new(tape, weight.shape, weight.dtype, op="zeros_like") if weight.requires_grad else None
    loss_1d = new(tape, (tokens,), "fp32", op="zeros")
    target_mask = new(tape, (tokens,), "bool", op="ne")  # noqa: F841  lives to the end
    counted = new(tape, (), "int64", op="sum")
    del counted
    logits_storage = new(tape, (chunk_size, vocab), _input.dtype, op="empty") if in_place else None
    for count in pieces(tokens, chunk_size):
        _input_chunk = _rows(_input, count)
        if logits_storage is not None:
            logits_chunk = _rows(logits_storage, count)
        else:
            logits_chunk = _product(_input_chunk, weight, (count, vocab))
        loss_1d_slice = loss_1d.detach()  # noqa: F841  its storage dies with the last name for it
        grad_logits_chunk = logits_chunk
        del logits_chunk
        if not (in_place and grad_logits_chunk.dtype == grad_input.dtype):
            _product(grad_logits_chunk, weight, (count, hidden), cached=True)
        if grad_weight is not None:
            _add_to_weight(grad_weight, grad_logits_chunk, _input_chunk)
        del grad_logits_chunk, _input_chunk
    del logits_storage
    loss = new(tape, (), "fp32", op="sum")
    return loss, grad_input, grad_weight


def _product(a: Sym, weight: Sym, shape: tuple[Size, Size], cached: bool = False) -> Sym:
    """Return a product with the weight; autocast casts the weight first; a view of it is not cached."""
    weight = autocast_argument(weight, cached=cached)
    a = autocast_argument(a)
    return new(a.tape, shape, a.dtype, op="mm")


def _add_to_weight(grad_weight: Sym, grad_logits: Sym, x: Sym) -> None:
    """Add a chunk's share to the weight's gradient: in place, but for fp32 products and off the GPU."""
    tape = x.tape
    if tape.on == "gpu" and grad_logits.dtype in SIXTEEN_BITS and grad_weight.dtype in ("fp32", grad_logits.dtype):
        cast(x, grad_logits.dtype)
        return
    x = autocast_argument(x)
    share = new(tape, grad_weight.shape, x.dtype, op="mm")
    del x
    wide = cast(share, "fp32")
    del share, wide


def _made_before(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    grad_input, grad_weight = saved
    one = new(grad_input.tape, (), "fp32", op="tensor")  # is the incoming gradient 1?
    del one
    return [grad_input, grad_weight]


def fused_linear_cross_entropy_2024(x: Sym, weight: Sym, target: Sym) -> Sym:
    """Return Liger's loss as it was in 2024, with x [T, H], weight [V, H], labels [T]: a scalar, fp32.

    As fused_linear_cross_entropy, but each chunk's logits are cast to fp32, back, and scaled, each a new tensor; chunks
    live until the next one's take their names, and x's share of a chunk is a tensor of its own. Saves the gradients;
    the weight's is added to in place. Source: fms-acceleration-foak 0.7,
    fused_ops/liger_ce/fused_linear_cross_entropy_loss.py.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(fused_linear_cross_entropy_2024, (8, 64), (256, 64), ids(8))
    Cost(allocated=55440, saved=33792, backward=5)
    """
    tape = x.tape
    node = record("LigerFusedLinearCrossEntropyFunction", (x, weight), _made_before_2024)
    with tape.no_grad():
        loss, grad_input, grad_weight = _liger_forward_2024(x, weight, target)
    save(node, grad_input, grad_weight)
    return made_by(loss, node)


def _liger_forward_2024(_input: Sym, weight: Sym, target: Sym) -> tuple[Sym, Sym, Sym | None]:
    """Mirror fused_linear_cross_entropy_forward of fms-acceleration-foak."""
    tape, (tokens, hidden), vocab = _input.tape, _input.shape, weight.shape[0]
    dtype = tape.autocast.dtype if tape.autocast is not None else _input.dtype
    chunk_size = power_of_two((tokens + (vocab + hidden - 1) // hidden - 1) // ((vocab + hidden - 1) // hidden))
    grad_weight = new(tape, weight.shape, weight.dtype, op="zeros_like") if weight.requires_grad else None
    grad_input = new(tape, _input.shape, _input.dtype, op="zeros_like")
    loss_1d = new(tape, (tokens,), "fp32", op="zeros")
    marked = new(tape, (tokens,), "bool", op="ne")
    total_n_non_ignore = new(tape, (), "int64", op="sum")  # noqa: F841  lives to the end
    del marked
    for count in pieces(tokens, chunk_size):
        _input_chunk = _rows(_input, count)
        logits_chunk = _product(_input_chunk, weight, (count, vocab))
        loss_1d_slice = loss_1d.detach()  # noqa: F841
        marked = new(tape, (count,), "bool", op="ne")
        counted = new(tape, (), "int64", op="sum")
        del marked
        del counted
        logits_chunk = cast(logits_chunk, "fp32")
        logits_chunk = cast(logits_chunk, dtype)
        larger = new(tape, (), "bool", op="gt")
        del larger
        alpha = new(tape, (), "fp32", op="div") if tape.on != "trace" else None  # noqa: F841  a trace's is 0.0
        scaled = new(tape, (count,), "fp32", op="mul")
        del scaled
        grad_logits_chunk = new(tape, logits_chunk.shape, dtype, op="mul")
        _product(grad_logits_chunk, weight, (count, hidden), cached=True)
    loss = new(tape, (), "fp32", op="sum")
    return loss, grad_input, grad_weight


def _made_before_2024(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    grad_input, grad_weight = saved
    one = new(grad_input.tape, (), "fp32", op="tensor")
    differs = new(grad_input.tape, (), "bool", op="ne")
    del one, differs
    return [grad_input, grad_weight]


def cut_cross_entropy(hidden_states: Sym, weight: Sym, labels: Sym) -> Sym:
    """Return Apple's linear_cross_entropy of hidden states [B, S, H], weight [V, H], labels [B, S], shifted.

    Forward: which tokens count, int32 (found as int64 pairs), a log-sum-exp and a score per token in fp32, locks, an
    average logit per column. Saves hidden states, weight, log-sum-exps, labels, which tokens count, and the averages.
    Backward makes the order of the columns, zeros like the hidden states and, if it trains, like the weight in their
    dtype, and locks. Source: cut-cross-entropy 25.1.1, cce.py, cce_lse_forward.py, cce_backward.py.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(cut_cross_entropy, (2, 8, 64), (256, 64), ids(2, 8))
    Cost(allocated=1606, saved=36136, backward=39992)
    """
    tape, (batch, length, _) = hidden_states.tape, hidden_states.shape
    vocab, counted = weight.shape[0], batch * (length - 1)
    valids = _valids(labels, counted)
    node = record("LinearCrossEntropyFunction", (hidden_states, weight), _cut_backward)
    lse = new(tape, (counted,), "fp32", op="new_full")
    locks = new(tape, ((counted + LOCK_TOKENS - 1) // LOCK_TOKENS,), "fp32", op="new_full")
    logit_avg = new(tape, (vocab,), "fp32", op="new_full")
    del locks
    neg_dot = new(tape, (counted,), "fp32", op="new_zeros")
    loss = new(tape, (), "fp32", op="mean")
    del neg_dot
    save(node, hidden_states, weight, lse, labels, valids, logit_avg)
    if node is not None:
        node.context = (labels, valids)  # ctx.params, which the end of backward does not release
    return made_by(loss, node)


def _valids(targets: Sym, counted: Size) -> Sym:
    """Mirror _build_flat_valids: pairs of indices, int64, then int32, then summed to places in the flat batch."""
    tape = targets.tape
    marked = new(tape, (targets.shape[0], targets.shape[1] - 1), "bool", op="ne")
    pairs = new(tape, (counted, 2), "int64", op="nonzero")
    del marked
    valids = new(tape, (counted, 2), "int32", op="_to_copy")  # noqa: F841
    del pairs
    return new(tape, (counted,), "int64", op="sum")


def _cut_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    hidden_states, weight, lse, _, _, _ = saved
    tape, vocab, hidden = weight.tape, weight.shape[0], weight.shape[1]
    values = new(tape, (vocab,), "fp32", op="sort")
    indices = new(tape, (vocab,), "int64", op="sort")
    del values
    vocab_ordering = new(tape, (vocab,), "int32", op="_to_copy")
    del indices
    de = new(tape, hidden_states.shape, hidden_states.dtype, op="zeros_like")
    dc = new(tape, weight.shape, hidden_states.dtype, op="zeros_like") if node.needs(1) else None
    columns = (hidden + LOCK_COLUMNS - 1) // LOCK_COLUMNS
    de_locks = new(tape, ((lse.shape[0] + columns - 1) // columns, columns), "int32", op="new_zeros")
    dc_locks = new(tape, ((vocab + columns - 1) // columns, columns), "int32", op="new_zeros")
    dc = cast(dc, weight.dtype) if dc is not None else None
    del de_locks, dc_locks, vocab_ordering
    return [de, dc]
