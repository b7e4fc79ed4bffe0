"""PPO as TRL's PPOTrainer has it: an iteration is a rollout, which generates and scores answers, and optimizer steps.

Played are the rollout and the first of those steps; later ones do the same. Variables are those of PPOTrainer.train,
one long function: what they hold lives until they get another value or are deleted, which several things are not, the
logits of all that was generated among them. Source: trl 1.12,
experimental/ppo/ppo_trainer.py (up to 0.28 in trainer/; alike since 0.16).
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from oomph import ops
from oomph.job import REPEATED
from oomph.objectives import rollout
from oomph.objectives.judged import empty_cache, masked_mean, policy_and_value
from oomph.objectives.passes import Passes, mean_item
from oomph.ops.bounds import clamp_between
from oomph.ops.divergence import logsumexp_last
from oomph.ops.elementwise import result
from oomph.ops.kernel import run
from oomph.ops.scores import compared, maximum
from oomph.ops.selected import log_softmax_by_rows
from oomph.ops.slices import divide_slice, squeeze_last
from oomph.tape.autograd import like
from oomph.tape.sizes import Shapes, Size
from oomph.tape.sym import Sym, new
from oomph.workspaces import OUTPUTS, Buffer

# What a mini-batch ends with, in this order.
DELETED = (
    "output", "vpred_temp", "logits", "new_logprobs", "vpred", "vpredclipped", "vf_losses1", "vf_losses2", "vf_loss",
    "vf_clipfrac", "logprobs_diff", "ratio", "pg_losses", "pg_losses2", "pg_loss_max", "pg_loss", "loss", "pg_clipfrac",
    "prob_dist", "entropy", "approxkl", "mb_return", "mb_advantage", "mb_values", "mb_responses", "mb_query_responses",
    "mb_logprobs",
)  # fmt: skip


def inputs(passes: Passes) -> Shapes:
    """Return a batch: the prompts of a whole optimizer step."""
    job = passes.job
    return {"input_ids": ((job.batch * job.accumulation, job.prompt_len), "int64")}


def iterate(passes: Passes, run_backward: Callable[[Sym], None], update: Callable[[], None]) -> None:
    """Mirror an iteration of PPOTrainer.train up to the end of its first optimizer step.

    Of more mini-batches, or micro-batches in one, than tell what all of them do no more are played.
    `run_backward` is called with the loss of each micro-batch, `update` when all gradients are there.
    """
    v, job = passes.variables, passes.job
    if vars(v):  # as the iteration before ended
        empty_cache(passes.tape)
    with passes.tape.no_grad():
        rollout.roll_out(passes, inputs(passes))
    mini_batches = min(job.mini_batches, REPEATED)
    micro_batches = min(job.accumulation // job.mini_batches, REPEATED)  # of each
    for mini_batch in range(1, mini_batches + 1):
        for micro_batch in range(1, micro_batches + 1):
            last = (mini_batch, micro_batch) == (mini_batches, micro_batches)
            _micro_batch(passes, v, run_backward, update if last else None)
        for name in DELETED:
            delattr(v, name)
        empty_cache(passes.tape)


def _micro_batch(
    passes: Passes, v: SimpleNamespace, run_backward: Callable[[Sym], None], update: Callable[[], None] | None
) -> None:
    """Mirror what happens within accelerator.accumulate."""
    tape, batch = passes.tape, passes.job.batch
    tape.scope = "objective"
    tape.recorder.mark("micro-batch")
    for name, whole in (
        ("mb_advantage", v.advantages), ("mb_responses", v.responses), ("mb_query_responses", v.query_responses),
        ("mb_logprobs", v.logprobs), ("mb_return", v.returns), ("mb_values", v.values),
    ):  # fmt: skip
        setattr(v, name, _taken(whole, batch))
        del whole
    v.output, v.vpred_temp = policy_and_value(passes, v.mb_query_responses)
    context_length, length = v.context_length, v.output.logits.shape[1]
    v.logits = divide_slice(v.output.logits, 1, context_length - 1, length - 1)
    v.new_logprobs = log_softmax_by_rows(v.logits, v.mb_responses)
    v.new_logprobs = ops.masked_fill(v.new_logprobs, _taken(v.padding_mask, batch))
    v.vpred = squeeze_last(ops.slice_axis(v.vpred_temp, 1, context_length - 1, length - 1))
    v.vpred = ops.masked_fill(v.vpred, _taken(v.padding_mask_p1, batch))
    v.vpredclipped = clamp_between(v.vpred, like(v.mb_values, v.mb_values.dtype, "sub"), v.mb_values + 1.0)
    v.vf_losses1 = ops.power(v.vpred - v.mb_return)
    v.vf_losses2 = ops.power(v.vpredclipped - v.mb_return)
    v.vf_loss_max = maximum(v.vf_losses1, v.vf_losses2)
    v.vf_loss = masked_mean(v.vf_loss_max, _not(_taken(v.padding_mask_p1, batch))) * 1.0
    v.vf_clipfrac = masked_mean(_one_or_none(v.vf_losses2), _not(_taken(v.padding_mask_p1, batch)))
    v.logprobs_diff = v.new_logprobs - v.mb_logprobs
    v.ratio = ops.exp(v.logprobs_diff)
    v.pg_losses = -v.mb_advantage * v.ratio
    v.pg_losses2 = -v.mb_advantage * ops.clamp_both(v.ratio)
    v.pg_loss_max = maximum(v.pg_losses, v.pg_losses2)
    v.pg_loss = masked_mean(v.pg_loss_max, _not(_taken(v.padding_mask, batch)))
    v.loss = v.pg_loss + v.vf_loss * 1.0
    run_backward(v.loss * 1.0)
    if update is not None:
        update()
    with tape.no_grad():
        tape.scope = "objective"
        tape.recorder.mark("metrics")
        _metrics(v, batch)


def _metrics(v: SimpleNamespace, batch: Size) -> None:
    """Mirror what is logged of a micro-batch, whose logits are all still there."""
    v.pg_clipfrac = masked_mean(_one_or_none(v.pg_losses2), _not(_taken(v.padding_mask, batch)))
    v.prob_dist = _softmax(v.logits)
    v.entropy = _entropy(v.logits, v.prob_dist)
    v.approxkl = ops.mean_of_all(ops.power(v.logprobs_diff)) * 1.0
    mean_item(v.entropy)
    mean_item(v.ratio)


def _softmax(logits: Sym) -> Sym:
    """Mirror softmax of logits [B, S, V], a part of others: CUDA's kernel copies what does not lie in order."""
    shape, dtype = logits.shape, logits.dtype
    steps = (OUTPUTS,) if logits.is_contiguous() else (OUTPUTS, Buffer("input", shape, dtype))
    return run(logits.tape, steps, lambda: new(logits.tape, shape, dtype, op="_softmax"))


def _entropy(logits: Sym, prob_dist: Sym) -> Sym:
    """Mirror logsumexp(logits) - sum(prob_dist * logits), over the vocabulary."""
    largest = logsumexp_last(logits)
    product = new(logits.tape, logits.shape, logits.dtype, op="mul")
    total = new(logits.tape, logits.shape[:-1], logits.dtype, op="sum")
    del product
    made = result("sub", largest.shape, largest.dtype, largest, total)
    del largest, total
    return made


def _taken(x: Sym, batch: Size) -> Sym:
    """Mirror x[indices]: rows of x at numbers that come from numpy, which are a tensor for a moment."""
    numbers = x.tape.empty((batch,), "int64", op="lift_fresh")
    made = new(x.tape, (batch, *x.shape[1:]), x.dtype, op="index")
    del numbers
    return made


def _not(mask: Sym) -> Sym:
    return compared("bitwise_not", mask)


def _one_or_none(x: Sym) -> Sym:
    """Mirror (x > y).float()."""
    return like(compared("gt", x), "fp32")


def forget(passes: Passes) -> None:
    """Mirror what an iteration deletes at its end."""
    rollout.forget(passes.variables)
