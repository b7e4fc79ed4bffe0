"""Losses that never hold all logits: most of what a large vocabulary takes."""

from __future__ import annotations

from oomph.job import TrainJob
from oomph.planning.lever import Lever, Price, setting

WITHOUT_LOGITS = frozenset({"liger", "liger-fms", "cut", "fused-head", "chunked-nll", "unsloth"})


def _holds_logits(job: TrainJob) -> bool:
    return job.loss not in WITHOUT_LOGITS


LEVERS = (
    Lever(
        "Liger's cross entropy",
        Price.NOTHING,
        "No cost: projection and loss are computed for a few tokens at a time, the gradient with them (liger-kernel).",
        "https://arxiv.org/abs/2410.10989",
        setting(_holds_logits, loss="liger"),
    ),
    Lever(
        "cut cross entropy",
        Price.ROUNDING,
        "As fast: no logits at all; gradients of words too unlikely for 16-bit numbers are left out.",
        "https://arxiv.org/abs/2411.09009",
        setting(lambda job: job.loss != "cut" and job.objective == "sft", loss="cut"),
    ),
)
