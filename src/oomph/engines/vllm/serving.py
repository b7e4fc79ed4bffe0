"""A deployment of vLLM: what each device holds, what is left for the pool of blocks, the lines printed at the start.

requested = ceil(total memory x utilisation); the pool gets that less weights, what the largest step took beside them,
what lies outside torch, and since 0.20 the CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from oomph import formats
from oomph.engines.base import Deployment, Limit, Share
from oomph.engines.checks import DTYPES
from oomph.engines.memo import remembered
from oomph.engines.vllm import gguf
from oomph.engines.vllm.blocks import Pool, pool
from oomph.engines.vllm.drafts import draft
from oomph.engines.vllm.held import PLAIN
from oomph.engines.vllm.job import NEWEST, V1, VllmJob
from oomph.engines.vllm.loading import Stage, stages
from oomph.engines.vllm.pages import layer_pages
from oomph.engines.vllm.printing import lines
from oomph.engines.vllm.runner import second_runner
from oomph.engines.vllm.trial import Trial, trial
from oomph.errors import UnsupportedError, UsageError
from oomph.formats.gguf import Gguf
from oomph.formats.registry import FORMATS
from oomph.ledger import Item

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device
    from oomph.formats.base import Format

IN_FLIGHT = (0, 26, 0)  # windows keep the tokens of all steps that may be on their way at once: not in 0.25.1
USUAL_LENGTH = 2048  # vLLM's where a config says nothing
WHOLE_CHECKED, OWN_CHECKED = (0, 13, 0), (0, 19, 0)  # read in 0.15.0 and not in 0.12.0 and 0.19.0; issue 34076
POOL_WHY = "vllm v1/core/kv_cache_utils.py: whole blocks of whole pages"


@dataclass(frozen=True)
class Room:
    """What one stage's device has for its blocks, in bytes: the point, and the lower bound. None is unknown."""

    n_bytes: int | None
    safe_bytes: int | None


def deployment(found: Subject, job: VllmJob, devices: Sequence[Device]) -> Deployment:
    """Return the shares of a job, stage by stage of the pipeline."""
    device = _least(job, devices)
    dtype = activation_dtype(found, job)
    fmt = remembered(found.model, (job.format, job.quantization, dtype), lambda: weight_format(found, job, dtype))
    longest = own_length(found)
    max_model_len = job.max_tokens or longest
    step_tokens, seqs = job.batch(device, max_model_len)
    in_flight = step_tokens * steps_at_once(found, job, fmt.name)
    hybrid = not job.disable_hybrid_kv_cache_manager and not _chunked(found)
    blocks = pool(layer_pages(found, job, dtype, device), job.release, in_flight, job.decode_context_parallel, hybrid)
    held = stages(found, job, fmt, device, step_tokens)
    step = (step_tokens, seqs)
    taken = [trial(found, job, fmt, dtype, device, step, max_model_len, stage) for stage in range(len(held))]
    rooms = [_room(job, device, each, took) for each, took in zip(held, taken, strict=True)]
    count = _count(rooms, held, blocks, job)
    if job.fits_itself and count is not None:
        max_model_len = _longest(blocks, count, max_model_len)
    shares = [
        _share(each, room, blocks, took, job, device, max_model_len, count)
        for each, room, took in zip(held, rooms, taken, strict=True)
    ]
    explicit = job.max_model_len is not None
    copies = f" on each of {job.data_parallel} copies" if job.data_parallel > 1 else ""
    limits = {
        "context": Limit(
            max_model_len if explicit else longest, "--max-model-len" if explicit else "the model's own length"
        ),
        "concurrency": Limit(seqs * job.data_parallel, f"--max-num-seqs is {seqs}{copies}, more wait"),
    }
    return Deployment(
        tuple(shares),
        min(job.context or max_model_len, max_model_len) if job.fits_itself else job.context or max_model_len,
        lines(job, held, rooms, blocks, count, max_model_len, taken[0]),
        limits,
        _assumed(found, job, dtype, step),
    )


def steps_at_once(found: Subject, job: VllmJob, format_name: str) -> int:
    """Return how many steps windows keep the tokens of: with asynchronous scheduling one more than the stages.

    Source: config/vllm.py, max_concurrent_batches and max_in_flight_tokens, of 0.26.0 and 0.33.0.
    """
    if job.release < IN_FLIGHT:
        return 1
    stages = job.pipeline_parallel
    if not job.async_scheduling:
        return stages
    second = second_runner(found.model, job.release, format_name not in PLAIN)
    return stages + 1 if second or stages == 1 else stages


def _least(job: VllmJob, devices: Sequence[Device]) -> Device | None:
    """Return the device with the least memory of those the job takes; None where none are known."""
    if not devices:
        return None
    if len(devices) < job.ranks:
        raise UsageError(
            f"vLLM takes {job.ranks} devices for this job, and {len(devices)} are named.",
            f"Name {job.ranks}: --gpu {job.ranks}x{devices[0].id}.",
        )
    return min(devices[: job.ranks], key=lambda each: each.capacity_bytes)


def activation_dtype(found: Subject, job: VllmJob) -> str:
    """Return the dtype of activations: what a model of FP32 is read in, BF16, and FP16 before the second core."""
    asked = DTYPES[job.dtype]
    if asked is not None:
        return asked
    if found.model.dtype in ("bf16", "fp16"):
        return found.model.dtype
    return "bf16" if job.release >= V1 else "fp16"


_METHODS: Mapping[str, str] = {
    "fp8": "fp8-tensor",
    "bitsandbytes": "nf4-dq",
}  # made of a checkpoint in 16 bits while loading
_SAME = {"awq_marlin": "awq", "gptq_marlin": "gptq", "modelopt_fp4": "modelopt", "modelopt_fp8": "modelopt"}


def weight_format(found: Subject, job: VllmJob, dtype: str) -> Format:
    """Return how weights are stored: as the job or the checkpoint says, the rest in the dtype of activations."""
    asked = formats.asked_for(found.source.config or {})
    if job.format is not None:
        fmt = formats.get(job.format)
    elif asked is not None:
        fmt = formats.from_config(asked, dtype)
        method = formats.method_of(asked)
        wanted = job.quantization and _SAME.get(job.quantization, job.quantization)
        if wanted not in (None, method):
            raise UsageError(f"--quantization {wanted[:40]} on a checkpoint in {method[:40]}.", "Leave it out.")
    elif job.quantization is not None:
        if job.quantization not in _METHODS:
            raise UnsupportedError(
                f"--quantization {job.quantization[:40]} needs a checkpoint made so, or is not modelled.",
                f"While loading: {', '.join(_METHODS)}; else name the quantised model, or its --format.",
            )
        fmt = formats.get(_METHODS[job.quantization])
    else:
        return formats.get(dtype)
    if isinstance(fmt, Gguf):
        gguf.check(found.model, job)
    if FORMATS.get(fmt.name, "") in ("exl2", "exl3", "quanto", "hqq", "aqlm"):
        raise UnsupportedError(f"How vLLM holds {fmt.title} is not modelled.", "Ask for another format.")
    return replace(fmt, rest=dtype)


def own_length(found: Subject) -> int:
    """Return the longest request that a config allows: its positions, stretched as its rope scaling says."""
    config = found.source.config or {}
    text = next((config[key] for key in ("text_config", "llm_config") if isinstance(config.get(key), Mapping)), config)
    length = found.model.context_length or USUAL_LENGTH
    said = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(said, Mapping) or "gemma3" in found.model.model_type:
        return length
    kind, factor = said.get("rope_type") or said.get("type"), said.get("factor")
    if (
        kind not in ("linear", "dynamic", "yarn", "ntk")
        or not isinstance(factor, (int, float))
        or not 0 < factor < 2**20
    ):
        return length
    original = said.get("original_max_position_embeddings") if kind == "yarn" else None
    return int((original if isinstance(original, int) and original > 0 else length) * factor)


def _chunked(found: Subject) -> bool:
    """Tell whether layers see chunks: vLLM then keeps all tokens of all layers, unless an environment variable asks."""
    config = found.source.config or {}
    text = config.get("text_config") if isinstance(config.get("text_config"), Mapping) else config
    return isinstance(text, Mapping) and text.get("attention_chunk_size") is not None


def _room(job: VllmJob, device: Device | None, stage: Stage, taken: Trial) -> Room:
    if job.kv_cache_memory_bytes is not None:
        return Room(job.kv_cache_memory_bytes, job.kv_cache_memory_bytes)
    if device is None:
        return Room(None, None)
    requested = ceil(device.capacity_bytes * job.util)
    rest = requested - stage.counted_bytes
    return Room(rest - taken.n_bytes, rest - taken.safe_bytes)


def _count(rooms: Sequence[Room], held: Sequence[Stage], blocks: Pool, job: VllmJob) -> int | None:
    """Return the blocks of the pool, the fewest of all stages; None where the memory is not known."""
    if job.num_gpu_blocks_override is not None:
        return job.num_gpu_blocks_override
    if any(room.n_bytes is None for room in rooms):
        return None
    pairs = zip(rooms, held, strict=True)
    return max(0, min((room.n_bytes or 0) // blocks.block_bytes(each.layers) for room, each in pairs))


def _longest(blocks: Pool, count: int, most: int) -> int:
    """Return the longest request that the pool holds, at most `most` tokens (_auto_fit_max_model_len)."""
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if blocks.blocks(middle) <= count else (low, middle - 1)
    return low


def _share(
    stage: Stage,
    room: Room,
    blocks: Pool,
    taken: Trial,
    job: VllmJob,
    device: Device | None,
    max_model_len: int,
    count: int | None,
) -> Share:
    block_bytes = blocks.block_bytes(stage.layers)
    least = blocks.blocks(max_model_len) if job.max_model_len is not None else 0
    # one request of the whole model against each stage: _check_enough_kv_cache_memory with the global groups
    whole = blocks.block_bytes() if WHOLE_CHECKED <= job.release < OWN_CHECKED else block_bytes

    def needs(context: Any, concurrency: Any) -> Any:
        one = blocks.blocks(context)
        asked = one * -(-concurrency // job.data_parallel) * block_bytes  # copies share requests evenly
        checked = (one + (least - one) * (least > one)) * whole
        return asked + (checked - asked) * (checked > asked)

    def items(context: int, concurrency: int) -> tuple[Item, ...]:
        size = int(needs(context, concurrency))
        return (Item("keys and values", "kv_cache", size, source="rule", evidence=POOL_WHY),)

    usable = _usable(room, count, block_bytes)
    fixed: tuple[Item, ...] = (*stage.items, *taken.items)
    if usable is not None and device is not None and (job.kv_cache_memory_bytes or job.num_gpu_blocks_override):
        usable, fixed = _beside_a_fixed_pool(usable, fixed, device.capacity_bytes)
    return Share(
        stage.name,
        fixed,
        needs,
        items,
        room_bytes=usable,
        capacity_bytes=device.capacity_bytes if device else None,
        pool=True,
        count=job.tensor_parallel * job.data_parallel,
    )


def _beside_a_fixed_pool(pool: int, items: tuple[Item, ...], capacity: int) -> tuple[int, tuple[Item, ...]]:
    """Return what there really is of a pool of a size that was asked for, and the items beside it.

    vLLM does not look whether there is room. What is not known exactly takes nothing of the pool unless the device is
    full.
    """
    left = capacity - sum(item.n_bytes for item in items)
    spread = sum(item.safe_bytes - item.n_bytes for item in items)
    if left - spread >= pool:
        items = tuple(replace(item, safe=None) for item in items)
    return min(pool, left), items


def _usable(room: Room, count: int | None, block_bytes: int) -> int | None:
    if count is None:
        return None
    return count * block_bytes if count or room.n_bytes is None else min(room.n_bytes, 0)


def _assumed(found: Subject, job: VllmJob, dtype: str, step: tuple[int, int]) -> tuple[str, ...]:
    newest = ".".join(map(str, NEWEST))
    unread = f", taken to do as {newest}, the newest that was read" if job.release > NEWEST else ""
    said = [f"vLLM {'.'.join(map(str, job.release))}" + (unread if job.version else ", the newest known here")]
    said.append(f"steps of {step[0]:,} tokens and {step[1]:,} requests, activations in {dtype}")
    if job.gpu_memory_utilization is None and job.kv_cache_memory_bytes is None:
        said.append(f"{job.util:.0%} of the device's memory, vLLM's default")
    drawn = draft(found, job)
    return (*said, drawn.said) if drawn and drawn.said else tuple(said)
