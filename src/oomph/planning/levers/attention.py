"""Kernels of attention that never hold a table of all pairs of tokens."""

from __future__ import annotations

from oomph.job_words import FLASH_ATTN
from oomph.planning.lever import Lever, Price, setting

LEVERS = (
    Lever(
        "flash attention",
        Price.NOTHING,
        "No cost, faster: exact attention without its table of scores; needs 16-bit numbers and Ampere or later.",
        "https://arxiv.org/abs/2205.14135",
        setting(
            lambda job: (
                not job.padding and not job.packs and job.precision != "fp32" and job.attention not in FLASH_ATTN
            ),
            attention="flash",
        ),
    ),
    Lever(
        "flash-attn for padded or packed batches",
        Price.NOTHING,
        "No cost, faster: the package takes padding out and tells packed sequences apart without a mask; it has to be"
        " installed, and needs 16-bit numbers and Ampere or later.",
        "https://arxiv.org/abs/2307.08691",
        setting(
            lambda job: (
                (job.padding or (job.packs and job.shape[0] == 1))
                and job.precision != "fp32"
                and job.attention not in FLASH_ATTN
            ),
            attention="flash_attention_2",
        ),
    ),
    Lever(
        "memory-efficient attention",
        Price.NOTHING,
        "No cost, faster than eager: exact attention in tiles; takes a mask, which flash does not.",
        "https://arxiv.org/abs/2112.05682",
        setting(lambda job: job.attention in ("eager", "math"), attention="efficient"),
    ),
)
