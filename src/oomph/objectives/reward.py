"""A reward model: pairs of answers through a classifier of one label, whose numbers are compared.

Source: trl 1.16, trainer/reward_trainer.py (no margins, no centring, as RewardConfig has it).
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.objectives.passes import Passes, item, mean_item
from oomph.ops.scores import compared, count, halves, logsigmoid
from oomph.tape.sizes import Shapes
from oomph.tape.sym import Sym


def inputs(passes: Passes) -> Shapes:
    """Return a batch: chosen answers, then rejected ones, each behind its prompt."""
    job = passes.job
    return dict.fromkeys(("input_ids", "attention_mask"), ((2 * job.batch, job.seq_len), "int64"))


def compute_loss(passes: Passes, inputs: dict[str, Sym]) -> tuple[Sym, None]:
    """Mirror RewardTrainer.compute_loss with its local variables."""
    outputs: list[Any] = passes.of_policy(inputs["input_ids"], None, inputs["attention_mask"], ())
    rewards_chosen, rewards_rejected = halves(ops.view(outputs[0], outputs[0].shape[:-1]))
    loss = -ops.mean_of_all(logsigmoid(rewards_chosen - rewards_rejected))
    item(count(count(inputs["attention_mask"])))
    with passes.tape.no_grad():
        all_rewards = outputs[0]
        for op in ("min", "mean", "max"):
            item(all_rewards.tape.empty((), all_rewards.dtype, op=op))
        mean_item(ops.mean_of_all(ops.cast(compared("gt", rewards_chosen, rewards_rejected), "fp32")))
        mean_margin = ops.mean_of_all(rewards_chosen - rewards_rejected)
        mean_margin = ops.mean_of_all(mean_margin)
    return loss, None
