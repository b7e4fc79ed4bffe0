"""What SGLang sets by itself on a GPU: how much of it is left to activations and CUDA graphs, and how large steps are.

The share for weights and caches is `1 - reserve / memory`, rounded to three places, where the reserve is a guess by
rules of thumb: so much per token of a step, per request of the largest CUDA graph, per device.

Source: srt/server_args.py, _handle_gpu_memory_settings, of sglang 0.5.3 to 0.5.13; srt/arg_groups/memory_hook.py of
0.5.20 to 0.5.23. In between it was not read in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oomph.engines.sglang.job import SglangJob
from oomph.errors import UnsupportedError
from oomph.units import GIB, KIB, MIB

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device

RESERVED_SINCE = (0, 5, 3)  # the first version with a reserve per token; tables by GPU before
PIECES_SINCE, PIECES_UNTIL = (0, 5, 10), (0, 5, 14)  # prefill in pieces of graphs by default
BREAKABLE_SINCE = (0, 5, 20)

# MiB that are reserved: for metadata, per token of a step, per request of the largest graph, per graph of a prompt ...
METADATA, PER_TOKEN, PER_REQUEST, PER_PROMPT_GRAPH = 512, 1.5, 2, 8
LATENT_PROMPT_GRAPHS = 1.5 * KIB  # ... for all of them where keys and values are one latent vector,
PER_COPY, PER_COPY_LARGE, LARGE_GRAPH = 3, 1.5, 300  # per request and copy of attention, more from so many requests on
PER_8_DEVICES = KIB
DRAFT_EARLY, DRAFT_LATE = 2 * KIB, 4 * KIB  # for a draft, until it is counted among the weights
LEAST_TOKENS = 2048
LEAST, LEAST_ABOVE = 10 * KIB, 60 * KIB  # at least, on GPUs of more

# A vision tower takes a share of what is left: more, the more it weighs against ViT-L/14.
VISION_SHARE, VISION_STEP, VISION_BOUNDS = 0.95, 0.1, (0.8, 1.05)
VISION_LAYERS, VISION_WIDTH = 24, 1024

# GPUs below so many GiB: tokens of a step; requests of the largest graph below, and from four devices on.
Row = tuple[float, int, int, int]
LARGER: tuple[Row, ...] = ((60, 4096, 32, 160), (90, 8192, 256, 512), (160, 8192, 256, 512), (1e9, 16384, 512, 512))
TABLES: tuple[tuple[tuple[int, int, int], tuple[Row, ...]], ...] = (
    ((0, 5, 20), ((20, 2048, 8, 8), (35, 4096, 48, 160), *LARGER)),
    ((0, 5, 5), ((20, 2048, 8, 8), (35, 2048, 24, 80), *LARGER)),
    ((0, 5, 3), ((20, 2048, 8, 8), (35, 2048, 16, 80), *LARGER)),
)
MANY_DEVICES = 4


@dataclass(frozen=True)
class Taken:
    """What a server works with: the share for weights and caches, tokens of a step; whether the model sees images."""

    fraction: float
    step_tokens: int
    sees: bool = False
    assumptions: tuple[str, ...] = ()


def taken(found: Subject, job: SglangJob, device: Device, latent: bool) -> Taken:
    """Return what a job says, or what SGLang sets by itself on a device. `latent`: keys and values are one vector.

    Raises UnsupportedError for what a version sets by rules that were not read.
    """
    sees = _vision(found) is not None
    memory = (device.driver_bytes or device.capacity_bytes) / MIB
    if job.mem_fraction_static is not None:
        chunk = job.chunked_prefill_size or _row(job, memory)[1]
        return Taken(job.mem_fraction_static, chunk if chunk > 0 else job.max_prefill_tokens, sees)
    if job.release < RESERVED_SINCE or PIECES_UNTIL <= job.release < BREAKABLE_SINCE:
        raise UnsupportedError(
            f"What SGLang {job.version[:40]} leaves to activations by itself is not known here.",
            "Say --mem-fraction-static; its log has it among server_args.",
        )
    _, chunk, few, many = _row(job, memory)
    chunk = job.chunked_prefill_size or chunk
    requests = job.cuda_graph_max_bs or (few if job.tensor_parallel < MANY_DEVICES else many)
    if job.release >= BREAKABLE_SINCE and job.cuda_graph_max_bs is None and job.max_running_requests is not None:
        requests = min(requests, job.max_running_requests)
    tokens = max(chunk if chunk > 0 else job.max_prefill_tokens, LEAST_TOKENS)
    reserve = METADATA + tokens * PER_TOKEN + job.tensor_parallel * job.pipeline_parallel * PER_8_DEVICES / 8
    reserve += _graphs(job, requests, chunk, latent, sees)
    if memory > LEAST_ABOVE:
        reserve = max(reserve, LEAST)
    if job.speculative_algorithm is not None and job.release < PIECES_UNTIL:
        reserve += DRAFT_LATE if job.release >= PIECES_SINCE else DRAFT_EARLY
    fraction = round((memory - reserve) / memory, 3) * _vision_share(found)
    said = f"--mem-fraction-static {fraction:.3f}: what SGLang takes by itself, {reserve / KIB:.2f} GiB being reserved"
    return Taken(fraction, tokens, sees, (said,))


def _row(job: SglangJob, memory: float) -> Row:
    rows = next((rows for since, rows in TABLES if job.release >= since), TABLES[-1][1])
    return next(row for row in rows if memory < row[0] * GIB / MIB)


def _graphs(job: SglangJob, requests: int, chunk: int, latent: bool, vision: bool) -> float:
    """Return the MiB reserved for CUDA graphs."""
    newest = job.release >= BREAKABLE_SINCE
    reserve = 0.0 if newest and job.disable_cuda_graph else float(requests * PER_REQUEST)
    if job.dp_attention and (job.data_parallel > 1 or not newest):
        reserve += requests * job.data_parallel * PER_COPY
        reserve += requests * job.data_parallel * PER_COPY_LARGE * (requests > LARGE_GRAPH)
    off = job.disable_prefill_cuda_graph or (newest and job.disable_cuda_graph) or job.pipeline_parallel > 1 or vision
    if not newest:
        off = off or job.release < PIECES_SINCE or job.dp_attention or job.speculative_algorithm is not None
    if off:
        return reserve
    if latent:
        return reserve + LATENT_PROMPT_GRAPHS
    most = min(chunk, job.max_total_tokens or chunk)
    return reserve + len(prompt_graphs(most)) * PER_PROMPT_GRAPH


def prompt_graphs(most: int) -> list[int]:
    """Return the lengths of prompts that graphs are captured of (generate_prefill_cuda_graph_batch_sizes).

    >>> len(prompt_graphs(8192)), prompt_graphs(20)
    (58, [4, 8, 12, 16, 20])
    """
    steps = ((4, 33, 4), (48, 257, 16), (288, 513, 32), (576, 1025, 64), (1280, 4097, 256), (4608, most + 1, 512))
    return [size for each in steps for size in range(*each) if size <= most]


def _vision(found: Subject) -> Mapping[str, Any] | None:
    config = (found.source.config or {}).get("vision_config")
    return config if isinstance(config, Mapping) else None


def _vision_share(found: Subject) -> float:
    """Return the share that a vision tower leaves of the fraction (adjust_mem_fraction_for_vlm)."""
    config = _vision(found)
    if config is None:
        return 1.0
    layers, width = config.get("num_hidden_layers"), config.get("hidden_size")
    if not isinstance(layers, int) or not isinstance(width, int):
        raise UnsupportedError(
            "How much SGLang leaves to this vision tower depends on defaults of its class.",
            "Say --mem-fraction-static.",
        )
    weight = layers * width**2 / (VISION_LAYERS * VISION_WIDTH**2)
    low, high = VISION_BOUNDS
    return VISION_SHARE * max(low, min(high, 1.0 - VISION_STEP * (weight - 1.0)))
