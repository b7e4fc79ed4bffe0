"""DFT and EAFT, LLaMA-Factory's losses of its own: a cross entropy whose tokens weigh more or less.

The Trainer calls them with what the model returned, so its logits are fp32 copies already and the model computes no
loss. DFT weighs each token by its probability, EAFT by the entropy of the 20 likeliest ones, for which it copies all
logits that are scored and sorts them. Source: LLaMA-Factory 0.9.5, train/trainer_utils.py (dft_loss_func,
eaft_loss_func); transformers 5.23, trainer.py, compute_loss.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.losses.labels import padded_and_shifted
from oomph.objectives.passes import Passes
from oomph.ops.divergence import logsumexp_last
from oomph.ops.elementwise import result
from oomph.ops.fused_head import take_where
from oomph.ops.loss import cross_entropy_of_rows
from oomph.ops.routing import sum_over
from oomph.ops.scores import compared
from oomph.tape.sizes import Shapes, Size, yes
from oomph.tape.sym import Sym, new

TOP = 20  # of _eaft_cross_entropy


def inputs(passes: Passes) -> Shapes:
    """Return a batch of labelled sequences, and the number of tokens that count."""
    names = ("input_ids", *(("attention_mask",) if passes.job.padding else ()), "labels")
    return {
        **dict.fromkeys(names, ((passes.job.batch, passes.job.seq_len), "int64")),
        "num_items_in_batch": ((), "int64"),
    }


def compute_loss(passes: Passes, inputs: dict[str, Sym]) -> tuple[Sym, None]:
    """Mirror Trainer.compute_loss with a compute_loss_func."""
    labels = inputs.pop("labels")
    outputs = passes.of_policy(inputs["input_ids"], None, inputs.get("attention_mask"), ())
    loss = _loss_func(passes, outputs, labels, inputs["num_items_in_batch"])
    return loss, None


def _loss_func(passes: Passes, outputs: list[Any], labels: Sym, num_items_in_batch: Sym) -> Sym:
    """Mirror dft_loss_func and eaft_loss_func."""
    logits: Sym = ops.cast(outputs[0], "fp32")
    batch, length = labels.shape
    labels, shift_labels = padded_and_shifted(labels)
    logits = ops.view(logits, (batch * length, logits.shape[-1]))
    shift_labels = ops.view(shift_labels, (batch * length,))
    of_rows = dft_cross_entropy if passes.job.objective != "eaft" else _eaft_cross_entropy
    loss = of_rows(logits, shift_labels, scored_of(passes), num_items_in_batch)
    return loss


def scored_of(passes: Passes) -> Size:
    """Return how many tokens of a batch are scored: those behind the prompt, the first of a sequence never."""
    job = passes.job
    return job.batch * (job.seq_len - (1 if yes(job.prompt_len == 0) else job.prompt_len))


def dft_cross_entropy(source: Sym, target: Sym, scored: Size, num_items_in_batch: Sym | None = None) -> Sym:
    """Mirror _dft_cross_entropy of logits [T, V] and labels [T], of which so many are scored."""
    per_token_loss = cross_entropy_of_rows(source, target)
    valid_mask = _valid(target)
    valid_losses = take_where(per_token_loss, valid_mask, scored)
    with source.tape.no_grad():
        target_probs = ops.exp(-valid_losses)
    weighted_losses = valid_losses * target_probs
    if num_items_in_batch is None:
        return ops.mean_of_all(weighted_losses)
    total_loss = ops.total(weighted_losses)
    return ops.divided(total_loss, num_items_in_batch)


def _eaft_cross_entropy(source: Sym, target: Sym, scored: Size, num_items_in_batch: Sym) -> Sym:
    """Mirror _eaft_cross_entropy of logits [T, V] and labels [T]."""
    per_token_loss = cross_entropy_of_rows(source, target)
    valid_mask = _valid(target)
    valid_losses = take_where(per_token_loss, valid_mask, scored)
    with source.tape.no_grad():
        source_detached = take_where(source, valid_mask, scored).detach()
        topk_val, _ = ops.topk(source_detached, TOP)
        logsumexp_topk = logsumexp_last(topk_val)
        log_probs_topk = result("sub", topk_val.shape, "fp32", topk_val, logsumexp_topk)
        probs_topk = ops.exp(log_probs_topk)
        entropy_approx = -sum_over(probs_topk * log_probs_topk, -1)
        entropy_term = entropy_approx / 1.0
        adaptive_weight = ops.power(entropy_term)
    weighted_losses = valid_losses * adaptive_weight
    total_loss = ops.total(weighted_losses)
    return ops.divided(total_loss, num_items_in_batch)


def _valid(target: Sym) -> Sym:
    """Mirror target != ignore_index, and the question whether any is."""
    valid_mask = compared("ne", target)
    new(target.tape, (), "bool", op="any")
    return valid_mask
