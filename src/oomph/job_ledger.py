"""From a model and a job to a Ledger: what is alive at the peak, the step's instants, whether a device holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from oomph import formats
from oomph.answer import Subject, facts
from oomph.closed_form import Forms, axis_name
from oomph.device_map import NONE, placed, waiting_bytes
from oomph.device_memory import Figures, figures, fits
from oomph.errors import OomphError, UnsupportedError
from oomph.job import InferJob, TrainJob, describe
from oomph.job_tells import idle_inputs
from oomph.job_words import COMPLETING, OFFLOADED_CACHES, QUANTIZATIONS
from oomph.ledger import Instant, Item, Ledger, Verdict
from oomph.methods import adapted, trainable_params
from oomph.methods.targets import has_stacks
from oomph.optimizer_names import KINDS
from oomph.peak import STAYING, Alive, alive_at, highest_place
from oomph.programs import kernel_note
from oomph.recipe import Stretch
from oomph.runs import runs
from oomph.steps import Step, step
from oomph.stream import Stream
from oomph.streams import job_stream
from oomph.structure import Job
from oomph.units import human
from oomph.verdict import status

if TYPE_CHECKING:
    from oomph.allocator import Config
    from oomph.devices import Fleet
    from oomph.model import Model
    from oomph.timeline import Timeline

# What people call the tensors that are often most of a peak.
WORDS = {
    "_foreach_sqrt": "the square roots of all second moments at once (foreach)",
    "log_softmax": "log-probabilities of every token",
    "NllLoss_backward": "the gradient of the log-probabilities",
    "LogSoftmax_backward": "the gradient of the fp32 logits",
    "softmax": "attention probabilities",
}
SCORES = "_safe_softmax"  # of the math kernel alone: ATen/native/transformers/attention.cpp
BITSANDBYTES = ("nf4", "fp4", "int8")  # what its formats begin with
NAMED = 3  # of what comes on top at the peak


def job_ledger(found: Subject, job: Job, fleet: Fleet | None = None, config: Config | None = None) -> Ledger:
    """Return the ledger of a job on one device; `config` is the allocator's.

    Raises UnsupportedError where the tape has no program for the model or no rule for an input of the job.
    """
    if fleet is not None and fleet.count > 1:
        raise UnsupportedError("oomph does not spread a job over several GPUs yet.", "Name one of them.")
    if found.counted_by != "config":
        raise UnsupportedError(
            f"What {found.model.name} does is not told by names and shapes.", "Point oomph at its config.json."
        )
    asked, job = job, placed(found.model, job, fleet.device if fleet else None)
    played = step(found.model, job)
    place = highest_place(played)
    alive = alive_at(played, place)
    names = _names(played)
    instant = names[place.at]
    kind = "train" if isinstance(job, TrainJob) else "serve"
    events = job_stream(found.model, job)
    device = fleet.device if fleet else None
    mixed = runs(found.model, job) if isinstance(job, TrainJob) and job.mixed else []
    on_device = figures(events, device, config, capacity_bytes=device.capacity_bytes if device else None, runs=mixed)
    forms = Forms(played.sums, found.model, job)
    kinds = {weight.name: weight.kind for weight in adapted(found.model, job).weights}
    items = (*(_item(one, kinds, forms, instant) for one in alive), *on_device.items)
    said = f"{'training' if kind == 'train' else 'serving'} {found.model.name}"
    return Ledger(
        job={
            "kind": kind,
            "model": found.source.name,
            "origin": found.source.origin,
            "format": job.precision,
            **describe(job),
            **({"trainable_params": trainable_params(found.model, job)} if isinstance(job, TrainJob) else {}),
        },
        model=facts(found),
        items=items,
        device=fleet.to_dict() if fleet else None,
        verdict=_verdict(said, on_device, events, fleet, config) if fleet else None,
        assumptions=_assumed(job, found.model),
        warnings=(
            *found.warnings,
            *found.model.notes,
            *_unseen(job),
            *_map(found.model, asked, job),
            *_compiled(found.model, job),
            *_stored_otherwise(found, job),
            *kernel_note(found.model, job.attention),
            *_unfused(played, job),
            *_wide_experts(found.model, job),
        ),
        figures=(on_device.allocated, on_device.reserved, on_device.device),
        resident_bytes=on_device.played.allocated_end_bytes,
        instants=tuple(map(_instant, names, played.stretches))[played.begin - 1 :],
        why=_why(played, instant, alive),
    )


def timeline(found: Subject, job: Job, fleet: Fleet | None = None) -> Timeline:
    """Return memory over the job as a drawing sees it."""
    from oomph.step_timeline import step_timeline

    kind = "training step" if isinstance(job, TrainJob) else "prefill and decode"
    title = f"{found.model.name}: {kind}, {job.batch} x {job.seq_len} tokens, {job.precision}"
    return step_timeline(step(found.model, job), title, fleet.device.capacity_bytes if fleet else None)


def _names(played: Step) -> list[str]:
    """Return what to call the stretches; a layer's forward of inference is that of a pass."""
    names, work = [], ""
    for one in played.stretches:
        if one.name == "prefill" or one.name.startswith("decode "):
            work = one.name
        names.append(f"{work}, {one.name.removesuffix(' forward')}" if work not in ("", one.name) else one.name)
    return names


def _instant(name: str, one: Stretch) -> Instant:
    return Instant(name, one.repeats, one.start, one.peak, one.last_end)


def _item(one: Alive, kinds: Mapping[str, str], forms: Forms, instant: str) -> Item:
    """Return one line of the ledger; axes multiply to the elements, bytes are rounded as the allocator does."""
    names = [axis_name(forms.of(term)) or f"d{at}" for at, term in enumerate(one.kind.shape)]
    axes = tuple(zip(names, one.shape, strict=True))
    if one.count > 1:
        axes = (("tensors", one.count), *axes)
    why = one.kind.why or f"temporary of {one.kind.op}"
    kind = kinds.get(one.kind.scope, "") if one.kind.why == "parameter" else ""
    return Item(one.name, one.group, one.n_bytes, kind, axes, one.kind.dtype, "derived", why, instants=(instant,))


def _assumed(job: Job, model: Model) -> tuple[str, ...]:
    """Return the job's inputs in words, each with its value: they move gigabytes; not those that are idle here."""
    idle = set(idle_inputs(job))
    if not any(weight.of > 1 for weight in model.weights):
        idle |= {"experts", "routing"}
    return tuple(f"{name}={value}" for name, value in describe(job).items() if name not in idle)


def _unseen(job: Job) -> tuple[str, ...]:
    """Return sentences on what of a job takes memory that is not counted here."""
    if not isinstance(job, TrainJob):
        return _of_caches(job)
    found = []
    if job.objective in COMPLETING:
        found.append(
            f"{job.objective} is played from completions that are there: what makes them is not in the step. On the"
            " same GPU generation takes a key-value cache at another time: see `oomph serve`; no number adds the two."
        )
    if job.activation_offload in ("trl", "torchtune"):
        found.append(
            f"{job.activation_offload} brings activations back on a stream of its own, whose cached blocks torch keeps"
            " apart: more may be reserved than is said here. What goes to host memory is not counted."
        )
    kind = KINDS.get(job.optimizer)
    if kind is not None and kind.paged:
        found.append(
            f"{job.optimizer} keeps its states in unified memory: they are not counted here, and the driver moves them"
            " to the GPU as far as there is room."
        )
    if kind is not None and kind.on_host:
        found.append(f"{job.optimizer} keeps its states in host memory: they are not counted here.")
    if kind is not None and kind.rule == "torchao":
        found.append(
            f"{job.optimizer} makes its step by torch.compile: what compiled kernels pass each other is not counted, at"
            " most a few fp32 copies of the largest parameter at a time."
        )
    return tuple(found)


def _unfused(played: Step, job: Job) -> tuple[str, ...]:
    """Say so where torch's own attention writes out all scores, though a fused kernel was asked for."""
    if job.attention in ("math", "eager") or not any(one.op == SCORES for one in played.sums.recipe.classes):
        return ()
    words = (
        f"No fused kernel of torch takes these queries, keys and values: not {job.attention} but its math kernel is"
        " played, whose scores grow with the square of the length."
    )
    wide = isinstance(job, TrainJob) and not job.autocast and (job.kbit_preparation or job.precision == "fp32")
    fix = "--precision amp-bf16" if job.precision == "fp32" else "--autocast"
    why = (
        f" fp32 with fewer key heads than heads has none: {fix} makes them 16 bits wide, as trainers do."
        if wide
        else ""
    )
    return (words + why,)


def _wide_experts(model: Model, job: Job) -> tuple[str, ...]:
    """Say so where a base is quantised by bitsandbytes, which passes by the experts that transformers 5 stacks."""
    if not isinstance(job, TrainJob) or job.quantised_experts or job.experts == "modules" or not has_stacks(model):
        return ()
    if not job.quantization.startswith(BITSANDBYTES):
        return ()
    state = "fp32, as prepare_model_for_kbit_training leaves them" if job.kbit_preparation else "their own dtype"
    return (
        f"bitsandbytes does not quantise experts that are stacked in one tensor: they are in {state}."
        " --quantised-experts quantises them too (its replace_parameter_4bit), --experts modules has them as in"
        " transformers 4.",
    )


def _map(model: Model, asked: Job, job: Job) -> tuple[str, ...]:
    """Return a sentence on where a device map puts what."""
    if not isinstance(job, InferJob) or not isinstance(asked, InferJob):
        return ()
    if job.offload != NONE:
        words = ", ".join(job.offload.split(","))
        return (
            f"In the machine's memory wait {human(waiting_bytes(model, job))}: {words}. Every tensor of them comes to"
            " the GPU when its module runs, in every pass.",
        )
    return ("The device map puts the whole model on the GPU.",) if asked.device_map != NONE else ()


def _of_caches(job: InferJob) -> tuple[str, ...]:
    """Return sentences on what of a cache the figures do not show."""
    if job.cache in OFFLOADED_CACHES:
        return (
            "An offloaded cache comes back on a stream of its own, whose blocks the allocator keeps apart: up to two"
            " layers of it may be reserved beside what stands here. The machine's memory holds the rest.",
        )
    if job.cache == "hqq":
        return (
            "HQQ empties torch's cache with each layer that it quantises, so less may be reserved than stands here.",
        )
    return ()


def _compiled(model: Model, job: Job) -> tuple[str, ...]:
    """Return a sentence on what torch.compile may save, where a job asks for it."""
    if not isinstance(job, TrainJob) or not job.compile:
        return ()
    from oomph.min_cut import MOST_MORE, min_cut

    cut = min_cut(model, job)
    high = min(round(cut.saved_bytes * (1 + MOST_MORE)), cut.eager_bytes)
    return (
        "torch.compile is bounded, not played: the figures are those of the eager step, which is taken as the most."
        f" Estimate: of {human(cut.eager_bytes)} that eager torch saves for backward its min-cut partitioner saves at"
        f" least {human(cut.saved_bytes)}, and no more than {human(high)} with the margin that was measured."
        " A peak in the forward or backward pass is lower by up to the rest. CUDA graphs (mode reduce-overhead) and"
        " autotuning hold more, which is not counted.",
    )


def _stored_otherwise(found: Subject, job: Job) -> tuple[str, ...]:
    """Say so where a model that reads and writes was published quantised, and the job does not say how."""
    asked = formats.asked_for(found.source.config or {})
    if isinstance(job, TrainJob) or job.quantization != "none" or asked is None:
        return ()
    try:
        name = formats.from_config(asked, job.precision).name
    except OomphError:
        name = "a format of its own"
    fix = f"say --quantization {name}" if name in QUANTIZATIONS else f"oomph cannot play {name} yet"
    return (f"This model is published in {name}; what is played are weights in {job.precision}: {fix}.",)


def _why(played: Step, instant: str, alive: list[Alive]) -> str:
    """Return a sentence on what the peak is made of."""
    stays = sum(one.n_bytes for one in alive if one.kind.why in STAYING)
    sums: dict[str, int] = {}
    for one in alive:
        if one.kind.why not in STAYING:
            word = _word(one)
            sums[word] = sums.get(word, 0) + one.n_bytes
    largest = sorted(sums.items(), key=lambda pair: pair[1], reverse=True)
    on_top = ", ".join(f"{human(n_bytes)} {word}" for word, n_bytes in largest[:NAMED])
    rest = sum(n_bytes for _, n_bytes in largest[NAMED:])
    others = f", {human(rest)} other" if rest else ""
    return f"The peak is in {instant}: {human(stays)} stay all the time; on top {on_top}{others}."


def _word(one: Alive) -> str:
    why, op = one.kind.why, one.kind.op
    if op in WORDS:
        return WORDS[op]
    if why == "gradient":
        return "gradients"
    if why == "kv cache":
        return "key-value cache"
    if why in ("checkpoint", "saved for CheckpointFunction"):
        return "inputs of checkpointed layers"
    if why == "autocast copy":
        return "weights cast by autocast"
    if why.startswith("saved") or why == "recomputed":
        return "saved for backward"
    return "temporaries"


def _verdict(what: str, found: Figures, stream: Stream, fleet: Fleet, config: Config | None) -> Verdict:
    """Return whether a device holds a job; close to its capacity the allocator is played with just that much."""
    figure, capacity = found.device, fleet.device.capacity_bytes
    beside = figure.n_bytes - found.reserved.n_bytes
    outcome = status(found.allocated.n_bytes + beside, figure.safe_bytes, capacity)
    if outcome == "tight":
        outcome = fits(stream, capacity, fleet.device, config).status if found.runs_fit else "tight"
    takes = f"{what} takes {human(figure.n_bytes)}"
    shown = f"{human(capacity)} that {fleet.device.name} shows programs"
    free = capacity - figure.safe_bytes
    words = {
        "fits": f"Fits: {takes} of the {shown}"
        + (f"; at least {human(free)} stay free." if free >= 0 else ", once torch gives back what it only keeps."),
        "tight": f"Tight: {takes} of the {shown}, and may take up to {human(figure.safe_bytes)}.",
        "too_big": f"Does not fit: {takes}, {human(found.allocated.n_bytes)} of it tensors; "
        f"{fleet.device.name} shows programs {human(capacity)}.",
    }
    return Verdict(outcome, capacity, free, words[outcome])
