"""Kernels of attention that never hold a table of all pairs of tokens."""

from __future__ import annotations

from oomph.planning.lever import Lever, Price, setting

LEVERS = (
    Lever(
        "flash attention",
        Price.NOTHING,
        "No cost, faster: exact attention without its table of scores; needs 16-bit numbers and Ampere or later.",
        "https://arxiv.org/abs/2205.14135",
        setting(lambda job: not job.padding and not job.packing and job.precision != "fp32", attention="flash"),
    ),
    Lever(
        "memory-efficient attention",
        Price.NOTHING,
        "No cost, faster than eager: exact attention in tiles; takes a mask, which flash does not.",
        "https://arxiv.org/abs/2112.05682",
        setting(lambda job: job.attention in ("eager", "math"), attention="efficient"),
    ),
)
