"""TRL's kernel for log-probabilities of chosen tokens, of logits that exist."""

from __future__ import annotations

from typing import Any

from oomph.tape.autograd import Gradients, Node, made_by, record, save
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
