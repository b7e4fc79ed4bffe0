"""RLOO's update: as GRPO's, but a number per completion; its reference is in memory, and was asked beforehand.

Source: trl 1.16, trainer/rloo_trainer.py, _compute_loss.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.objectives.grpo import clipped, extreme, per_token_logps_and_entropies
from oomph.objectives.passes import Passes, item
from oomph.ops.elementwise import result
from oomph.ops.scores import compared, count, minimum, sum_rows
from oomph.tape.autograd import like
from oomph.tape.sizes import Shapes
from oomph.tape.sym import Sym


def inputs(passes: Passes) -> Shapes:
    """Return a batch: prompts, completions, a mask of each; of each completion its log-probability and advantage."""
    job = passes.job
    prompt, completion = (((job.batch, each), "int64") for each in (job.prompt_len, job.seq_len - job.prompt_len))
    return {
        **dict.fromkeys(("prompt_ids", "prompt_mask"), prompt),
        **dict.fromkeys(("completion_ids", "completion_mask"), completion),
        **dict.fromkeys(("old_logps", "advantages"), ((job.batch,), "fp32")),
    }


def compute_loss(passes: Passes, inputs: dict[str, Sym]) -> tuple[Sym, None]:
    """Mirror RLOOTrainer._compute_loss with its local variables."""
    input_ids = ops.cat((inputs["prompt_ids"], inputs["completion_ids"]), 1)
    attention_mask = ops.cat((inputs["prompt_mask"], inputs["completion_mask"]), 1)
    logits_to_keep = inputs["completion_ids"].shape[1]
    per_token_logps, entropies = per_token_logps_and_entropies(passes, input_ids, attention_mask, logits_to_keep)
    logps = sum_rows(per_token_logps * inputs["completion_mask"])
    log_ratio = logps - inputs["old_logps"]
    advantages = inputs["advantages"]
    coef_1 = ops.exp(log_ratio)
    coef_2 = ops.clamp_both(coef_1)
    per_sequence_loss1 = coef_1 * advantages
    per_sequence_loss2 = coef_2 * advantages
    per_sequence_loss = -minimum(per_sequence_loss1, per_sequence_loss2)
    loss = ops.mean_of_all(per_sequence_loss)
    logged = _metrics(coef_1, advantages, entropies, inputs["completion_mask"])  # noqa: F841  dies last
    return loss, None


def _metrics(coef_1: Sym, advantages: Sym, entropies: Sym, mask: Sym) -> list[Any]:
    """Mirror what is logged; return what the trainer's variables hold of it to its end, which dies from the back."""
    totals = [ops.total(entropies * mask)]
    whole = count(mask)
    totals.append(like(whole, "fp32"))
    del whole
    entropy_stats = ops.stack_last(totals)
    totals.clear()
    item(ops.divided(ops.select(entropy_stats, 0), result("clamp", (), "fp32", entropy_stats)))
    is_low_clipped = clipped(coef_1, advantages)
    is_high_clipped = clipped(coef_1, advantages)
    is_region_clipped = compared("bitwise_or", is_low_clipped)
    gathered_low_clip = like(is_low_clipped, "fp32")
    _known_mean(gathered_low_clip)
    extreme(gathered_low_clip, "min")
    gathered_high_clip = like(is_high_clipped, "fp32")
    _known_mean(gathered_high_clip)
    extreme(gathered_high_clip, "max")
    gathered_clip_ratio = like(is_region_clipped, "fp32")
    _known_mean(gathered_clip_ratio)
    gathered = [gathered_clip_ratio, gathered_high_clip, gathered_low_clip]
    return [*gathered, is_region_clipped, is_high_clipped, is_low_clipped, entropy_stats]


def _known_mean(x: Sym) -> None:
    """Mirror x.nanmean().item() of x [B]: the sum of what is a number, by how many are."""
    known = compared("ne", x)
    number = count(known)
    del known
    total = x.tape.empty((), "fp32", op="nansum")
    mean = result("div", (), "fp32", total, number)
    del total, number
    item(mean)
