"""What would make a served model fit: single changes, each deployed anew, the mildest that fits first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from oomph.answer import EXPERTS_TOO, SIDE_BY_SIDE, Subject
from oomph.engines.base import Deployment, Engine, ServeJob
from oomph.engines.flags import spelled, width
from oomph.engines.serving import judge, not_taken
from oomph.engines.solve import FIELDS, largest
from oomph.errors import OomphError
from oomph.served import SingleChange

if TYPE_CHECKING:
    from oomph.devices import Device

SHORTEST = 128  # tokens: nobody asks an engine for less
MOST_GPUS = 8  # of one machine
# Fields of a cache's dtype, and a narrower one; an engine takes those that it has.
NARROWER = (
    (("kv_cache_dtype",), "fp8"),
    (("kv_cache_dtype",), "fp8_e4m3"),
    (("cache_type_k", "cache_type_v"), "q8_0"),
    (("kv_cache_type",), "q8_0"),
)
# Fields of how many requests an engine lets in at a time.
ADMITTED = (
    "num_parallel", "max_num_seqs", "max_batch_size", "max_running_requests", "max_concurrent_requests",
    "decode_concurrency", "parallel",
)  # fmt: skip
# The oldest compute capability whose kernels take a format: get_min_capability of vLLM 0.33.0's Fp8Config and
# AutoAWQConfig; TensorRT-LLM's fp8 begins with Ada, its nvfp4 with Blackwell.
SINCE = {"fp8": (7, 5), "awq": (7, 5), "modelopt-fp8": (8, 9), "modelopt-nvfp4": (10, 0)}
# The order of advice: what costs least first; a changed format costs quality, a shorter context what was asked for.
KINDS = ("admitted", "cache", "fewer", "shorter", "gpus", "format", "experts", "layers")


@dataclass(frozen=True)
class _Tried:
    kind: str
    title: str
    words: tuple[str, ...]
    changed: Mapping[str, Any]
    devices: Sequence[Device]


def changes(found: Subject, engine: Engine, job: ServeJob, devices: Sequence[Device]) -> tuple[SingleChange, ...]:
    """Return single changes of a job that does not fit: those that make it fit, the mildest first, then the others.

    Of each kind it is the mildest that fits, or where none does what saves most; what the engine refuses is left out.
    """
    before = engine.deploy(found, job, devices)
    refused = not_taken(before, before.context, job.concurrency)
    best: dict[str, SingleChange] = {}
    candidates = list(_candidates(found, engine, job, devices, before))
    for at, tried in enumerate(candidates):
        known = best.get(tried.kind)
        if known is not None and known.status == "fits":
            continue
        larger = any(each.kind == tried.kind for each in candidates[at + 1 :])
        if larger and tried.kind in ("gpus", "format") and _surely_not(found, engine, job, tried):
            continue  # the next one of its kind saves more
        change = _outcome(found, engine, job, tried, _margin(before, job))
        if change is None or (refused and change.status == "too_big"):
            continue  # what saves memory does not let in what the engine does not take
        if change.status == "fits" or known is None or change.saved_bytes > known.saved_bytes:
            best[tried.kind] = change
    fitting = [best[kind] for kind in KINDS if kind in best and best[kind].status == "fits"]
    others = sorted((one for one in best.values() if one not in fitting), key=lambda one: -one.saved_bytes)
    return (*fitting, *others)


def _outcome(found: Subject, engine: Engine, job: ServeJob, tried: _Tried, margin: int) -> SingleChange | None:
    """Return what a change does; None if it saves nothing or the engine does not start with it."""
    try:
        job = replace(job, **tried.changed)
        after = engine.deploy(found, job, tried.devices)
    except OomphError:
        return None
    verdict = judge("", after, job.concurrency)
    saved = _margin(after, job) - margin
    if saved <= 0 and not verdict.fits:
        return None
    return SingleChange(tried.title, tried.words, saved, verdict.margin_bytes, verdict.status)


def _surely_not(found: Subject, engine: Engine, job: ServeJob, tried: _Tried) -> bool:
    """Tell whether a change is too small by what is quick to work out alone."""
    try:
        job = replace(job, **tried.changed)
        after = engine.deploy(found, job, tried.devices)
    except OomphError:
        return False
    return any(share.surely_full(after.context, job.concurrency) for share in after.known)


def _margin(deployed: Deployment, job: ServeJob) -> int:
    """Return what is left on the fullest device, less than nothing where it does not fit."""
    return min(s.safe_room_bytes - int(s.needs(deployed.context, job.concurrency)) for s in deployed.known)


def _candidates(
    found: Subject, engine: Engine, job: ServeJob, devices: Sequence[Device], before: Deployment
) -> Iterator[_Tried]:
    """Yield changes to try, of each kind the milder ones first."""
    names = {each.name for each in fields(job)}
    admitted = next((name for name in ADMITTED if name in names), None)
    limit = before.limits.get("concurrency")
    if admitted and limit is not None and job.concurrency > limit.most:
        words = _words(engine, admitted, job.concurrency)
        yield _Tried("admitted", f"{job.concurrency:,} let in at a time", words, {admitted: job.concurrency}, devices)
    for dtypes, narrow in NARROWER:
        if names >= {*dtypes} and all(getattr(job, name) != narrow for name in dtypes):
            words = tuple(word for name in dtypes for word in _words(engine, name, narrow))
            yield _Tried("cache", f"keys and values in {narrow}", words, dict.fromkeys(dtypes, narrow), devices)
    for over, kind, now in (("concurrency", "fewer", job.concurrency), ("context", "shorter", before.context)):
        most = _most(found, engine, job, devices, over)
        if (SHORTEST if over == "context" else 1) <= most < now:
            title = f"{most:,} at a time" if over == "concurrency" else f"requests of {most:,} tokens"
            yield _Tried(kind, title, (f"--{over}", str(most)), {over: most}, devices)
    yield from _more_gpus(engine, job, devices)
    for name in engine.formats or (EXPERTS_TOO if "moe_experts" in found.model.by_kind else SIDE_BY_SIDE):
        if name != job.format and all(_computes(device, name) for device in devices):
            yield _Tried("format", f"weights in {name}", ("--format", name), {"format": name}, devices)
    if "n_cpu_moe" in names and "moe_experts" in found.model.by_kind:
        fewest = _fewest(found, engine, job, devices, "n_cpu_moe")
        title = f"experts of {fewest} layers in the machine's memory"
        yield _Tried("experts", title, _words(engine, "n_cpu_moe", fewest), {"n_cpu_moe": fewest}, devices)
    layers = next((name for name in FIELDS["gpu-layers"] if name in names), None)
    if layers:
        most = _most(found, engine, job, devices, "gpu-layers")
        title = f"{most} layers on GPUs, the others in the machine's memory"
        yield _Tried("layers", title, _words(engine, layers, most), {layers: most}, devices)


def _computes(device: Device, fmt: str) -> bool:
    """Tell whether a device has kernels for a format; where its compute capability is not known, it may."""
    return device.vendor != "nvidia" or device.capability is None or device.capability >= SINCE.get(fmt, (0, 0))


def _words(engine: Engine, field: str, value: Any) -> tuple[str, ...]:
    """Return the words that set a field; a variable and its value are one."""
    words = spelled(engine, field, value)
    return ("=".join(words),) if words and words[0].isupper() else tuple(words)


def _more_gpus(engine: Engine, job: ServeJob, devices: Sequence[Device]) -> Iterator[_Tried]:
    """Yield more GPUs of the same kind: one more, or twice as many where an engine cuts layers in equal parts."""
    if len({device.id for device in devices}) > 1:
        return
    parallel = width(engine.job)
    count, wide = len(devices), getattr(job, parallel) if parallel else 1
    while (count := count * 2 if parallel else count + 1) <= MOST_GPUS:
        words: tuple[str, ...] = ("--gpu", f"{count}x{devices[0].id}")
        if parallel:
            wide *= 2
            words += _words(engine, str(parallel), wide)
        yield _Tried("gpus", f"{count} GPUs", words, {parallel: wide} if parallel else {}, [devices[0]] * count)


def _fewest(found: Subject, engine: Engine, job: ServeJob, devices: Sequence[Device], field: str) -> int:
    """Return of how many layers at least something must leave the GPUs, all where even that is not enough."""
    least, most = getattr(job, field), found.model.num_layers
    while least < most:
        middle = (least + most) // 2
        after = _outcome(found, engine, job, _Tried("", "", (), {field: middle}, devices), 0)
        least, most = (least, middle) if after is not None and after.status == "fits" else (middle + 1, most)
    return most


def _most(found: Subject, engine: Engine, job: ServeJob, devices: Sequence[Device], over: str) -> int:
    try:
        return largest(found, engine, job, devices, over).value
    except OomphError:
        return 0
