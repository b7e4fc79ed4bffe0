"""A model in SGLang: what lies on each device, what its pools hold, and the lines it prints at its start.

Of what is free before loading, a fixed share is for weights and pools, the rest for activations and CUDA graphs; the
pools take what the weights leave of that share. So the pools are known without knowing the activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING

from oomph.caches import layer_caches
from oomph.constants import Constant, measured
from oomph.engines.base import Amount, Deployment, Limit, Share
from oomph.engines.paged import counted
from oomph.engines.sglang.fraction import Taken, taken
from oomph.engines.sglang.job import DRAFTED_REQUESTS, NEWEST, SglangJob
from oomph.engines.sglang.pools import DRAFT_COUNTED_SINCE, HEADROOM_UNTIL, Pools, cells, page_size, pools
from oomph.engines.sglang.requests import Requests, running, states_each, table_bytes
from oomph.engines.sglang.weights import Loaded, loaded, spread
from oomph.engines.shards import KEPT, step_bytes
from oomph.errors import UsageError
from oomph.ledger import Item, Printed
from oomph.units import GIB, MIB

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device
    from oomph.model import Model

ASIDE = "set aside for activations and CUDA graphs"
PROFILED = "mem_cache/kv_cache_configurator.py, _profile_available_bytes"
IMAGES, IMAGES_SINCE = 100 * MIB, (0, 5, 18)  # kept for images by models that see: SGLANG_VLM_CACHE_SIZE_MB
ONE_TOKEN_PAGES = ("7", "8", "9")  # compute capabilities whose kernels take pages of one token


@dataclass(frozen=True)
class Stage:
    """One device of a stage of the pipeline: what was free before loading, what is held, the pools, and at least."""

    free: int
    held: Loaded
    made: Pools
    least: Pools
    beside: tuple[tuple[str, Constant], ...]  # what the process holds beside


def deploy(found: Subject, job: SglangJob, devices: Sequence[Device]) -> Deployment:
    """Return what is on the devices: one share for each stage of the pipeline and kind of device.

    Raises UnsupportedError for what is not modelled, UsageError for a number of devices that the job does not take.
    """
    longest = job.context_length or job.context or found.model.context_length
    if longest is None:
        raise UsageError("This config does not say how long a context may be.", "Say --context-length.")
    context = job.context or longest
    if not devices:
        return _unknown(found, job, context, longest)
    if len(devices) != job.ranks:
        raise UsageError(
            f"--tp-size, --pp-size and --dp-size ask for {counted(job.ranks)}, and there are {len(devices)}.",
            f"Say --tp-size {len(devices)}, or name {counted(job.ranks)}.",
        )
    smallest = min(devices, key=lambda device: device.capacity_bytes)
    took = taken(found, job, smallest, _is_latent(found.model))
    stages = [_stage(found, job, smallest, took, stage) for stage in range(job.pipeline_parallel)]
    tokens = min(stage.made.tokens for stage in stages)
    states = [stage.made.states for stage in stages if stage.made.cells.state]
    requests = running(job, tokens, longest, min(states, default=None))
    table = table_bytes(job, requests, longest, tokens // stages[0].made.page)
    shares = tuple(
        _share(job, device, count, stage, number, tokens, table, took)
        for number, stage in enumerate(stages)
        for device, count in _kinds(devices, job)
    )
    limits = {
        "context": _longest(found, job, longest),
        "concurrency": Limit(requests * job.attention_copies, _why(job, min(states, default=None))),
    }
    step, warnings = _step(found, job, took, shares)
    assumed = (*_assumed(job, smallest, stages[0], took), step)
    return Deployment(shares, context, _printed(stages, tokens, table), limits, assumed, warnings)


def _longest(found: Subject, job: SglangJob, longest: int) -> Limit:
    if job.context_length is not None:
        return Limit(job.context_length, f"--context-length {job.context_length}")
    return Limit(found.model.context_length or longest, "what the config allows")


@lru_cache(maxsize=KEPT)
def _is_latent(model: Model) -> bool:
    return any(getattr(kept, "kind", "") == "latent" for each in layer_caches(model) for kept in each.cached)


def _kinds(devices: Sequence[Device], job: SglangJob) -> list[tuple[Device, int]]:
    """Return the kinds of devices with how many of each one stage of the pipeline has."""
    found: dict[str, tuple[Device, int]] = {}
    for device in devices:
        found[device.id] = device, found.get(device.id, (device, 0))[1] + 1
    if len(found) > 1 and job.pipeline_parallel > 1:
        raise UsageError("Which stage of a pipeline is on which kind of device is not said.", "Name equal devices.")
    return [(device, count // job.pipeline_parallel) for device, count in found.values()]


def _draft_layers(found: Subject, job: SglangJob, stage: int) -> int:
    """Return the layers of the model's own draft, which are on the last stage."""
    if not job.drafted[0] or stage != job.pipeline_parallel - 1:
        return 0
    if not found.model.mtp_params:
        raise UsageError(
            f"{found.model.name} has no prediction layers to guess ahead with.", "Leave out --speculative-algorithm."
        )
    config = found.source.config or {}
    text = config.get("text_config")
    said = (text if isinstance(text, dict) else config).get("num_nextn_predict_layers")
    return said if isinstance(said, int) and 0 < said < 2**10 else 1


def _stage(found: Subject, job: SglangJob, device: Device, took: Taken, stage: int) -> Stage:
    cell, held, layers = cells(found, job, device, stage), loaded(found, job, stage), _draft_layers(found, job, stage)
    beside = [("CUDA context", measured("cuda_context", device))]
    if job.ranks > 1:
        beside.append(("NCCL", measured("nccl", device)))
    free = device.capacity_bytes - sum(each.n_bytes for _, each in beside)
    least = device.capacity_bytes - sum(each.high for _, each in beside)
    draft = held.draft_bytes if layers and job.release >= DRAFT_COUNTED_SINCE else 0
    weights = held.n_bytes + draft + (IMAGES if took.sees and job.release >= IMAGES_SINCE else 0)
    # free after loading, less the share of what was free before that is set aside
    made = pools(max(0, int(free * took.fraction) - weights), cell, job, layers)
    lowest = max(0, int(least * took.fraction) - weights - held.rounding_bytes)
    return Stage(free, held, made, pools(lowest, cell, job, layers), tuple(beside))


def _why(job: SglangJob, states: int | None) -> str:
    if states is not None:
        return f"there are {states:,} states, and {states_each(job)} for each request"
    return "--max-running-requests" if job.max_running_requests else "the most that SGLang runs at a time by itself"


def _share(
    job: SglangJob, device: Device, count: int, stage: Stage, number: int, tokens: int, table: int, took: Taken
) -> Share:
    """Return what one device holds: the tokens of the fullest device are those of all."""
    cell, page, held = stage.made.cells, stage.made.page, stage.held
    room = ceil(tokens * stage.made.cell)
    items = [
        Item("weights", "weights", held.n_bytes, safe=held.n_bytes + held.rounding_bytes),
        *(
            Item(name, "runtime", each.n_bytes, safe=each.high, source=each.source, evidence=each.evidence)
            for name, each in stage.beside
        ),
        _rule("request table and free pages", "buffers", table, "mem_cache/memory_pool.py, ReqToTokenPool"),
        _rule("padding pages", "kv_cache", page * (cell.full + cell.swa), "mem_cache/memory_pool.py"),
    ]
    if stage.made.draft:
        items.append(Item("weights of the draft", "weights", held.draft_bytes))
    if cell.state:
        items.append(_rule("states", "state", (stage.made.states + 1) * cell.state, PROFILED))
    aside = device.capacity_bytes - sum(item.n_bytes for item in items) - room
    room += min(0, aside)  # what is too large already leaves less than nothing
    items.append(_rule(ASIDE, "runtime", max(0, aside), f"--mem-fraction-static {took.fraction:.3f}"))
    asked = Requests(job, cell, page, took.step_tokens, stage.made.cell)
    name = device.name if job.pipeline_parallel == 1 else f"{device.name} of stage {number}"
    return Share(name, tuple(items), asked.needs, asked.held, room, device.capacity_bytes, pool=True, count=count)


def _rule(name: str, group: str, n_bytes: int, evidence: str) -> Item:
    return Item(name, group, n_bytes, source="rule", evidence=evidence)


def _unknown(found: Subject, job: SglangJob, context: int, longest: int) -> Deployment:
    """Return what a model takes where the devices are not known: weights, and what requests need."""
    shares = tuple(_bare(found, job, stage) for stage in range(job.pipeline_parallel))
    limits = {"context": _longest(found, job, longest)}
    return Deployment(shares, context, (), limits, ("no device named: what SGLang sets aside is not counted",))


def _bare(found: Subject, job: SglangJob, stage: int) -> Share:
    cell, held = cells(found, job, None, stage), loaded(found, job, stage)
    per_token = cell.full + job.swa_full_tokens_ratio * cell.swa
    asked = Requests(job, cell, page_size(job, cell), max(job.chunked_prefill_size or 0, 1), per_token)
    states = states_each(job) * cell.state

    def needs(context: Amount, concurrency: Amount) -> Amount:
        return asked.needs(context, concurrency) + concurrency * states

    def shown(context: int, concurrency: int) -> tuple[Item, ...]:
        of_states = (_rule("states", "state", concurrency * states, PROFILED),) if states else ()
        return (*asked.held(context, concurrency), *of_states)

    items = (Item("weights", "weights", held.n_bytes, safe=held.n_bytes + held.rounding_bytes),)
    name = "GPU" if job.pipeline_parallel == 1 else f"GPU of stage {stage}"
    return Share(name, items, needs, shown, count=job.ranks // job.pipeline_parallel)


def _printed(stages: Sequence[Stage], tokens: int, table: int) -> tuple[Printed, ...]:
    """Return the lines that the first rank prints."""
    first, last = stages[0], stages[-1]
    made, cell, held = first.made, first.made.cells, first.held
    kv = made.bytes_of(tokens)
    least = min(stage.least.tokens for stage in stages)
    states = (made.states + 1) * cell.state if cell.state else 0
    after = first.free - held.n_bytes
    rounded = held.n_bytes + held.rounding_bytes
    found = [
        _gib("mem_before_load_gib", "Load weight begin. avail mem=", first.free),
        _gib("weights_gib", f"Load weight end. avail mem={after / GIB:.2f} GB, mem usage=", held.n_bytes, rounded),
        Printed("kv_tokens", f"KV Cache is allocated. #tokens: {tokens}", tokens, least),
        _gib("kv_cache_gib", "KV Cache is allocated. K and V size: ", kv, made.bytes_of(least)),
    ]
    if cell.swa:
        full = (tokens + made.page) * cell.full
        windowed = made.windows_of(tokens)
        found.append(Printed("kv_swa_tokens", f"Use sliding window memory pool. swa_layer_tokens={windowed}", windowed))
        found.append(_gib("kv_full_gib", "of it in layers that see all: ", full))
        found.append(_gib("kv_swa_gib", "of it in layers with a window: ", kv - full))
    if states:
        line = f"Mamba Cache is allocated. max_mamba_cache_size: {made.states}"
        found += [Printed("state_slots", line, made.states), _gib("state_gib", "Mamba Cache is allocated: ", states)]
    if last.made.draft:
        found.append(_gib("draft_weights_gib", "of the draft: Load weight end. mem usage=", last.held.draft_bytes))
        found.append(_gib("draft_kv_gib", "of the draft: KV Cache is allocated: ", last.made.draft_bytes_of(tokens)))
    return (*found, _gib("avail_after_pool_gib", "Memory pool end. avail mem=", after - kv - states - table))


def _gib(name: str, text: str, n_bytes: int, safe: int | None = None) -> Printed:
    return Printed(name, f"{text}{n_bytes / GIB:.2f} GB", n_bytes / GIB, None if safe is None else safe / GIB)


def _assumed(job: SglangJob, device: Device, stage: Stage, took: Taken) -> tuple[str, ...]:
    said = list(took.assumptions)
    if not job.version:
        said.append(f"SGLang {'.'.join(map(str, NEWEST))}, the newest that was read")
    major = device.compute_capability.partition(".")[0]
    if job.page_size is None and stage.made.page == 1 and major not in ONE_TOKEN_PAGES:
        said.append("pages of 1 token; kernels for Blackwell may take pages of 64 or 128, so some tokens less")
    if job.drafted[0] and job.release < HEADROOM_UNTIL and job.max_running_requests is None:
        said.append(f"--max-running-requests {DRAFTED_REQUESTS}: what SGLang takes by itself with a draft")
    return tuple(said)


def _step(found: Subject, job: SglangJob, took: Taken, shares: Sequence[Share]) -> tuple[str, tuple[str, ...]]:
    """Return what is known of a step's activations, and a warning where what is set aside is less even than that."""
    tokens = max(1, took.step_tokens // job.attention_copies)
    spreads = [spread(found, job, stage) for stage in range(job.pipeline_parallel)]
    least = max(step_bytes(found.model, each, tokens, 1)[0] for each in spreads)
    aside = min(item.n_bytes for share in shares for item in share.items if item.name == ASIDE)
    said = f"{least / GIB:.2f} GiB at least, and {aside / GIB:.2f} GiB are set aside for it and for CUDA graphs"
    step = f"activations and CUDA graphs are not modelled: a step of {tokens:,} tokens takes {said}"
    if least <= aside:
        return step, ()
    return step, (f"A step of {tokens:,} tokens takes {said}: lower --mem-fraction-static or --chunked-prefill-size.",)
