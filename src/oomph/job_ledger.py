"""From a model and a job to a Ledger: what is alive at the peak, the step's instants, whether a device holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from oomph.answer import Subject, facts
from oomph.closed_form import Forms, axis_name
from oomph.device_map import placed
from oomph.device_memory import Figures, figures, fits
from oomph.errors import UnsupportedError
from oomph.job import TrainJob, describe
from oomph.job_tells import idle_inputs
from oomph.job_warnings import job_warnings, of_device
from oomph.ledger import Instant, Item, Ledger, Verdict
from oomph.methods import adapted, trainable_params
from oomph.methods.targets import has_own_loop
from oomph.peak import STAYING, Alive, alive_at, highest_place
from oomph.programs import SAME_CLASS
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
BEFORE = "what is there before this step, above its peak"
NAMED = 3  # of what comes on top at the peak


def job_ledger(found: Subject, job: Job, fleet: Fleet | None = None, config: Config | None = None) -> Ledger:
    """Return the ledger of a job on one device; `config` is the allocator's.

    Raises UnsupportedError where the tape has no program for the model or no rule for an input of the job.
    """
    if fleet is not None and fleet.count > 1:
        fix = f"Name one of them: --gpu {fleet.device.id}. What engines serve is spread: oomph serve --engine vllm."
        raise UnsupportedError("oomph does not spread a job over several GPUs yet.", fix)
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
    tensors = [_item(one, kinds, forms, instant) for one in alive]
    before = events.peak_bytes - sum(one.n_bytes for one in tensors)
    items = (*tensors, *_before(before), *on_device.items)
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
        warnings=(*job_warnings(found, job, asked, played), *(of_device(device, job) if device else ())),
        figures=(on_device.allocated, on_device.reserved, on_device.device),
        resident_bytes=on_device.played.allocated_end_bytes,
        instants=tuple(map(_instant, names, played.stretches))[played.begin - 1 :],
        why=_why(played, instant, alive) + (_when(events) if before > 0 else ""),
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
    inputs = describe(job) | ({"experts": "eager"} if has_own_loop(model) else {})  # whose class has a loop alone
    same = SAME_CLASS.get(model.decoder_type)
    read_as = (f"transformers has no class for {model.decoder_type}: its config is read as {same}",) if same else ()
    return (*read_as, *(f"{name}={value}" for name, value in inputs.items() if name not in idle))


def _before(n_bytes: int) -> tuple[Item, ...]:
    """Return what a device needs for an earlier moment: a model that is prepared, a first step that makes states."""
    return (Item(BEFORE, "runtime", n_bytes, evidence="the stream's peak lies before the step"),) if n_bytes > 0 else ()


def _when(events: Stream) -> str:
    """Return a sentence on the moment of a stream's peak."""
    heights = list(events.live())
    at = heights.index(max(heights))
    name = next((name for position, name in reversed(events.marks) if position <= at), "the beginning")
    return f" More is there before it, in {name}: {human(heights[at])}."


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
