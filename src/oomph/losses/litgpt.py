"""LitGPT's chunked_cross_entropy: 128 tokens at a time; a frozen head in chunks as well, of logits that come in fp32.

All logits exist at once, and so do all log-softmaxes; only what backward makes of them comes and goes. Source: litgpt
0.5.13, utils.py (chunked_cross_entropy), model.py (lm_head_chunk_size), finetune/lora.py, finetune/full.py; lightning
2.6, fabric/plugins/precision/half.py, convert_output.
"""

from __future__ import annotations

from typing import Literal

from oomph import ops
from oomph.tape.sym import Sym

Count = Literal["none", "compared", "largest"]
CHUNK = 128  # tokens, of each sequence for the head, of all for the loss


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[Sym, Sym | list[Sym]]:
    """Return loss and logits, a list of chunks where the head is frozen: the recipes for adapters ask for that."""
    length = labels.shape[1]
    if weight.requires_grad:
        logits = ops.cast(ops.linear(hidden_states, weight, bias), "fp32")
        hidden_states.tape.scope = "loss"
        targets = ops.slice_axis(labels, 1, 1, length)
        return chunked_cross_entropy(ops.slice_axis(logits, 1, 0, length - 1), targets), logits
    chunks = ops.split_axis(hidden_states, 1, ops.pieces(length, CHUNK))
    narrow = [ops.linear(x_i, weight, bias) for x_i in chunks]
    del chunks
    listed = [ops.cast(one, "fp32") for one in narrow]
    del narrow
    hidden_states.tape.scope = "loss"
    without_last(listed)
    return chunked_cross_entropy(listed, ops.slice_axis(labels, 1, 1, length)), listed


def without_last(logits: list[Sym]) -> None:
    """Mirror logits[-1] = logits[-1][..., :-1, :]: a view in the place of the last chunk [B, C, V]."""
    logits[-1] = ops.slice_axis(logits[-1], 1, 0, logits[-1].shape[1] - 1)


def chunked_cross_entropy(logits: Sym | list[Sym], targets: Sym, count: Count = "largest") -> Sym:
    """Mirror chunked_cross_entropy of logits [B, T, V], or chunks of them, and targets [B, T]: a number per token,
    joined and summed, divided by how many are not masked if that is any; `count` "none": their mean.
    """
    if isinstance(logits, list):
        logit_chunks = [_flat(each) for each in logits]
        sizes = [each.shape[1] for each in logits]
        target_chunks = [_flat_labels(each) for each in ops.split_axis(targets, 1, sizes)]
    else:
        logits = _flat(logits)
        targets = _flat_labels(targets)
        sizes = ops.pieces(logits.shape[0], CHUNK)
        logit_chunks, target_chunks = list(ops.split_axis(logits, 0, sizes)), list(ops.split_axis(targets, 0, sizes))
    loss_chunks = [
        ops.cross_entropy_of_rows(logit_chunk, target_chunk)
        for logit_chunk, target_chunk in zip(logit_chunks, target_chunks, strict=True)
    ]
    if count == "none":
        return ops.mean_of_all(ops.cat(loss_chunks, 0))
    non_masked_elems = _count(targets)
    tokens = _compared if count == "compared" else _at_least_one
    return ops.divided(ops.total(ops.cat(loss_chunks, 0)), tokens(non_masked_elems))


def _flat(logits: Sym) -> Sym:
    return ops.view(logits, (ops.rows(logits), logits.shape[-1]))


def _flat_labels(labels: Sym) -> Sym:
    return ops.view(labels, (labels.shape[0] * labels.shape[1],))


def _count(targets: Sym) -> Sym:
    """Mirror (targets != ignore_index).sum()."""
    differs = targets.tape.empty(targets.shape, "bool", op="ne")
    found = targets.tape.empty((), "int64", op="sum")
    del differs
    return found


def _compared(count: Sym) -> Sym:
    """Mirror max(1, count), which asks whether the count is larger and hands back itself."""
    larger = count.tape.empty((), "bool", op="gt")
    del larger
    return count


def _at_least_one(count: Sym) -> Sym:
    """Mirror count.maximum(torch.ones_like(count))."""
    one = count.tape.empty((), "int64", op="ones_like")
    found = count.tape.empty((), "int64", op="maximum")
    del one
    return found
