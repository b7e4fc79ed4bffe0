"""Fewer bits per weight, gradient and activation."""

from __future__ import annotations

from oomph.planning.lever import Lever, Price, setting

LEVERS = (
    Lever(
        "mixed precision",
        Price.ROUNDING,
        "Faster; fp32 weights with matrix products in bf16 train to the same loss as fp32 throughout.",
        "https://arxiv.org/abs/1905.12322",
        setting(lambda job: job.precision == "fp32", precision="amp-bf16"),
    ),
    Lever(
        "autocast",
        Price.ROUNDING,
        "Faster; what PEFT prepares in fp32 stays so, products and attention are in 16 bits, as in its guides.",
        "https://docs.pytorch.org/docs/stable/amp.html",
        setting(lambda job: job.kbit_preparation and job.precision in ("bf16", "fp16"), autocast=True),
    ),
    Lever(
        "bf16 throughout",
        Price.TRAINING,
        "Faster; updates much smaller than a weight are rounded away, which late in training can cost accuracy.",
        "https://arxiv.org/abs/2010.06192",
        setting(lambda job: job.precision in ("fp32", "amp-bf16", "amp-fp16"), precision="bf16"),
    ),
)
