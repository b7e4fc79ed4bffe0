"""LitGPT's chunked_cross_entropy: 128 tokens at a time, in the logits' own dtype; a frozen head in chunks as well.

All logits exist at once, and so do all log-softmaxes; only what backward makes of them comes and goes. Source: litgpt
0.5.13, utils.py (chunked_cross_entropy), model.py (lm_head_chunk_size), finetune/lora.py, finetune/full.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.tape.sym import Sym

CHUNK = 128  # tokens, of each sequence for the head, of all for the loss


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[Sym, Any]:
    """Return loss and logits, a list of chunks where the head is frozen: the recipes for adapters ask for that."""
    if weight.requires_grad:
        logits = ops.linear(hidden_states, weight, bias)
        return _whole(logits, labels), logits
    return _by_chunks(hidden_states, weight, labels, bias)


def _by_chunks(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None) -> tuple[Sym, list[Sym]]:
    length = hidden_states.shape[1]
    sizes = ops.pieces(length, CHUNK)
    chunks = ops.split_axis(hidden_states, 1, sizes)
    logits = [ops.linear(x_i, weight, bias) for x_i in chunks]
    del chunks
    hidden_states.tape.scope = "loss"
    logits[-1] = ops.slice_axis(logits[-1], 1, 0, sizes[-1] - 1)
    targets = ops.slice_axis(labels, 1, 1, length)
    target_chunks = [_flat_labels(each) for each in ops.split_axis(targets, 1, [*sizes[:-1], sizes[-1] - 1])]
    return _loss([_flat(each) for each in logits], target_chunks), logits


def _whole(logits: Sym, labels: Sym) -> Sym:
    logits.tape.scope = "loss"
    length = labels.shape[1]
    rows = _flat(ops.slice_axis(logits, 1, 0, length - 1))
    targets = _flat_labels(ops.slice_axis(labels, 1, 1, length))
    sizes = ops.pieces(rows.shape[0], CHUNK)
    return _loss(list(ops.split_axis(rows, 0, sizes)), list(ops.split_axis(targets, 0, sizes)))


def _flat(logits: Sym) -> Sym:
    return ops.view(logits, (ops.rows(logits), logits.shape[-1]))


def _flat_labels(labels: Sym) -> Sym:
    return ops.view(labels, (labels.shape[0] * labels.shape[1],))


def _loss(logit_chunks: list[Sym], target_chunks: list[Sym]) -> Sym:
    """Mirror the end of chunked_cross_entropy: a number per token, joined and summed."""
    loss_chunks = [
        ops.cross_entropy_of_rows(logit_chunk, target_chunk)
        for logit_chunk, target_chunk in zip(logit_chunks, target_chunks, strict=True)
    ]
    non_masked_elems = loss_chunks[0].tape.empty((), "int64", op="sum")
    return ops.divided(ops.total(ops.cat(loss_chunks, 0)), non_masked_elems)
