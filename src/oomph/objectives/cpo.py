"""CPO and SimPO: pairs of answers without a reference, of logits that exist for all of both.

CPO adds the cross entropy of the chosen answers; SimPO divides by lengths and, as its authors run it, adds nothing
(cpo_alpha 0). The logits stay to the end of backward: TRL keeps none of them, but the graph does. Source: trl 1.16,
experimental/cpo/cpo_trainer.py (up to 0.28 in trainer/).
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.objectives.passes import Passes, item, mean_item, written
from oomph.ops.scores import compared, logsigmoid, sum_rows
from oomph.ops.selected import selective_log_softmax
from oomph.tape.autograd import like
from oomph.tape.sizes import Shapes, yes
from oomph.tape.sym import Sym

TENSORS = ("input_ids", "attention_mask", "labels")


def inputs(passes: Passes) -> Shapes:
    """Return a batch: chosen and rejected answers, each behind its prompt, and the prompts apart."""
    job = passes.job
    tokens = ((job.batch, job.seq_len), "int64")
    names = [f"{answer}_{name}" for answer in ("chosen", "rejected") for name in TENSORS]
    prompts = () if yes(job.prompt_len == 0) else ("prompt_input_ids", "prompt_attention_mask")
    return {**dict.fromkeys(names, tokens), **dict.fromkeys(prompts, ((job.batch, job.prompt_len), "int64"))}


def compute_loss(passes: Passes, inputs: dict[str, Sym]) -> tuple[Sym, None]:
    """Mirror CPOTrainer.get_batch_loss_metrics with its local variables."""
    policy_chosen_logps, policy_rejected_logps, policy_chosen_logits, policy_rejected_logits, policy_nll_loss = (
        concatenated_forward(passes, inputs)
    )
    losses, chosen_rewards, rejected_rewards = _cpo_loss(passes, policy_chosen_logps, policy_rejected_logps)
    loss = ops.mean_of_all(losses) + policy_nll_loss * 1.0
    reward_accuracies = ops.cast(compared("gt", chosen_rewards), "fp32")
    mean_item(chosen_rewards)
    mean_item(rejected_rewards)
    mean_item(reward_accuracies)
    item(ops.mean_of_all(chosen_rewards - rejected_rewards))
    mean_item(policy_rejected_logps.detach())
    mean_item(policy_chosen_logps.detach())
    item(ops.mean_of_all(ops.mean_of_all(policy_rejected_logits.detach())))
    item(ops.mean_of_all(ops.mean_of_all(policy_chosen_logits.detach())))
    mean_item(policy_nll_loss.detach())
    return loss, None


def concatenated_forward(passes: Passes, batch: dict[str, Sym]) -> tuple[Sym, ...]:
    """Mirror CPOTrainer.concatenated_forward: log-probabilities and logits of both answers, cross entropy of one."""
    concatenated_batch = {name: ops.cat((batch[f"chosen_{name}"], batch[f"rejected_{name}"]), 0) for name in TENSORS}
    len_chosen = batch["chosen_labels"].shape[0]
    outputs: Any = passes.of_policy(concatenated_batch["input_ids"], None, concatenated_batch["attention_mask"], ())
    all_logits = outputs[0]
    labels = like(concatenated_batch["labels"], "int64", "clone")
    if passes.job.objective == "simpo":
        nll_loss = labels.tape.empty((), "fp32", op="lift_fresh")
    else:
        nll_loss = cross_entropy_loss(ops.slice_axis(all_logits, 0, 0, len_chosen), labels, len_chosen)
    all_logps = _get_batch_logps(all_logits, concatenated_batch["labels"], passes.job.objective == "simpo")
    chosen_logps = ops.slice_axis(all_logps, 0, 0, len_chosen)
    rejected_logps = ops.slice_axis(all_logps, 0, len_chosen, 2 * len_chosen)
    chosen_logits = ops.slice_axis(all_logits, 0, 0, len_chosen)
    rejected_logits = ops.slice_axis(all_logits, 0, len_chosen, 2 * len_chosen)
    return chosen_logps, rejected_logps, chosen_logits, rejected_logits, nll_loss


def cross_entropy_loss(logits: Sym, labels: Sym, len_chosen: Any) -> Sym:
    """Mirror the cross entropy of the chosen answers: logits [B, S, V] shifted and copied, in their own dtype."""
    length = labels.shape[1]
    labels = ops.slice_axis(labels, 0, 0, len_chosen)
    logits = ops.contiguous(ops.slice_axis(logits, 1, 0, length - 1))
    labels = ops.contiguous(ops.slice_axis(labels, 1, 1, length))
    logits = ops.view(logits, (ops.rows(logits), logits.shape[-1]))
    labels = ops.view(labels, (labels.shape[0] * labels.shape[1],))
    return ops.cross_entropy(logits, labels)


def _get_batch_logps(logits: Sym, labels: Sym, average_log_prob: bool) -> Sym:
    """Mirror CPOTrainer.get_batch_logps."""
    length = labels.shape[1]
    labels = like(ops.slice_axis(labels, 1, 1, length), "int64", "clone")
    logits = ops.slice_axis(logits, 1, 0, length - 1)
    loss_mask = compared("ne", labels)
    _ignore(labels)
    per_token_logps = selective_log_softmax(logits, labels)
    if average_log_prob:
        return ops.divided(sum_rows(per_token_logps * loss_mask), sum_rows(loss_mask))
    return sum_rows(per_token_logps * loss_mask)


def _ignore(labels: Sym) -> None:
    """Mirror labels[labels == -100] = 0."""
    marked = compared("eq", labels)
    written(labels)
    del marked


def _cpo_loss(passes: Passes, policy_chosen_logps: Sym, policy_rejected_logps: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror CPOTrainer.cpo_loss."""
    logits = policy_chosen_logps - policy_rejected_logps
    if passes.job.objective == "simpo":
        logits = logits + 1.0
    losses = -logsigmoid(logits * 1.0) * 1.0 - logsigmoid(logits * 1.0) * 1.0
    chosen_rewards = policy_chosen_logps.detach() * 1.0
    rejected_rewards = policy_rejected_logps.detach() * 1.0
    return losses, chosen_rewards, rejected_rewards
