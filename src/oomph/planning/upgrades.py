"""What a job that fits could have for the memory it leaves: levers pulled the other way."""

from __future__ import annotations

from dataclasses import replace

from oomph.job_words import RANKED
from oomph.planning.lever import Lever, Price, setting
from oomph.planning.levers.recompute import CHECKPOINTING

RAISED = 4  # how much higher a rank is looked at
UPGRADES = (
    Lever(
        "no gradient checkpointing",
        Price.NOTHING,
        "The same gradient, faster: no forward pass is computed twice.",
        CHECKPOINTING,
        setting(lambda job: job.checkpointing != "none", checkpointing="none", checkpoint_every=1),
    ),
    Lever(
        "Adam",
        Price.NOTHING,
        "Two states per weight: language models learn clearly better with it than with SGD.",
        "https://arxiv.org/abs/2402.19449",
        setting(lambda job: job.optimizer in ("sgd", "sgd-momentum"), optimizer="adamw"),
    ),
    Lever(
        "all weights train",
        Price.NOTHING,
        "Learns more of what is new than adapters do, and forgets more of what was known.",
        "https://arxiv.org/abs/2405.09673",
        setting(lambda job: job.method in RANKED, method="full"),
    ),
    Lever(
        "four times the rank",
        Price.SPEED,
        "Adapters of a higher rank can learn more; a little slower.",
        "https://arxiv.org/abs/2405.09673",
        lambda job, model: [replace(job, rank=RAISED * job.rank)] if job.method in RANKED else [],
    ),
    Lever(
        "fp32 weights",
        Price.SPEED,
        "Updates much smaller than a weight are no longer rounded away; weights are cast at every step.",
        "https://arxiv.org/abs/1710.03740",
        setting(lambda job: job.precision == "bf16" and job.method == "full", precision="amp-bf16"),
    ),
)
