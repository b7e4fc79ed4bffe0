"""DPO, IPO, ORPO and SimPO as LLaMA-Factory's CustomDPOTrainer has them, of logits that exist for both answers.

Beside the policy's fp32 logits [2 B, S, V] the graph keeps their log-softmax, and the variables of the loss keep both
while a reference runs. ORPO and SimPO have none. Source: LLaMA-Factory 0.9.5, train/dpo/trainer.py; trl 0.24,
trainer/dpo_trainer.py, dpo_loss.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.objectives.factory import cloned, get_batch_logps
from oomph.objectives.passes import Passes, item, mean_item
from oomph.ops.scores import compared, halves, log1p, logsigmoid
from oomph.tape.sizes import Shapes
from oomph.tape.sym import Sym

AVERAGED = ("ipo", "orpo", "simpo")


def inputs(passes: Passes) -> Shapes:
    """Return a batch: chosen answers, then rejected ones, each behind its prompt."""
    job = passes.job
    return dict.fromkeys(("input_ids", "attention_mask", "labels"), ((2 * job.batch, job.seq_len), "int64"))


def compute_loss(passes: Passes, inputs: dict[str, Sym]) -> tuple[Sym, None]:
    """Mirror get_batch_loss_metrics with its local variables."""
    model_output = concatenated_forward(passes, inputs)
    policy_chosen_logps = model_output["chosen_logps"]
    policy_rejected_logps = model_output["rejected_logps"]
    policy_chosen_logits = model_output["chosen_logits"]
    policy_rejected_logits = model_output["rejected_logits"]
    policy_chosen_logps_avg = model_output["chosen_logps_avg"]
    reference_chosen_logps, reference_rejected_logps = _compute_reference_log_probs(passes, inputs)
    losses, chosen_rewards, rejected_rewards = _compute_preference_loss(
        passes, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
    )
    sft_loss = -policy_chosen_logps_avg
    mean_item(chosen_rewards)
    mean_item(rejected_rewards)
    item(ops.mean_of_all(ops.cast(compared("gt", chosen_rewards), "fp32")))
    item(ops.mean_of_all(chosen_rewards - rejected_rewards))
    mean_item(policy_chosen_logps)
    mean_item(policy_rejected_logps)
    mean_item(policy_chosen_logits)
    mean_item(policy_rejected_logits)
    if passes.job.objective == "orpo":
        mean_item(sft_loss)
        item(ops.mean_of_all((losses - sft_loss) / 1.0))
    return ops.mean_of_all(losses), None


def concatenated_forward(passes: Passes, batch: dict[str, Sym], is_ref_model: bool = False) -> dict[str, Sym]:
    """Mirror concatenated_forward: log-probabilities and logits of both answers."""
    if passes.job.compares_with is not None:
        batch = cloned(batch)
    labels = batch.pop("labels")
    run = passes.of_reference if is_ref_model else passes.of_policy
    all_logits: Sym = ops.cast(run(batch["input_ids"], None, batch["attention_mask"], ())[0], "fp32")
    all_logps, valid_length = get_batch_logps(all_logits, labels)
    if passes.job.objective in AVERAGED:
        all_logps = ops.divided(all_logps, valid_length)
    chosen_logps, rejected_logps = halves(all_logps)
    chosen_logits, rejected_logits = halves(all_logits)
    chosen_length, _ = halves(valid_length)
    averaged = passes.job.objective in AVERAGED
    chosen_logps_avg = chosen_logps if averaged else ops.divided(chosen_logps, chosen_length)
    return {
        "chosen_logps": chosen_logps,
        "rejected_logps": rejected_logps,
        "chosen_logits": chosen_logits,
        "rejected_logits": rejected_logits,
        "chosen_logps_avg": chosen_logps_avg,
    }


def _compute_reference_log_probs(passes: Passes, batch: dict[str, Sym]) -> tuple[Sym | None, Sym | None]:
    """Mirror compute_reference_log_probs: of a second model, or of the first without its adapters."""
    if passes.job.compares_with is None:
        return None, None
    with passes.tape.no_grad():
        ref_output = concatenated_forward(passes, batch, is_ref_model=True)
        reference_chosen_logps = ref_output["chosen_logps"]
        reference_rejected_logps = ref_output["rejected_logps"]
    return reference_chosen_logps, reference_rejected_logps


def _compute_preference_loss(
    passes: Passes,
    policy_chosen_logps: Sym,
    policy_rejected_logps: Sym,
    reference_chosen_logps: Sym | None,
    reference_rejected_logps: Sym | None,
) -> tuple[Sym, Sym, Sym]:
    """Mirror compute_preference_loss: losses, and the rewards of both answers."""
    if reference_chosen_logps is not None and reference_rejected_logps is not None:
        return _dpo_loss(
            passes, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
        )
    of_pairs = _odds_ratio_loss if passes.job.objective == "orpo" else _simpo_loss
    losses = of_pairs(policy_chosen_logps, policy_rejected_logps)
    chosen_rewards = policy_chosen_logps.detach() * 1.0
    rejected_rewards = policy_rejected_logps.detach() * 1.0
    return losses, chosen_rewards, rejected_rewards


def _dpo_loss(
    passes: Passes, chosen_logps: Sym, rejected_logps: Sym, ref_chosen_logps: Sym, ref_rejected_logps: Sym
) -> tuple[Sym, Sym, Sym]:
    """Mirror DPOTrainer.dpo_loss of TRL 0.24."""
    chosen_logratios = chosen_logps - ref_chosen_logps * 1.0  # noqa: F841  lives as long
    rejected_logratios = rejected_logps - ref_rejected_logps * 1.0  # noqa: F841
    logits: Any = None  # dies before what follows
    logratios = chosen_logps - rejected_logps
    ref_logratios = ref_chosen_logps - ref_rejected_logps
    logits = logratios - ref_logratios
    if passes.job.objective == "ipo":
        losses = ops.power(logits + 1.0)
    else:
        losses = -logsigmoid(logits * 1.0) * 1.0 - logsigmoid(logits * 1.0) * 1.0
    chosen_rewards = (chosen_logps - ref_chosen_logps).detach() * 1.0
    rejected_rewards = (rejected_logps - ref_rejected_logps).detach() * 1.0
    return losses, chosen_rewards, rejected_rewards


def _odds_ratio_loss(chosen_logps: Sym, rejected_logps: Sym) -> Sym:
    """Mirror odds_ratio_loss."""
    log_odds = (chosen_logps - rejected_logps) - (log1p(-ops.exp(chosen_logps)) - log1p(-ops.exp(rejected_logps)))
    sft_loss = -chosen_logps
    odds_ratio_loss = -logsigmoid(log_odds)
    orpo_loss = sft_loss + odds_ratio_loss * 1.0
    return orpo_loss


def _simpo_loss(chosen_logps: Sym, rejected_logps: Sym) -> Sym:
    """Mirror simpo_loss."""
    pi_logratios = chosen_logps - rejected_logps
    logits = pi_logratios + 1.0
    simpo_loss = -logsigmoid(logits * 1.0)
    return simpo_loss
