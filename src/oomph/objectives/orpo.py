"""ORPO: pairs of answers without a reference, a cross entropy of the chosen ones and the odds of one against the other.

As for CPO the logits of both exist at once and stay to the end of backward. The cross entropy is over the prompt too.
Source: trl 1.16, experimental/orpo/orpo_trainer.py (up to 0.28 in trainer/).
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.objectives import cpo
from oomph.objectives.passes import Passes, item
from oomph.ops.scores import compared, expm1, log, log1p, logsigmoid, sum_rows
from oomph.ops.selected import selective_log_softmax
from oomph.tape.autograd import like
from oomph.tape.sym import Sym

inputs = cpo.inputs


def compute_loss(passes: Passes, inputs: dict[str, Sym]) -> tuple[Sym, None]:
    """Mirror ORPOTrainer.get_batch_loss_metrics with its local variables."""
    forward_output = concatenated_forward(passes, inputs)
    (
        policy_chosen_logps, policy_rejected_logps, policy_chosen_logits, policy_rejected_logits, policy_nll_loss,
    ) = forward_output  # fmt: skip
    losses, chosen_rewards, rejected_rewards, log_odds_ratio, log_odds_chosen = _odds_ratio_loss(
        policy_chosen_logps, policy_rejected_logps
    )
    loss = policy_nll_loss - ops.mean_of_all(losses)
    reward_accuracies = ops.cast(compared("gt", chosen_rewards), "fp32")
    metrics = [
        ops.mean_of_all(chosen_rewards),
        ops.mean_of_all(rejected_rewards),
        ops.mean_of_all(reward_accuracies),
        ops.mean_of_all(chosen_rewards - rejected_rewards),
        ops.mean_of_all(policy_rejected_logps.detach()),
        ops.mean_of_all(policy_chosen_logps.detach()),
        ops.mean_of_all(ops.mean_of_all(policy_rejected_logits.detach())),
        ops.mean_of_all(ops.mean_of_all(policy_chosen_logits.detach())),
        ops.mean_of_all(policy_nll_loss.detach()),
        ops.mean_of_all(log_odds_ratio.detach()),
        ops.mean_of_all(log_odds_chosen.detach()),
    ]
    last = metrics.pop()  # noqa: F841  the loop's variable, which dies after all others
    while metrics:
        item(metrics.pop(0))
    return loss, None


def concatenated_forward(passes: Passes, batch: dict[str, Sym]) -> tuple[Sym, ...]:
    """Mirror ORPOTrainer.concatenated_forward: log-probabilities and logits of both answers, cross entropy of one."""
    concatenated_batch = {
        name: ops.cat((batch[f"chosen_{name}"], batch[f"rejected_{name}"]), 0) for name in cpo.TENSORS
    }
    len_chosen, length = batch["chosen_labels"].shape
    outputs: Any = passes.of_policy(concatenated_batch["input_ids"], None, concatenated_batch["attention_mask"], ())
    all_logits = outputs[0]
    labels = like(concatenated_batch["input_ids"], "int64", "clone")
    attention_mask = concatenated_batch["attention_mask"]
    labels = ops.where(compared("eq", attention_mask), labels)
    chosen_nll_loss = cpo.cross_entropy_loss(ops.slice_axis(all_logits, 0, 0, len_chosen), labels, len_chosen)
    all_logps = _get_batch_logps(all_logits, concatenated_batch["labels"])
    chosen_logps = ops.slice_axis(all_logps, 0, 0, len_chosen)
    rejected_logps = ops.slice_axis(all_logps, 0, len_chosen, 2 * len_chosen)
    chosen_logits = ops.slice_axis(ops.slice_axis(all_logits, 0, 0, len_chosen), 1, 0, length - 1)
    rejected_logits = ops.slice_axis(ops.slice_axis(all_logits, 0, len_chosen, 2 * len_chosen), 1, 0, length - 1)
    return chosen_logps, rejected_logps, chosen_logits, rejected_logits, chosen_nll_loss


def _get_batch_logps(logits: Sym, labels: Sym) -> Sym:
    """Mirror ORPOTrainer.get_batch_logps, averaged over tokens."""
    length = labels.shape[1]
    labels = like(ops.slice_axis(labels, 1, 1, length), "int64", "clone")
    logits = ops.slice_axis(logits, 1, 0, length - 1)
    loss_mask = compared("ne", labels)
    labels = ops.where(compared("eq", labels), labels)
    per_token_logps = selective_log_softmax(logits, labels)
    return ops.divided(sum_rows(per_token_logps * loss_mask), sum_rows(loss_mask))


def _odds_ratio_loss(policy_chosen_logps: Sym, policy_rejected_logps: Sym) -> tuple[Sym, ...]:
    """Mirror ORPOTrainer.odds_ratio_loss."""
    policy_chosen_logps = ops.cast(policy_chosen_logps, "fp32")
    policy_rejected_logps = ops.cast(policy_rejected_logps, "fp32")
    log_odds = (policy_chosen_logps - policy_rejected_logps) - (
        _log1mexp(policy_chosen_logps) - _log1mexp(policy_rejected_logps)
    )
    ratio = logsigmoid(log_odds)
    losses = ratio * 1.0
    chosen_rewards = policy_chosen_logps.detach() * 1.0
    rejected_rewards = policy_rejected_logps.detach() * 1.0
    return losses, chosen_rewards, rejected_rewards, ops.mean_of_all(ratio), ops.mean_of_all(log_odds)


def _log1mexp(x: Sym) -> Sym:
    """Mirror log(1 - exp(x)), computed in two ways of which one is taken."""
    return ops.where_either(compared("lt", x), log1p(-ops.exp(x)), log(-expm1(x)))
