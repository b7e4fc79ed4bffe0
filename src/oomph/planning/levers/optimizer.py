"""How an optimizer goes through the parameters, and what it keeps for each."""

from __future__ import annotations

from oomph.planning.lever import Lever, Price, setting

LEVERS = (
    Lever(
        "fused optimizer",
        Price.NOTHING,
        "No cost, usually faster: one kernel updates all parameters without the temporaries of foreach (fused=True).",
        "https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html",
        setting(lambda job: job.optimizer != "none", implementation="fused"),
    ),
    Lever(
        "SGD with momentum",
        Price.TRAINING,
        "One state per weight instead of two; language models learn clearly worse with it than with Adam.",
        "https://arxiv.org/abs/2402.19449",
        setting(lambda job: job.optimizer == "adamw", optimizer="sgd-momentum"),
    ),
    Lever(
        "SGD",
        Price.TRAINING,
        "No state at all; language models learn clearly worse with it than with Adam.",
        "https://arxiv.org/abs/2402.19449",
        setting(lambda job: job.optimizer in ("adamw", "sgd-momentum"), optimizer="sgd"),
    ),
)
