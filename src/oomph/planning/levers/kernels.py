"""Kernels that keep fewer tensors for the backward pass."""

from __future__ import annotations

from oomph.planning.lever import Lever, Price, setting

LEVERS = (
    Lever(
        "Liger's kernels",
        Price.NOTHING,
        "No cost, faster: norms, rotary embedding and activation are one kernel each, which computes again in its "
        "backward what others keep (liger-kernel).",
        "https://arxiv.org/abs/2410.10989",
        setting(lambda job: job.kernels == "torch" and job.method != "ln-tuning", kernels="liger"),
    ),
)
