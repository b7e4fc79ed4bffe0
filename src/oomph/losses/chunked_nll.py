"""TRL's chunked_nll, 1.13 and 1.14: 256 tokens that count at a time, each chunk under a checkpoint of its own.

Tokens are sorted by whether they count, copied, and cut; a chunk's logits, its fp32 copy and log-softmax exist in the
forward pass and again in the backward pass. Backward fills zeros as large as all hidden states for every chunk, and a
head that trains gets a gradient per chunk; under autocast its weight is cast for each anew. What the sort takes for
itself is not counted. Source: trl 1.14, trainer/sft_trainer.py, _chunk, _chunked_cross_entropy_loss.
"""

from __future__ import annotations

from oomph import ops
from oomph.losses.fused_head import counted
from oomph.ops.elementwise import result
from oomph.ops.loss import log_softmax, nll_loss
from oomph.ops.scores import compared, count
from oomph.tape.autograd import like
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size, number, yes
from oomph.tape.sym import Sym

CHUNK = 256  # tokens: _CHUNKED_LM_HEAD_CHUNK_SIZE


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[Sym, dict[str, Sym]]:
    """Return the loss, and what there is instead of logits, in the order in which it dies."""
    hidden_states.tape.scope = "loss"
    return chunked_cross_entropy_loss(hidden_states, weight, labels)


def chunk(h: Sym, w: Sym, lbl: Sym) -> tuple[Sym, ...]:
    """Mirror _chunk: the product in the dtype of the hidden states, then fp32; loss, correct tokens and entropy."""
    tape = h.tape
    logits = ops.cast(ops.linear_unfused(h, ops.cast(w, h.dtype)), "fp32")
    log_p = log_softmax(logits)
    chunk_loss = nll_loss(log_p, lbl)
    valid = compared("ne", lbl)
    hit = compared("bitwise_and", compared("eq", tape.empty(lbl.shape, "int64", op="argmax")))
    hits = count(hit)
    del hit
    chunk_correct = like(hits, "fp32")
    del hits
    chunk_entropy = ops.total(-ops.sum_over(ops.exp(log_p) * log_p, -1) * valid)
    return chunk_loss, chunk_correct, chunk_entropy


def chunked_cross_entropy_loss(hidden_states: Sym, lm_head_weight: Sym, labels: Sym) -> tuple[Sym, dict[str, Sym]]:
    """Mirror _chunked_cross_entropy_loss with its local variables."""
    tape, length = hidden_states.tape, labels.shape[1]
    hidden = _rows(ops.slice_axis(hidden_states, 1, 0, length - 1))
    labels = ops.slice_axis(labels, 1, 1, length)
    scored = counted(labels)
    labels = ops.view(labels, (labels.shape[0] * labels.shape[1],))
    valid = compared("ne", labels)
    n_valid_tensor = count(valid)
    correct = tape.empty((), "fp32", op="new_zeros")
    entropy_sum = tape.empty((), "fp32", op="new_zeros")
    order = _order(valid)
    hidden = ops.take(hidden, order)
    labels = ops.take(labels, order)
    n_padded = _padded(n_valid_tensor)  # noqa: F841  a tensor that lives to the end
    loss = tape.empty((), "fp32", op="new_zeros")
    for start in range(chunks(scored)):
        h_chunk = _cut(hidden, start)
        lbl_chunk = _cut(labels, start)
        chunk_loss, chunk_correct, chunk_entropy = Checkpointing("non-reentrant")(
            tape, chunk, h_chunk, lm_head_weight, lbl_chunk
        )
        loss = loss + chunk_loss
        correct = result("add", (), "fp32", correct, chunk_correct)
        entropy_sum = entropy_sum + chunk_entropy
    loss = ops.divided(loss, like(n_valid_tensor, "int64", "clamp"))
    found = {"num_correct_tokens": correct, "entropy_sum": entropy_sum, "num_valid_tokens": n_valid_tensor}
    return loss, found


def _rows(hidden: Sym) -> Sym:
    return ops.view(hidden, (ops.rows(hidden), hidden.shape[-1]))


def _order(valid: Sym) -> Sym:
    """Mirror valid.to(torch.int8).argsort(descending=True, stable=True)."""
    as_numbers = like(valid, "int8")
    values = like(as_numbers, "int8", "sort")
    indices = like(as_numbers, "int64", "sort")
    del values, as_numbers
    return indices


def _padded(number: Sym) -> Sym:
    """Mirror (number / chunk_size).ceil().clamp(min=1).to(torch.int64) * chunk_size."""
    ratio = like(number, "fp32", "div")
    for op, dtype in (("ceil", "fp32"), ("clamp", "fp32"), ("_to_copy", "int64"), ("mul", "int64")):
        ratio = like(ratio, dtype, op)
    return ratio


def chunks(scored: Size) -> int:
    """Return in how many chunks so many tokens are done; part of what was played."""
    found = number((scored + CHUNK - 1) // CHUNK)
    yes((scored + CHUNK - 1) // CHUNK == found)
    return found


def _cut(x: Sym, index: int) -> Sym:
    """Return x[start : start + 256] of x [N, ..]: a slice, if only in name."""
    start, length = index * CHUNK, x.shape[0]
    return ops.slice_axis(x, 0, start, length if yes(length <= start + CHUNK) else start + CHUNK)
