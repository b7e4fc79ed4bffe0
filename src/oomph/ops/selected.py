"""Log-probabilities of chosen tokens, of logits that exist: TRL's kernel, and what it did before, row by row."""

from __future__ import annotations

from typing import Any

from oomph.ops.divergence import logsumexp_last
from oomph.ops.indexing import unsqueeze
from oomph.ops.joining import stack_first
from oomph.ops.loss import log_softmax
from oomph.ops.routing import gather
from oomph.ops.slices import squeeze_last, unbind
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import settled
from oomph.tape.sym import Sym, new


def selective_log_softmax(logits: Sym, index: Sym) -> Sym:
    """Return the log-probabilities fp32 [B, S] of int64 [B, S] under logits [B, S, V].

    Entropies are made beside them, log-sum-exps and expected logits too, an fp32 number per token each. Saves logits,
    index, log-sum-exps and expected logits; backward makes one tensor of the logits' size and dtype. Source: trl 1.16,
    kernels/logprob_entropy.py, _LogProbEntropyFunction (since 1.14).

    >>> from oomph.tape.testing import cost, ids
    >>> cost(selective_log_softmax, (2, 4, 100), ids(2, 4))
    Cost(allocated=128, saved=1728, backward=1600)
    """
    tape, shape = logits.tape, logits.shape[:-1]
    node = record("LogProbEntropyFunction", (logits,), _as_logits, outputs=2)
    made = [new(tape, shape, "fp32", op=name) for name in ("logprobs", "entropy", "log_z", "expected_logit")]
    logprobs, entropy, log_z, expected_logit = made
    made.clear()
    save(node, logits, index, log_z, expected_logit)
    del log_z, expected_logit
    del entropy
    return made_by(logprobs, node)


def _as_logits(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    shape, dtype = node.inputs[0]
    return [new(saved[0].tape, shape, dtype, op="empty_like")]


def log_softmax_by_rows(logits: Sym, index: Sym) -> Sym:
    """Return the log-probabilities [B, S] of int64 [B, S] under logits [B, S, V], in their dtype.

    fp32 logits: those of the chosen tokens less the log-sum-exps, a row of the batch at a time. Saves index, logits and
    log-sum-exps. 16-bit logits: a log-softmax for each row, of which the graph keeps all. Backward makes what each row
    needs, and stacks the rows. Source: trl 1.12, trainer/utils.py, selective_log_softmax.

    2·4 numbers of 4 B picked, summed (beside the largest, their sizes and a byte each) and stacked, their difference,
    and for each row a copy of 4·100; saved are int64, logits twice (once for a shape) and sums.
    >>> from oomph.tape.testing import cost, fp32, ids
    >>> cost(log_softmax_by_rows, fp32(2, 4, 100), ids(2, 4))
    Cost(allocated=3400, saved=3296, backward=16032)
    """
    index, places = unsqueeze(index, 2), settled(index.shape[0])
    if logits.dtype == "fp32":
        selected_logits = gather(logits, index)
        logsumexp_values = stack_first([logsumexp_last(lg) for lg in unbind(logits, 0, places)])
        per_token_logps = selected_logits - unsqueeze(logsumexp_values, 2)
    else:
        rows: list[Sym] = []
        for row_logits, row_labels in zip(unbind(logits, 0, places), unbind(index, 0, places), strict=True):
            row_logps = log_softmax(row_logits)
            row_per_token_logps = gather(row_logps, row_labels)
            rows.append(row_per_token_logps)
        per_token_logps = stack_first(rows)
        rows.clear()
    return squeeze_last(per_token_logps)
