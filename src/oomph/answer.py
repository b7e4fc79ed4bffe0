"""From a reference to a Ledger: find the model, store it in a format, hold it against a device."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from oomph import formats, weigh
from oomph.errors import ConfigError, OomphError, SourceError, UnsupportedError, UsageError
from oomph.formats.base import Format
from oomph.ledger import Alternative, Ledger
from oomph.model import Model
from oomph.units import human

if TYPE_CHECKING:
    from oomph.devices import Fleet
    from oomph.header import Header, Source
    from oomph.structure import Job

# What people choose between, shown side by side when they name none.
SIDE_BY_SIDE = ("bf16", "fp8", "int8", "nf4-dq", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k")


# bitsandbytes sees experts only where they are apart; both readings are shown for a mixture of experts.
EXPERTS_TOO = ("bf16", "fp8", "nf4-dq", "nf4-dq-experts", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k")

# What names of quantised copies have in them.
QUANTISED = re.compile(
    r"(?<![a-z0-9])(?:nvfp4|mxfp4|fp8|fp4|awq|gptq|int4|int8|w4a16|w8a8|nf4)(?![a-z0-9])", re.IGNORECASE
)

# Number types that hold codes, not values: their elements are not parameters.
PACKED = frozenset({"int8", "uint8", "int16", "int32", "uint32"})


@dataclass(frozen=True)
class Subject:
    """What is weighed: where it was found, the model it is, and how its parameters were counted.

    `counted_by` is "config" (a family read it), "class" (the real class on the meta device) or "header".
    """

    source: Source
    model: Model
    counted_by: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Stored:
    """The weights as they are kept, what that is called, what was assumed and what is to be warned of."""

    weighed: weigh.Weighed
    name: str
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    from_files: bool = False


def load(ref: str, *, offline: bool = False) -> Model:
    """Return the model behind a name, repo id, folder or file.

    Raises OomphError: unknown name, unreadable source, impossible config, unsupported architecture.
    """
    return subject(ref, offline=offline).model


def subject(ref: str, *, offline: bool = False, job: Job | None = None) -> Subject:
    """Return the model behind `ref` with its source; with the head that a job's task needs."""
    from oomph import sources

    return for_job(resolve(sources.load(ref, offline=offline)), job, offline)


def for_job(found: Subject, job: Job | None, offline: bool = False) -> Subject:
    """Return a model with the head that a job's task needs, whatever its config names, with its teacher or judge."""
    if job is None:
        return found
    from oomph.job import TrainJob

    found = _thinker(found)
    if not isinstance(job, TrainJob):
        return found
    if job.teacher:
        found = replace(found, model=replace(found.model, teacher=load(job.teacher, offline=offline)))
    if job.reward_model:
        found = replace(found, model=replace(found.model, judge=load(job.reward_model, offline=offline)))
    if job.task == "config":
        return found
    from oomph.families import model_from_config
    from oomph.families.heads import headed, task_of

    if found.source.config is None or found.counted_by != "config":
        raise UnsupportedError(
            f"What head {found.model.name} has is not told by names and shapes.", "Point oomph at its config.json."
        )
    config = headed(found.source.config, *job.head)
    model = model_from_config(config, found.model.name)
    if task_of(model.objective) != job.task:
        fix = "Leave --task out." if job.objective == "sft" else "Take another model, or another --objective."
        raise UnsupportedError(f"oomph knows no {model.model_type} for {job.task}.", fix)
    return replace(found, source=replace(found.source, config=config), model=model)


OMNI = ("qwen2_5_omni", "qwen3_omni_moe")  # types whose config has a thinker_config


def _thinker(found: Subject) -> Subject:
    """Return the thinker of an omni model, a class of its own: that is what is trained, and what answers with text."""
    from oomph.families import model_from_config

    config = found.source.config
    if found.model.model_type not in OMNI or config is None:
        return found
    inner = {**config["thinker_config"], "model_type": f"{found.model.model_type}_thinker"}
    model = model_from_config(inner, found.model.name)
    return replace(found, source=replace(found.source, config=inner), model=model)


def resolve(source: Source) -> Subject:
    """Return the model of a source: from its config if the family is known, else counted, else from headers."""
    if source.config is None:
        return _from_header(source)
    from oomph.families import model_from_config

    try:
        return Subject(source, model_from_config(source.config, source.name), "config", _unsaid(source))
    except UnsupportedError as unknown:
        return _unknown_family(source, unknown)


def _unsaid(source: Source) -> tuple[str, ...]:
    """Return a warning where a name says that weights are quantised and the config, all that is known, does not."""
    said = QUANTISED.search(source.repo or source.name)
    if said is None or source.header is not None or "quantization_config" in json.dumps(source.config):
        return ()
    taken = "its config names no quantisation: it is taken to be stored as it is. Say --format, or point at its files."
    return (f"{source.name} is a quantised copy by its name ({said[0]}), but {taken}",)


def _unknown_family(source: Source, unknown: UnsupportedError) -> Subject:
    """Count an architecture without a family: by its real class, else from headers, else refuse."""
    from oomph.families.from_tensors import model_from_tensors
    from oomph.referee import meta

    assert source.config is not None
    try:
        tensors = meta.count(source.config)
    except UnsupportedError as uncounted:
        if source.header is not None:
            return _from_header(source, f"{unknown.problem} Weighed from the headers of its files.")
        raise UnsupportedError(unknown.problem, f"{unknown.fix} {uncounted.problem} {uncounted.fix}") from None
    note = f"{unknown.problem} Counted by building its transformers class on the meta device."
    return Subject(source, model_from_tensors(tensors, source.name), "class", (note,))


def _from_header(source: Source, note: str = "") -> Subject:
    from oomph.families.from_tensors import model_from_header

    if source.header is None:
        raise ConfigError(f"{source.name} has neither a config nor weights.", "Point oomph at a whole model.")
    if not source.header.n_bytes:
        raise SourceError(f"{source.name} holds no weights: its header lists not one byte.", "Point oomph at a model.")
    return Subject(source, model_from_header(source.header, source.name), "header", (note,) if note else ())


def estimate(
    ref: str,
    *,
    format: str | None = None,
    gpu: str | None = None,
    side_by_side: Iterable[str] | None = None,
    offline: bool = False,
    job: Job | None = None,
) -> Ledger:
    """Weigh a model: every stored byte of its weights, and whether a device holds them; or say what a job takes.

    `job` is a TrainJob or an InferJob, whose precision is the format; without one the model is weighed, and
    `format` is how the weights are stored (default: as the model is published), `gpu` a device, several
    ("2xh100") or a size ("24GiB"), `side_by_side` the formats to compare with (default: the usual ones).
    """
    fleet = None
    if gpu is not None:
        from oomph.devices import parse_gpus

        if not isinstance(gpu, str):
            raise UsageError(f"gpu cannot be {gpu!r:.60}.", "Give a device, rtx-4090, or a size, 24GiB.")
        fleet = parse_gpus(gpu)
    if job is not None:
        from oomph.job import InferJob, TrainJob
        from oomph.job_ledger import job_ledger

        if not isinstance(job, (TrainJob, InferJob)):
            raise UsageError(f"job cannot be {job!r:.60}.", "Give a TrainJob or an InferJob.")
        if format is not None:
            raise UsageError("A job takes no format: its precision says how weights are kept.", "Leave it out.")
        return job_ledger(subject(ref, offline=offline, job=job), job, fleet)
    return ledger(subject(ref, offline=offline), format, fleet, side_by_side)


def ledger(found: Subject, name: str | None, fleet: Fleet | None, side_by_side: Iterable[str] | None = ()) -> Ledger:
    """Return the ledger of a model stored in the format `name` (None: as published), other formats beside it.

    `side_by_side` None means the usual ones, where oomph knows what each tensor is for.
    """
    if side_by_side is None:
        usual = EXPERTS_TOO if "moe_experts" in found.model.by_kind else SIDE_BY_SIDE
        side_by_side = usual if found.counted_by == "config" else ()
    from oomph.runtime_memory import reserves

    kept = _store(found, name)
    weighed, stored_as, assumptions = kept.weighed, kept.name, kept.assumptions
    items = (*weighed.items, *reserves(weighed.tensors, fleet.device if fleet else None))
    rows = tuple(_alternative(found, other, fleet) for other in side_by_side)
    overhead = sum(item.safe_bytes - item.n_bytes for item in items)
    verdict = None
    if fleet is not None:
        from oomph.verdict import judge

        said = stored_as if kept.from_files else f"in {stored_as}"
        what = f"{found.model.name or found.model.model_type} {said}"
        verdict = judge(what, _pieces(weighed, fleet), overhead, fleet, rows)
        if fleet.count > 1:
            assumptions += ("several GPUs: whole layers placed in order, as evenly as can be; engines differ",)
    return Ledger(
        job={"kind": "weigh", "model": found.source.name, "origin": found.source.origin, "format": stored_as},
        model=facts(found),
        items=items,
        device=fleet.to_dict() if fleet else None,
        verdict=verdict,
        alternatives=rows,
        assumptions=assumptions,
        warnings=(*_said_by(found.source), *found.warnings, *kept.warnings, *found.model.notes),
        not_loaded=weighed.not_loaded,
    )


def _said_by(source: Source) -> tuple[str, ...]:
    """Return what a reader must know of where the model was found; the catalogue's repository is no warning."""
    return () if source.origin == "catalogue" else source.notes


def _store(found: Subject, name: str | None) -> _Stored:
    """Return the weights in the format asked for, else as their files hold them, else as the config says."""
    model, header = found.model, found.source.header
    assumed = _class_defaults(model)
    if name is not None:
        fmt = formats.get(name)
        return _Stored(
            weigh.in_format(_known(found, fmt), fmt, found.source.config), fmt.name, assumed, fmt.notes(model)
        )
    if header is not None:
        skipped, warnings = _held_against(header, found)
        return _Stored(weigh.as_stored(header, skipped), "as stored", assumed, warnings, from_files=True)
    fmt, said = _published(found)
    return _Stored(weigh.in_format(model, fmt, found.source.config), fmt.name, (said, *assumed), fmt.notes(model))


def _held_against(header: Header, found: Subject) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return which of the files' tensors are not loaded, and how the files differ from the config, in words."""
    warnings = header.notes
    packed = sum(tensor.n_bytes for tensor in header.tensors if tensor.dtype in PACKED)
    if found.counted_by == "header" and packed * 2 > header.n_bytes:
        warnings += ("these files hold packed codes: what is counted are stored elements, not parameters",)
    if found.counted_by == "header" or header.kind != "safetensors":
        return frozenset(), warnings
    from oomph.agree import NOT_LOADED, agree, compare
    from oomph.tensor_groups import stored

    readings = _readings(_published(found, as_loaded=False)[0])
    fmt = readings[0]
    if len(readings) > 1:
        fmt = min(readings, key=lambda each: compare(found.model, each, header).unexplained_bytes)
    agreement = agree(found.model, fmt, header)
    skipped = {name for each in agreement.differences if each.what in NOT_LOADED for name in each.tensors}
    skipped |= {name for group in stored(found.model, header).values() if group.mtp for name in group.tensors}
    said = [f"{each.what}: {human(abs(each.n_bytes))} in {each.n_tensors} tensors" for each in agreement.differences]
    return frozenset(skipped), (*warnings, *said, *([agreement.warning] if agreement.warning else []))


def _readings(fmt: Format) -> tuple[Format, ...]:
    """Return what a quantization_config may mean: with experts quantised, or left as transformers 5 stacks them."""
    from oomph.formats.linear import LinearFormat

    if not isinstance(fmt, LinearFormat) or "expert" not in fmt.roles:
        return (fmt,)
    return fmt, replace(fmt, roles=fmt.roles - {"expert"})


def _known(found: Subject, fmt: Format) -> Model:
    """Return the model, unless its tensors' roles are only guessed and the format depends on them."""
    if found.counted_by != "config" and fmt.name not in ("bf16", "fp16", "fp32"):
        raise UnsupportedError(
            f"What {fmt.name} does to {found.model.name} cannot be told from names and shapes alone.",
            "Ask for bf16, fp16 or fp32, or weigh the files of the quantised model itself.",
        )
    return found.model


def _published(found: Subject, as_loaded: bool = True) -> tuple[Format, str]:
    """Return the format a model's config says it is published in, and the sentence that says so.

    What is published in fp32 is usually loaded in bf16; `as_loaded=False` asks for what is stored.
    """
    rest = found.model.dtype
    quantization = formats.asked_for(found.source.config or {})
    if quantization is not None:
        fmt = formats.from_config(quantization, rest if rest in ("bf16", "fp16") else "bf16")
        return fmt, f"stored as its quantization_config says: {fmt.title}"
    if rest in ("bf16", "fp16") or (rest == "fp32" and not as_loaded):
        return formats.get(rest), f"stored in {rest}, as its config says"
    if rest == "fp32":
        return formats.get(
            "bf16"
        ), "published in fp32 (twice the size), taken as loaded in bf16: --format fp32 for the other"
    return formats.get("bf16"), "its config names no dtype: bf16"


def _pieces(weighed: weigh.Weighed, fleet: Fleet) -> tuple[int, ...]:
    """Return what is placed: whole layers on several devices, on one device simply all there is.

    Where a format differs from layer to layer the pieces are upper bounds, the total is exact.
    """
    return weighed.pieces if fleet.count > 1 else (weighed.total_bytes,)


def _alternative(found: Subject, name: str, fleet: Fleet | None) -> Alternative:
    """Return one row of the comparison; a format that does not apply says why."""
    from oomph.runtime_memory import reserves
    from oomph.verdict import fullest, status

    fmt = formats.get(name)
    try:
        weighed = weigh.in_format(_known(found, fmt), fmt, found.source.config)
    except OomphError as error:
        return Alternative(fmt.name, fmt.title, None, None, reason=error.problem)
    total = weighed.total_bytes
    overhead = sum(item.safe_bytes for item in reserves(weighed.tensors, fleet.device if fleet else None))
    fits = None
    if fleet is not None:
        point = fullest(_pieces(weighed, fleet), fleet.count)
        fits = status(point, point + overhead, fleet.device.capacity_bytes) == "fits"
    notes = " ".join(fmt.notes(found.model))
    return Alternative(fmt.name, fmt.title, total, total + overhead, weighed.largest_layer, fits, notes)


def _class_defaults(model: Model) -> tuple[str, ...]:
    """Return the sentence naming the config keys that were absent, if any."""
    if not model.assumed:
        return ()
    taken = ", ".join(f"{key}={value}" for key, value in model.assumed.items())
    return (f"absent from the config, so the class default: {taken}",)


def facts(found: Subject) -> dict[str, Any]:
    """Return what the ledger says of the model itself."""
    model, header = found.model, found.source.header
    return {
        "name": model.name,
        "model_type": model.model_type,
        "params": model.params,
        "active_params": model.active_params,
        "embedding_params": model.embedding_params,
        "head_params": model.head_params,
        "mtp_params": model.mtp_params,
        "tied": model.tied,
        "by_kind": model.by_kind,
        "hidden_size": model.hidden_size,
        "num_layers": model.num_layers,
        "vocab_size": model.vocab_size,
        "context_length": model.context_length,
        "stored_dtype": model.dtype,
        "stored_bytes": header.n_bytes if header else None,
        "counted_by": found.counted_by,
    }
