"""The stages of a pipeline: which layers each has, what it holds after loading, and that as items."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from oomph import dtypes, formats
from oomph.allocator.config import MIN_BLOCK_BYTES, Config
from oomph.caches import layer_caches
from oomph.engines.memo import remembered
from oomph.engines.rope import Table, tables
from oomph.engines.vllm.drafts import Draft, cached_of, draft, draft_tensors
from oomph.engines.vllm.gguf import PADDED
from oomph.engines.vllm.held import ABSORBED, MORE_MARLIN, NOT_ABSORBED, PLAIN, mxfp4_kernel
from oomph.engines.vllm.job import V1, Version, VllmJob
from oomph.engines.vllm.lora import COUNTED, asked_slots
from oomph.engines.vllm.weights import ADAPTERS, Loaded, Plan, loaded, stage_layers
from oomph.errors import UnsupportedError
from oomph.ledger import Item
from oomph.units import GIB, MIB

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device
    from oomph.formats.base import Format
    from oomph.model import Model

SCALES = 7  # numbers that each attention keeps as tensors, a block of torch each: layers/attention/attention.py
CUTLASS_MLA = 128 * MIB  # a workspace made when cutlass_mla.py is imported, as it is for every latent attention
DEEPSTACK = ("qwen3_vl", "qwen3_vl_moe")  # models/qwen3_vl.py keeps the towers' features of a step, level by level
WIDENED: Version = (0, 10, 0)  # bitsandbytes' scales of scales are multiplied out from here on
HALF = dtypes.BITS["bf16"] // 8  # bytes of a number of activations
WEIGHTS_WHY = "vllm model_executor/models/, layers/linear.py"


@dataclass(frozen=True)
class Stage:
    """One stage: its layers (a prediction layer behind the last), what one device of it holds, and that as items.

    `counted_bytes` are those that vLLM counts as weights: before 0.8 without the slots of adapters.
    """

    name: str
    layers: range
    loaded: Loaded
    items: tuple[Item, ...]
    counted_bytes: int


def stages(found: Subject, job: VllmJob, fmt: Format, device: Device | None, step_tokens: int) -> list[Stage]:
    """Return the stages of a job."""
    if job.pipeline_parallel > found.model.num_layers:
        raise UnsupportedError(
            f"{found.model.num_layers} layers make no {job.pipeline_parallel} stages.", "Ask for fewer."
        )
    model = found.model
    turned = remembered(model, "tables", lambda: tables(model, found.source.config or {}))
    drawn = draft(found, job)
    ahead = len(cached_of(drawn)) if drawn else int(bool(job.speculation))
    result = []
    for stage, layers in enumerate(stage_layers(found.model.num_layers, job.pipeline_parallel)):
        plan = Plan(
            tp=job.tensor_parallel,
            dp=job.data_parallel,
            ep=job.enable_expert_parallel,
            pp=job.pipeline_parallel,
            stage=stage,
            mtp=bool(job.speculation) and drawn is None,
            towers=not job.text_only,
            mxfp4="marlin" if job.mxfp4_use_marlin else mxfp4_kernel(device, job.release),
            nested=job.release < WIDENED,
            few_marlin=job.release < MORE_MARLIN,
            absorbs=ABSORBED <= job.release < NOT_ABSORBED,
            lora=asked_slots(job, model.decoder_type),
            fixed=_fixed(found, job, step_tokens, layers, drawn if layers.stop == model.num_layers else None),
            host_bytes=_with_the_host(found, job, fmt, device),
            padded=job.release >= PADDED,
            settings=replace(Config.parse(job.allocator), by_address=True),
        )
        last = drawn if layers.stop == model.num_layers else None
        key = ("loaded", job.format, job.quantization, fmt.rest, plan, job.speculative_config if last else None)
        held, items = remembered(model, key, partial(_held, model, fmt, plan, turned, last))
        name = "gpu" if job.pipeline_parallel == 1 else f"gpu, stage {stage}"
        drafts = ahead if layers.stop == model.num_layers else 0
        counted = held.allocated_bytes if job.release >= COUNTED else held.before_adapters_bytes
        result.append(Stage(name, range(layers.start, layers.stop + drafts), held, items, counted))
    return result


def _with_the_host(found: Subject, job: VllmJob, fmt: Format, device: Device | None) -> int:
    """Return the bytes of weights that each device reads from the host, over the bus, as --cpu-offload-gb asks."""
    if not job.cpu_offload_gb:
        return 0
    plain = fmt.name in PLAIN and not any(row.role == "expert" for row in found.model.weights)
    if not plain or not job.is_v1(device):
        raise UnsupportedError(
            "--cpu-offload-gb is modelled for dense models in 16 or 32 bits, from the V1 core on: others lay weights "
            "out anew on the device once they are loaded.",
            "Leave it out.",
        )
    return round(job.cpu_offload_gb * GIB)


def _held(
    model: Model, fmt: Format, plan: Plan, turned: tuple[Table, ...], drawn: Draft | None
) -> tuple[Loaded, tuple[Item, ...]]:
    drafts, more = draft_tensors(drawn, model, fmt, plan) if drawn else ((), ())
    held = loaded(model, fmt, plan, (*turned, *(table for table in more if table not in turned)), drafts)
    return held, _items(held, fmt, plan)


def _fixed(found: Subject, job: VllmJob, step_tokens: int, layers: range, drawn: Draft | None) -> tuple[int, ...]:
    """Return what loading leaves beside the weights, in bytes."""
    latent = any(getattr(each, "kind", "") == "latent" for group in layer_caches(found.model) for each in group.cached)
    drafting = len(cached_of(drawn)) if drawn else 0
    sizes = [SCALES * MIN_BLOCK_BYTES * (len(layers) + drafting)]
    if drawn and drawn.stacked:
        sizes.append(drawn.stacked_bytes(job.tensor_parallel, HALF))
    if latent and job.release >= V1:
        sizes.append(CUTLASS_MLA)
    if found.model.model_type in DEEPSTACK and not job.text_only:
        vision = (found.source.config or {}).get("vision_config")
        levels = vision.get("deepstack_visual_indexes") if isinstance(vision, dict) else None
        sizes += [step_tokens * found.model.hidden_size * HALF] * (len(levels) if isinstance(levels, list) else 0)
    return tuple(sizes)


def _items(held: Loaded, fmt: Format, plan: Plan) -> tuple[Item, ...]:
    rule = formats.source_of(fmt.name)
    items: dict[str, Item] = {}
    for each in held.tensors:
        before = items.get(each.name)
        size = each.total_bytes + (before.n_bytes if before else 0)
        group = ADAPTERS if each.kind == ADAPTERS else "weights"
        evidence = rule if each.dtype not in ("bf16", "fp16", "fp32") else WEIGHTS_WHY
        items[each.name] = Item(each.name, group, size, each.kind, (), each.dtype, "rule", evidence)
    found = list(items.values())
    if held.tables:
        found.append(
            Item("cosines and sines", "buffers", sum(held.tables), source="rule", evidence="vllm rotary_embedding")
        )
    if plan.fixed:
        found.append(
            Item(
                "scales and workspaces made while loading",
                "buffers",
                sum(plan.fixed),
                source="rule",
                evidence=WEIGHTS_WHY,
            )
        )
    rounded = held.allocated_bytes - held.tensor_bytes - sum(plan.fixed)
    if rounded > 0:
        found.append(
            Item("rounding of the allocator", "runtime", rounded, source="rule", evidence="torch CUDACachingAllocator")
        )
    return tuple(found)
