"""What loading a model takes of one device under SGLang: "Load weight end. mem usage".

The part of every tensor that one device holds, in the checkpoint's format, and the tables of cosines and sines in fp32,
played in their order on torch's caching allocator: the line is what the device has less, in whole blocks of it.

Source: srt/layers/linear.py, srt/layers/vocab_parallel_embedding.py, srt/layers/moe/fused_moe_triton/layer.py,
srt/layers/rotary_embedding/base.py and srt/models/deepseek_common/deepseek_weight_loader.py of sglang 0.5.23.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.engines.memo import remembered
from oomph.engines.rope import tables
from oomph.engines.sglang.job import SglangJob
from oomph.engines.sglang.pools import stage_layers
from oomph.engines.shards import Spread, format_of, on_device

if TYPE_CHECKING:
    from oomph.answer import Subject

TABLE_BYTES = 4  # of a number in a table of cosines and sines: kept in fp32 on CUDA


@dataclass(frozen=True)
class Loaded:
    """Bytes that one device has less after loading, what that may be more in another order, and those of a draft."""

    n_bytes: int
    rounding_bytes: int
    draft_bytes: int = 0


def spread(found: Subject, job: SglangJob, stage: int = 0) -> Spread:
    """Return how a job spreads a model."""
    layers = stage_layers(found.model.num_layers, job.pipeline_parallel, stage)
    last = stage == job.pipeline_parallel - 1
    return Spread(job.attention_parallel, job.tensor_parallel, job.expert_parallel, layers, stage == 0, last)


def loaded(found: Subject, job: SglangJob, stage: int = 0) -> Loaded:
    """Return what one device of a stage of the pipeline holds after loading.

    >>> from oomph.answer import subject
    >>> round(loaded(subject("qwen3-8b"), SglangJob()).n_bytes / 2**30, 2)  # SGLang's log says 15.28 GB
    15.28
    """
    fmt = format_of(found, job.format, job.dtype, job.quantization)
    held = on_device(found.model, fmt, spread(found, job, stage), _table_bytes(found))
    return Loaded(held.reserved_bytes, held.rounding_bytes, held.draft_bytes if job.drafted[0] else 0)


def _table_bytes(found: Subject) -> tuple[int, ...]:
    """Return the bytes of each table of cosines and sines."""
    turned = remembered(found.model, "tables", lambda: tables(found.model, found.source.config or {}))
    return tuple(each.rows * each.width * TABLE_BYTES for each in turned)
