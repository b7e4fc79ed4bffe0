"""KTO: answers that are good or bad, one by one, and mismatched ones that say how far the policy has moved.

Four passes: the policy on mismatched answers without gradients, the policy, and its reference on both. Half of the
answers are taken to be good ones; how many changes a few numbers per token. Source: trl 1.16, trainer/kto_trainer.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.losses.fused_head import counted
from oomph.objectives.passes import Passes, item
from oomph.ops.elementwise import result
from oomph.ops.fused_head import take_where
from oomph.ops.scores import compared, count, nanmean, nansum, pick_rows, sum_rows
from oomph.tape.autograd import like
from oomph.tape.sizes import Shapes, Size
from oomph.tape.sym import Sym

OUTPUTS = ("entropy", "mean_logits", "is_top1")  # beside the log-probabilities, of the model that trains
TENSORS = ("input_ids", "attention_mask", "completion_mask")


def inputs(passes: Passes) -> Shapes:
    """Return a batch: answers behind their prompts, as many mismatched ones, and which of the former are good."""
    job = passes.job
    names = (*TENSORS, *(f"KL_{name}" for name in TENSORS))
    known = ("ref_logps", "ref_KL_logps") if job.compares_with == "precomputed" else ()
    return {
        **dict.fromkeys(names, ((job.batch, job.seq_len), "int64")),
        **dict.fromkeys(known, ((job.batch,), "fp32")),
        "label": ((job.batch,), "bool"),
    }


def compute_loss(passes: Passes, inputs: dict[str, Sym]) -> tuple[Sym, None]:
    """Mirror KTOTrainer._compute_loss with its local variables."""
    batch = dict(inputs)
    labels = batch["label"]
    chosen: Size = labels.shape[0] // 2
    num_chosen = count(labels)
    num_rejected = like(num_chosen, "int64", "rsub")
    kl_logps = _compute_kl_logps(passes, batch, of_reference=False)
    completion_labels = ops.masked_fill(batch["input_ids"], compared("eq", batch["completion_mask"]))
    outputs = passes.of_policy(batch["input_ids"], completion_labels, batch["attention_mask"], OUTPUTS)
    seq_len = batch["input_ids"].shape[1] - 1
    per_token_logps = ops.slice_axis(outputs[0]["log_probs"], 1, 0, seq_len)
    completion_logps = sum_rows(per_token_logps)
    chosen_idx = _places(labels, chosen)
    rejected_idx = _places(compared("bitwise_not", labels), labels.shape[0] - chosen)
    chosen_logps = pick_rows(completion_logps, chosen_idx)
    rejected_logps = pick_rows(completion_logps, rejected_idx)
    if passes.job.compares_with == "precomputed":
        ref_chosen_logps = pick_rows(batch["ref_logps"], chosen_idx)
        ref_rejected_logps = pick_rows(batch["ref_logps"], rejected_idx)
        ref_kl_logps = batch["ref_KL_logps"]
    else:
        ref_kl_logps = _compute_kl_logps(passes, batch, of_reference=True)
        asked = () if passes.reference is not None else OUTPUTS
        ref_outputs = passes.of_reference(batch["input_ids"], completion_labels, batch["attention_mask"], asked)
        ref_per_token_logps = ops.slice_axis(ref_outputs[0]["log_probs"], 1, 0, seq_len)
        ref_completion_logps = sum_rows(ref_per_token_logps)
        ref_chosen_logps = pick_rows(ref_completion_logps, chosen_idx)
        ref_rejected_logps = pick_rows(ref_completion_logps, rejected_idx)
    kl = ops.mean_of_all(kl_logps - ref_kl_logps).detach()
    kl = like(ops.mean_of_all(kl), "fp32", "clamp")
    chosen_logratios = chosen_logps - ref_chosen_logps
    chosen_losses = -ops.sigmoid((chosen_logratios - kl) * 1.0)
    chosen_rewards = chosen_logratios.detach() * 1.0
    rejected_logratios = rejected_logps - ref_rejected_logps
    rejected_losses = -ops.sigmoid((kl - rejected_logratios) * 1.0)
    rejected_rewards = rejected_logratios.detach() * 1.0
    losses = ops.cat((chosen_losses * 1.0, rejected_losses * 1.0), 0)
    logged = _metrics(outputs[0], batch, (chosen_idx, rejected_idx))  # noqa: F841  dies last
    _sums((num_chosen, num_rejected), (chosen_rewards, chosen_logps, rejected_rewards, rejected_logps))
    loss = nanmean(losses)
    return loss, None


def _compute_kl_logps(passes: Passes, batch: dict[str, Sym], of_reference: bool) -> Sym:
    """Mirror _compute_kl_logps: log-probabilities of mismatched answers, without gradients."""
    kl_labels = ops.masked_fill(batch["KL_input_ids"], compared("eq", batch["KL_completion_mask"]))
    given = batch["KL_input_ids"], kl_labels, batch["KL_attention_mask"]
    if of_reference:
        outputs = passes.of_reference(*given, () if passes.reference is not None else OUTPUTS)
    else:
        outputs = passes.of_mismatched(*given, OUTPUTS)
    del given
    kl_per_token_logps = outputs[0]["log_probs"]
    del outputs
    return sum_rows(ops.slice_axis(kl_per_token_logps, 1, 0, kl_labels.shape[1] - 1))


def _places(labels: Sym, number: Size) -> Sym:
    """Mirror torch.nonzero(labels).view(-1)."""
    found = ops.nonzero(labels, number)
    return Sym((number,), "int64", (1,), found.storage)


def _metrics(outputs: dict[str, Sym], batch: dict[str, Sym], places: tuple[Sym, Sym]) -> list[Sym]:
    """Mirror what is logged of tokens; return what the trainer's variables hold of it, which dies from the back."""
    length = batch["completion_mask"].shape[1]
    per_token_entropy = ops.slice_axis(outputs["entropy"], 1, 0, length - 1).detach()
    mask = ops.slice_axis(batch["completion_mask"], 1, 1, length)
    entropy_sum = count(result("mul", mask.shape, "fp32", per_token_entropy, mask))
    total_tokens = count(mask)
    entropy_sum = count(entropy_sum)
    total_tokens = count(total_tokens)
    item(compared("gt", total_tokens))
    item(result("div", (), "fp32", entropy_sum, total_tokens))
    item(count(count(batch["attention_mask"])))
    mean_logits = ops.slice_axis(outputs["mean_logits"], 1, 0, length - 1)
    logits = [pick_rows(mean_logits, each) for each in places]
    masks = [pick_rows(mask, each) for each in places]
    totals = []
    for values, own in zip(logits, masks, strict=True):
        totals.append(count(take_where(values, ops.cast(own, "bool"), counted(own))))
        totals.append(count(own))
    while totals:
        item(count(totals[0]))
        del totals[0]
    return [*reversed(masks), *reversed(logits), mean_logits, total_tokens, entropy_sum, per_token_entropy]


def _sums(numbers: tuple[Sym, Sym], logged: tuple[Sym, ...]) -> None:
    """Mirror the numbers of good and bad answers, and the sums that are logged of each."""
    for each in numbers:
        item(count(each))
    for each in logged:
        item(nansum(nansum(each)))
