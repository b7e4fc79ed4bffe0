"""What a job that fits could have for the memory it leaves: levers pulled the other way."""

from __future__ import annotations

from oomph.planning.lever import Lever, Price, setting
from oomph.planning.levers.recompute import CHECKPOINTING

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
        "fp32 weights",
        Price.SPEED,
        "Updates much smaller than a weight are no longer rounded away; weights are cast at every step.",
        "https://arxiv.org/abs/1710.03740",
        setting(lambda job: job.precision == "bf16", precision="amp-bf16"),
    ),
)
