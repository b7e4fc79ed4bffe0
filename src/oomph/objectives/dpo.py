"""DPO and its likes: pairs of answers in one batch, the policy's log-probabilities against a reference's.

The policy's activations lie there while the reference runs. Source: trl 1.16, trainer/dpo_trainer.py, _compute_loss,
DataCollatorForPreference.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.losses.fused_head import counted
from oomph.objectives.passes import Passes, item, mean_item
from oomph.ops.elementwise import result
from oomph.ops.fused_head import take_where
from oomph.ops.scores import compared, count, halves, logsigmoid, sum_rows
from oomph.tape.autograd import like
from oomph.tape.sizes import Shapes
from oomph.tape.sym import Sym

OUTPUTS = ("entropy", "mean_logits", "is_top1")  # beside the log-probabilities, of the model that trains


def inputs(passes: Passes) -> Shapes:
    """Return a batch: chosen answers, then rejected ones, each behind its prompt."""
    job = passes.job
    tokens = ((2 * job.batch, job.seq_len), "int64")
    known = ((job.batch,), "fp32")
    names = ("ref_chosen_logps", "ref_rejected_logps") if job.compares_with == "precomputed" else ()
    return {**dict.fromkeys(("input_ids", "attention_mask", "completion_mask"), tokens), **dict.fromkeys(names, known)}


def compute_loss(passes: Passes, inputs: dict[str, Sym]) -> tuple[Sym, None]:
    """Mirror DPOTrainer._compute_loss with its local variables."""
    completion_mask = inputs["completion_mask"]
    length = completion_mask.shape[1]
    shift_completion_mask = ops.slice_axis(completion_mask, 1, 1, length)
    labels = ops.masked_fill(inputs["input_ids"], compared("eq", completion_mask))
    outputs = passes.of_policy(inputs["input_ids"], labels, inputs["attention_mask"], OUTPUTS)
    seq_len = length - 1
    per_token_logps = ops.slice_axis(outputs[0]["log_probs"], 1, 0, seq_len)
    logps = sum_rows(per_token_logps)
    chosen_logps, rejected_logps = halves(logps)
    ref_outputs: Any = None
    ref_per_token_logps: Any = None
    ref_logps: Any = None
    if passes.job.compares_with == "precomputed":
        ref_chosen_logps, ref_rejected_logps = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
    else:
        asked = () if passes.reference is not None else OUTPUTS
        ref_outputs = passes.of_reference(inputs["input_ids"], labels, inputs["attention_mask"], asked)
        ref_per_token_logps = ops.slice_axis(ref_outputs[0]["log_probs"], 1, 0, seq_len)
        ref_logps = sum_rows(ref_per_token_logps)
        ref_chosen_logps, ref_rejected_logps = halves(ref_logps)

    chosen_logratios = chosen_logps - ref_chosen_logps
    rejected_logratios = rejected_logps - ref_rejected_logps
    chosen_scores = chosen_logratios
    rejected_scores = rejected_logratios
    delta_score = chosen_scores - rejected_scores
    per_sequence_loss: Any = None
    loss: Any = None
    if passes.job.objective == "dpo":
        per_sequence_loss = -logsigmoid(delta_score * 1.0)
    else:
        chosen_mask, rejected_mask = halves(completion_mask)
        chosen_avg_score = _averaged(chosen_scores, chosen_mask)
        rejected_avg_score = _averaged(rejected_scores, rejected_mask)
        ipo_delta = chosen_avg_score - rejected_avg_score
        per_sequence_loss = ops.power(ipo_delta + 1.0)
    loss = ops.mean_of_all(per_sequence_loss) * 1.0 + 0.0
    answers = (chosen_logratios, rejected_logratios, chosen_logps, rejected_logps)
    metrics = _metrics(outputs[0], shift_completion_mask, inputs["attention_mask"], answers)  # noqa: F841  dies last
    del answers
    return loss, None


def _averaged(scores: Sym, mask: Sym) -> Sym:
    """Mirror scores / mask.sum(dim=1).clamp(min=1.0): a number bounded by a float becomes one."""
    length = sum_rows(mask)
    bounded = like(length, "fp32", "clamp")
    del length
    return ops.divided(scores, bounded)


def _metrics(outputs: dict[str, Sym], mask: Sym, attention_mask: Sym, answers: tuple[Sym, ...]) -> list[Sym]:
    """Mirror what is logged; return what the trainer's variables hold of it to its end, which dies from the back."""
    chosen_logratios, rejected_logratios, chosen_logps, rejected_logps = answers
    seq_len = mask.shape[1]
    per_token_entropy = ops.slice_axis(outputs["entropy"], 1, 0, seq_len).detach()
    entropy_sum = count(_times(per_token_entropy, mask))
    total_tokens = count(mask)
    entropy_sum = count(entropy_sum)
    total_tokens = count(total_tokens)
    item(compared("gt", total_tokens))
    item(_quotient(entropy_sum, total_tokens))
    item(count(count(attention_mask)))
    mean_logits = halves(ops.slice_axis(outputs["mean_logits"], 1, 0, seq_len))
    _mean_of_logits(mean_logits, halves(mask))

    chosen_is_top1, _ = halves(ops.slice_axis(outputs["is_top1"], 1, 0, seq_len))
    chosen_mask, _ = halves(mask)
    correct_predictions = compared("bitwise_and", chosen_is_top1, ops.cast(chosen_mask, "bool"))
    total_tokens = count(chosen_mask)
    correct_tokens = count(correct_predictions)
    total_sum = count(total_tokens)
    item(compared("gt", total_sum))
    item(_quotient(count(correct_tokens), total_sum))

    chosen_rewards = chosen_logratios.detach() * 1.0
    rejected_rewards = rejected_logratios.detach() * 1.0
    mean_item(chosen_rewards)
    mean_item(rejected_rewards)
    reward_accuracies = ops.cast(compared("gt", chosen_rewards), "fp32")
    mean_item(reward_accuracies)
    margins = chosen_rewards - rejected_rewards
    mean_item(margins)
    mean_item(chosen_logps)
    mean_item(rejected_logps)
    rewards = [margins, reward_accuracies, rejected_rewards, chosen_rewards]
    correct = [total_sum, correct_tokens, correct_predictions, chosen_is_top1]
    return [*rewards, *correct, *mean_logits, total_tokens, entropy_sum, per_token_entropy]


def _mean_of_logits(mean_logits: tuple[Sym, Sym], masks: tuple[Sym, Sym]) -> None:
    """Mirror the average logits of chosen and rejected answers: sums and numbers of tokens, then read one by one."""
    found = []
    for values, mask in zip(mean_logits, masks, strict=True):
        found.append(count(take_where(values, ops.cast(mask, "bool"), counted(mask))))
        found.append(count(mask))
    while found:
        item(count(found[0]))
        del found[0]


def _times(numbers: Sym, mask: Sym) -> Sym:
    return result("mul", numbers.shape, numbers.dtype, numbers, mask)


def _quotient(total: Sym, number: Sym) -> Sym:
    return result("div", (), "fp32", total, number)
