"""KTO as LLaMA-Factory's CustomKTOTrainer has it: each pass of all logits in fp32, and copies of good and bad ones.

Two passes of the policy, the one on mismatched answers without gradients, and two of the reference. A whole batch is
cloned in each. Half of the answers are taken to be good ones. Source: LLaMA-Factory 0.9.5, train/kto/trainer.py; trl
0.24, trainer/kto_trainer.py, kto_loss.
"""

from __future__ import annotations

from oomph import ops
from oomph.objectives.factory import cloned, get_batch_logps
from oomph.objectives.passes import Passes, item
from oomph.ops.fused_head import take_where
from oomph.ops.scores import compared, nanmean, nansum
from oomph.tape.autograd import like
from oomph.tape.sizes import Shapes, Size, yes
from oomph.tape.sym import Sym

TENSORS = ("input_ids", "attention_mask", "labels")


def inputs(passes: Passes) -> Shapes:
    """Return a batch: answers behind their prompts, as many mismatched ones, and which of the former are good."""
    job = passes.job
    names = (*TENSORS, *(f"kl_{name}" for name in TENSORS))
    return {**dict.fromkeys(names, ((job.batch, job.seq_len), "int64")), "kto_tags": ((job.batch,), "bool")}


def compute_loss(passes: Passes, inputs: dict[str, Sym]) -> tuple[Sym, None]:
    """Mirror get_batch_loss_metrics with its local variables."""
    (
        policy_chosen_logps, policy_rejected_logps, policy_chosen_logits, policy_rejected_logits, policy_kl_logps,
        _policy_chosen_logps_avg,
    ) = _concatenated_forward(passes, inputs)  # fmt: skip
    reference_chosen_logps, reference_rejected_logps, reference_kl_logps = _compute_reference_log_probs(passes, inputs)
    losses, chosen_rewards, rejected_rewards, _kl = _kto_loss(
        (policy_chosen_logps, policy_rejected_logps, policy_kl_logps),
        (reference_chosen_logps, reference_rejected_logps, reference_kl_logps),
    )
    losses = nanmean(losses)
    if _any(policy_chosen_logps):
        _sums(chosen_rewards, policy_chosen_logps, policy_chosen_logits)
    _sums(rejected_rewards, policy_rejected_logps, policy_rejected_logits)
    return losses, None


def _sums(*logged: Sym) -> None:
    for each in logged:
        item(nansum(each))


def _any(x: Sym) -> bool:
    return bool(yes(x.shape[0] > 0))


def _forward(passes: Passes, batch: dict[str, Sym], prefix: str, of_reference: bool) -> tuple[Sym, Sym, Sym]:
    """Mirror forward: logits, log-probabilities, and those by their number."""
    batch = cloned(batch)
    model_inputs = {name: batch[f"{prefix}{name}"] for name in ("input_ids", "attention_mask")}
    run = passes.of_reference if of_reference else passes.of_mismatched if prefix else passes.of_policy
    logits: Sym = ops.cast(run(model_inputs["input_ids"], None, model_inputs["attention_mask"], ())[0], "fp32")
    logps, valid_length = get_batch_logps(logits, batch[f"{prefix}labels"])
    return logits, logps, ops.divided(logps, valid_length)


def _concatenated_forward(passes: Passes, batch: dict[str, Sym], of_reference: bool = False) -> tuple[Sym, ...]:
    """Mirror concatenated_forward: answers, then mismatched ones; logits of good and of bad ones are copies."""
    target_logits, target_logps, target_logps_avg = _forward(passes, batch, "", of_reference)
    with passes.tape.no_grad():
        _, kl_logps, _ = _forward(passes, batch, "kl_", of_reference)
    tags = batch["kto_tags"]
    chosen: Size = tags.shape[0] // 2
    chosen_logits = take_where(target_logits, tags, chosen)
    chosen_logps = take_where(target_logps, tags, chosen)
    rejected_logits = take_where(target_logits, compared("bitwise_not", tags), tags.shape[0] - chosen)
    rejected_logps = take_where(target_logps, compared("bitwise_not", tags), tags.shape[0] - chosen)
    chosen_logps_avg = take_where(target_logps_avg, tags, chosen)
    return chosen_logps, rejected_logps, chosen_logits, rejected_logits, kl_logps, chosen_logps_avg


def _compute_reference_log_probs(passes: Passes, batch: dict[str, Sym]) -> tuple[Sym, Sym, Sym]:
    """Mirror compute_reference_log_probs: of a second model, or of the first without its adapters."""
    with passes.tape.no_grad():
        reference_chosen_logps, reference_rejected_logps, _, _, reference_kl_logps, _ = _concatenated_forward(
            passes, batch, of_reference=True
        )
    return reference_chosen_logps, reference_rejected_logps, reference_kl_logps


def _kto_loss(policy: tuple[Sym, Sym, Sym], reference: tuple[Sym, Sym, Sym]) -> tuple[Sym, Sym, Sym, Sym]:
    """Mirror KTOTrainer.kto_loss of TRL 0.24."""
    chosen_logps, rejected_logps, kl_logps = policy
    ref_chosen_logps, ref_rejected_logps, ref_kl_logps = reference
    kl = ops.mean_of_all(kl_logps - ref_kl_logps).detach()
    kl = like(ops.mean_of_all(kl), "fp32", "clamp")
    if _any(chosen_logps):
        chosen_logratios = chosen_logps - ref_chosen_logps
        chosen_losses = -ops.sigmoid((chosen_logratios - kl) * 1.0)
        chosen_rewards = chosen_logratios.detach() * 1.0
    else:
        chosen_losses = chosen_rewards = chosen_logps
    rejected_logratios = rejected_logps - ref_rejected_logps
    rejected_losses = -ops.sigmoid((kl - rejected_logratios) * 1.0)
    rejected_rewards = rejected_logratios.detach() * 1.0
    losses = ops.cat((chosen_losses * 1.0, rejected_losses * 1.0), 0)
    return losses, chosen_rewards, rejected_rewards, kl
