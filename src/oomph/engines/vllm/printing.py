"""The lines that vLLM prints at its start, in the words and roundings of its version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from oomph.engines.vllm.blocks import WHOLE_BLOCKS, Pool
from oomph.ledger import Printed
from oomph.units import GIB

if TYPE_CHECKING:
    from oomph.engines.vllm.job import Version, VllmJob
    from oomph.engines.vllm.loading import Stage
    from oomph.engines.vllm.serving import Room
    from oomph.engines.vllm.trial import Trial

TWO_DIGITS: Version = (0, 15, 0)  # format_gib; four before
IN_GIB: Version = (0, 9, 0)  # the unit was called GB before
DERIVED_TOKENS: Version = (0, 21, 0)  # from the concurrency: not in 0.20.0, so in 0.22.0


def lines(
    job: VllmJob,
    held: Sequence[Stage],
    rooms: Sequence[Room],
    blocks: Pool,
    count: int | None,
    max_model_len: int,
    taken: Trial,
) -> tuple[Printed, ...]:
    """Return the lines of the first stage; tokens and requests are those of the stage with the least room."""
    digits, unit = (2 if job.release >= TWO_DIGITS else 4), ("GiB" if job.release >= IN_GIB else "GB")
    weights = held[0].counted_bytes / GIB
    found = [Printed("weights_gib", f"Model loading took {weights:.{digits}f} {unit} memory", round(weights, digits))]
    took = taken.profile
    point, safe = took.activation_bytes / GIB, took.activation_safe_bytes / GIB
    found.append(
        Printed("activation_peak_gib", f"{point:.2f} GiB for peak activation", round(point, 2), round(safe, 2))
    )
    point, safe = took.non_torch_bytes / GIB, took.non_torch_safe_bytes / GIB
    found.append(Printed("non_torch_gib", f"{point:.2f} GiB for non-torch", round(point, 2), round(safe, 2)))
    room = rooms[0]
    if room.n_bytes is not None:
        point, safe = room.n_bytes / GIB, (room.safe_bytes or 0) / GIB
        text = f"Available KV cache memory: {point:.2f} GiB"
        found.append(Printed("kv_cache_gib", text, round(point, 2), round(safe, 2)))
    if count:
        pairs = zip(rooms, held, strict=True)
        least = min(
            (
                (room.safe_bytes or 0) // blocks.block_bytes(each.layers)
                for room, each in pairs
                if room.n_bytes is not None
            ),
            default=count,
        )
        least = count if job.num_gpu_blocks_override is not None else max(0, least)
        found += _pool_lines(job, blocks, count, least, max_model_len)
    return tuple(found)


def _pool_lines(job: VllmJob, blocks: Pool, count: int, least: int, max_model_len: int) -> list[Printed]:
    derived = job.release >= DERIVED_TOKENS
    tokens, fewer = (blocks.tokens(each, max_model_len, derived) for each in (count, least))
    by_tokens = job.release < WHOLE_BLOCKS
    requests, less = (blocks.concurrency(each, max_model_len, by_tokens) for each in (count, least))
    asked = f"Maximum concurrency for {max_model_len:,} tokens per request: {requests:.2f}x"
    return [
        Printed("kv_blocks", f"# GPU blocks: {count}", count, least),
        Printed("kv_tokens", f"GPU KV cache size: {tokens:,} tokens", tokens, fewer),
        Printed("max_concurrency", asked, round(requests, 2), round(less, 2)),
    ]
