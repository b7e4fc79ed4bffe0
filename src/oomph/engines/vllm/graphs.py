"""What capturing CUDA graphs takes: "Graph capturing finished in 21 secs, took 0.91 GiB".

How many are captured follows from the flags. What a captured layer takes of the driver, and how much of torch's pool
the largest graph leaves taken, was measured; the pool is counted in what a token's tensors take at the layer's fullest
instant, because it shrinks with tensor parallelism as they do. Source of the sizes: config/vllm.py of vLLM 0.19.0
(_set_cudagraph_sizes), config/__init__.py of 0.10.2; model_executor/models/config.py for gpt-oss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.constants import PER_MILLE, constant
from oomph.engines.vllm.settings import Compilation

if TYPE_CHECKING:
    from oomph.engines.vllm.activations import Version

BY_SIXTEEN: Version = (0, 12)  # from 256 on every sixteenth size; before every eighth
BY_GUESSES: Version = (0, 15)  # a sequence counts as many tokens as are guessed for it: not yet in 0.12.0
FIRST_SIZES, EIGHTH, SIXTEENTH, STEP_WIDENS = (1, 2, 4), 8, 16, 256
LARGEST, LARGEST_GPT_OSS = 512, 1024


@dataclass(frozen=True)
class Graphs:
    """Bytes that capture takes, likely and at most, and of what sizes."""

    n_bytes: int
    safe_bytes: int
    sizes: tuple[int, ...]


def capture_sizes(
    seqs: int, model_type: str, version: Version, asked: Compilation | None = None, guesses: int = 0
) -> tuple[int, ...]:
    """Return how many tokens each captured step has: as asked, or up to twice those of the sequences, at most 512.

    >>> len(capture_sizes(1024, "llama", (0, 19))), len(capture_sizes(1024, "gpt_oss", (0, 19)))
    (51, 83)
    """
    asked = asked or Compilation()
    if not asked.graphs:
        return ()
    if asked.sizes is not None:
        return asked.sizes
    each = 1 + guesses if version >= BY_GUESSES else 1
    usual = LARGEST_GPT_OSS if model_type == "gpt_oss" and version >= BY_SIXTEEN else LARGEST
    largest = min(2 * seqs * each, usual) if asked.largest is None else asked.largest
    wide = SIXTEENTH if version >= BY_SIXTEEN else EIGHTH
    sizes = (*FIRST_SIZES, *range(EIGHTH, STEP_WIDENS, EIGHTH), *range(STEP_WIDENS, largest + 1, wide))
    return tuple(size for size in sizes if size <= largest)


def graphs(sizes: tuple[int, ...], layers: int, token_bytes: int, once_bytes: int = 0) -> Graphs:
    """Return what graphs of these sizes take for so many layers on a device, whose tokens take so many bytes.

    `once_bytes` is what all of them share in the pool, whatever their size.
    """
    if not sizes:
        return Graphs(0, 0, ())
    layer, pool = constant("vllm_graph_layer"), constant("vllm_graph_pool")
    taken = len(sizes) * layers * layer["value"] + max(sizes) * token_bytes * pool["value"] // PER_MILLE + once_bytes
    return Graphs(taken, taken * constant("vllm_graphs")["high"] // PER_MILLE, sizes)
