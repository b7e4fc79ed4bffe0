"""GRPO's update: log-probabilities of completions that are there, weighted by their advantages.

Prompt and completion come apart and are joined; the completion is scored. With TRL's defaults (dapo's loss, no KL term,
one update per generation) there is no reference and no pass for old log-probabilities. `grpo-kl` has a KL term (beta
not 0), whose reference was asked beforehand. How completions come about is not part of the step. Source: trl 1.16,
trainer/grpo_trainer.py, _compute_loss, _get_per_token_logps_and_entropies.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.objectives.passes import Passes, autocast_dtype, item, written
from oomph.ops.elementwise import add_scalar, result
from oomph.ops.indexing import unsqueeze
from oomph.ops.scores import compared, count, minimum, sum_rows
from oomph.tape.autograd import like
from oomph.tape.sizes import Shapes, Size
from oomph.tape.sym import Sym
from oomph.tape.tape import autocast

OUTPUTS = ("entropy",)  # beside the log-probabilities


def inputs(passes: Passes) -> Shapes:
    """Return a batch: prompts, completions, a mask of each, an advantage for every completion, a number of tokens."""
    job = passes.job
    prompt, completion = (((job.batch, each), "int64") for each in (job.prompt_len, job.seq_len - job.prompt_len))
    reference = {"ref_per_token_logps": (completion[0], "fp32")} if job.objective == "grpo-kl" else {}
    return {
        **dict.fromkeys(("prompt_ids", "prompt_mask"), prompt),
        **dict.fromkeys(("completion_ids", "completion_mask"), completion),
        "advantages": ((job.batch,), "fp32"),
        "num_items_in_batch": ((), "int64"),
        **reference,
    }


def compute_loss(passes: Passes, inputs: dict[str, Sym]) -> tuple[Sym, None]:
    """Mirror GRPOTrainer._compute_loss with its local variables."""
    input_ids = ops.cat((inputs["prompt_ids"], inputs["completion_ids"]), 1)
    attention_mask = ops.cat((inputs["prompt_mask"], inputs["completion_mask"]), 1)
    logits_to_keep = inputs["completion_ids"].shape[1]
    mask = inputs["completion_mask"]
    per_token_logps, entropies = per_token_logps_and_entropies(passes, input_ids, attention_mask, logits_to_keep)
    advantages = unsqueeze(inputs["advantages"], 1)
    old_per_token_logps = per_token_logps.detach()
    log_ratio = per_token_logps - old_per_token_logps
    log_importance_weights = log_ratio
    coef_1 = ops.exp(log_importance_weights)
    per_token_kl: Any = None
    if "ref_per_token_logps" in inputs:
        per_token_kl = _divergence(inputs["ref_per_token_logps"], per_token_logps)
    per_token_loss: Any = None
    coef_2 = ops.clamp_both(coef_1)
    per_token_loss1 = coef_1 * advantages
    per_token_loss2 = coef_2 * advantages
    per_token_loss = -minimum(per_token_loss1, per_token_loss2)
    if per_token_kl is not None:
        per_token_loss = per_token_loss + per_token_kl * 1.0
    normalizer = _normalizer(inputs["num_items_in_batch"])
    loss = ops.divided(ops.total(per_token_loss * mask), normalizer)
    policy_loss = loss.detach()  # noqa: F841
    if per_token_kl is not None:
        _global_mean(per_token_kl, mask)
    logged = _metrics(coef_1, advantages, entropies, mask)  # noqa: F841  dies last
    return loss, None


def per_token_logps_and_entropies(
    passes: Passes, input_ids: Sym, attention_mask: Sym, logits_to_keep: Size
) -> tuple[Sym, Sym]:
    """Mirror _get_per_token_logps_and_entropies for one batch: joined lists of one tensor each, so copies."""
    tape, length = input_ids.tape, input_ids.shape[1]
    all_logps = []
    all_entropies = []
    labels = ops.masked_fill(ops.slice_axis(input_ids, 0, 0, input_ids.shape[0]), compared("eq", attention_mask))
    written(labels)
    with autocast(tape, autocast_dtype(passes.job)):
        outputs = passes.of_policy(input_ids, labels, attention_mask, OUTPUTS)
    kept = length - 1 - logits_to_keep, length - 1
    all_logps.append(ops.slice_axis(outputs[0]["log_probs"], 1, *kept))
    all_entropies.append(ops.slice_axis(outputs[0]["entropy"], 1, *kept))
    logps = ops.cat(all_logps, 0)
    entropies = ops.cat(all_entropies, 0)
    return logps, entropies


def _divergence(ref_per_token_logps: Sym, per_token_logps: Sym) -> Sym:
    """Mirror exp(reference - policy) - (reference - policy) - 1, of log-probabilities [B, S]."""
    ratio = ops.exp(ref_per_token_logps - per_token_logps)
    difference = ref_per_token_logps - per_token_logps
    more = ratio - difference
    del ratio, difference
    return add_scalar(more)


def _normalizer(num_items_in_batch: Sym) -> Sym:
    """Mirror num_items_in_batch.clamp(min=1.0) / processes * accumulation steps / steps per generation."""
    normalizer = like(like(num_items_in_batch, "fp32", "clamp"), "fp32", "div")
    normalizer = like(like(normalizer, "fp32", "mul"), "fp32", "div")
    return normalizer


def _metrics(coef_1: Sym, advantages: Sym, entropies: Sym, mask: Sym) -> list[Sym]:
    """Mirror what is logged; return what the trainer's variables hold of it to its end, which dies from the back."""
    _global_mean(entropies, mask)
    is_low_clipped = clipped(coef_1, advantages)
    is_high_clipped = clipped(coef_1, advantages)
    is_region_clipped = compared("bitwise_or", is_low_clipped)
    for each in (is_low_clipped, is_high_clipped, is_region_clipped):
        _global_mean(like(each, "fp32"), mask)
    gathered_low_clip = _row_means(like(is_low_clipped, "fp32"), mask)
    extreme(gathered_low_clip, "min")
    gathered_high_clip = _row_means(like(is_high_clipped, "fp32"), mask)
    extreme(gathered_high_clip, "max")
    del each
    return [gathered_high_clip, gathered_low_clip, is_region_clipped, is_high_clipped, is_low_clipped]


def clipped(coef_1: Sym, advantages: Sym) -> Sym:
    """Mirror (coef_1 < 1 - epsilon) & (advantages < 0)."""
    beyond = compared("lt", coef_1)
    wanted = compared("lt", advantages)
    return compared("bitwise_and", beyond, wanted)


def _global_mean(x: Sym, mask: Sym) -> None:
    """Mirror global_masked_mean: a sum and a number of tokens, stacked, then one by the other."""
    local_sum: Any = ops.total(x * mask)
    whole = count(mask)
    local_count = like(whole, "fp32")
    del whole
    totals = ops.stack_last([local_sum, local_count])
    item(ops.divided(ops.select(totals, 0), result("clamp", (), "fp32", totals)))


def _row_means(x: Sym, mask: Sym) -> Sym:
    """Mirror masked_seq_mean."""
    total, number = sum_rows(x * mask), sum_rows(mask)
    made = result("div", x.shape[:1], "fp32", total, number)
    del total, number
    return made


def extreme(x: Sym, op: str) -> None:
    """Mirror nanmin(x).item() or nanmax: are all of x [B] no numbers, and the extreme of those that are."""
    unknown = compared("isnan", x)
    answer = x.tape.empty((), "bool", op="all")
    del unknown, answer
    unknown = compared("isnan", x)
    known = compared("bitwise_not", unknown)
    del unknown
    picked = like(x, "fp32", "index")
    del known
    extreme = x.tape.empty((), "fp32", op=op)
    del picked
    item(extreme)
