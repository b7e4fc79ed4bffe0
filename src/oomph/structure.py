"""What two jobs have in common when a step of one is a step of the other with other numbers.

The structure of a job is everything that is no size (kinds of blocks, options, which sizes are one and the same); its
numbers are the distinct sizes. Equal sizes are one axis: that they are equal is part of the structure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from math import lcm
from typing import Any

from oomph.blocks.base import Block, Stack
from oomph.errors import UnsupportedError, UsageError
from oomph.job import BETWEEN_STEPS, InferJob, TrainJob
from oomph.model import Model
from oomph.pattern import pattern
from oomph.tape.activation_offload import MAX_FWD_STASH_SIZE
from oomph.tape.sizes import Sheet, Size, number, yes
from oomph.tensor import Tensor

Job = TrainJob | InferJob
OFFLOADED_BEHIND = MAX_FWD_STASH_SIZE + 1  # layers whose inputs are on their way to the host while another one runs
STACKS = (
    "model.layers", "transformer.h", "gpt_neox.layers", "transformer.blocks", "model.decoder.layers", "biogpt.layers",
    "bert.encoder.layer", "roberta.encoder.layer", "electra.encoder.layer", "distilbert.transformer.layer",
    "deberta.encoder.layer", "ernie.encoder.layer", "mpnet.encoder.layer", "albert.encoder.albert_layer_groups",
    "nomic_bert.layers",
    "encoder.layer", "transformer.layer", "layers",
    "decoder.block",
    "backbone.layers",
    "model.language_model.layers",
    "model.text_model.layers",
    "transformer.encoder.layers",
    "language_model.model.layers",
)  # fmt: skip


@dataclass(frozen=True)
class Structure:
    """A job's structure as a text, and its numbers: those of the job, then those of the model."""

    key: str
    numbers: tuple[int, ...]


def structure(model: Model, job: Job) -> Structure:
    """Return the structure of a job, the number of its layers left out where they repeat."""
    words = [type(job).__name__, model.model_type, model.text_type, str(model.tied), model.objective, *model.unplayed]
    seen: dict[int, int] = {}
    stack_path, stack = decoder_stack(model)
    repeating = pattern(stack.layers)
    for path, part in model.parts.items():
        words.append(path)
        if path == stack_path and repeating is not None:
            words += [f"{len(layers)} layers" for layers in repeating]
            part = replace(stack, layers=repeating.layers(repeating.fixed + len(repeating.period)))
        _describe(part, words, seen)
    for name, beside in (("teacher", model.teacher), ("judge", model.judge)):
        if beside is not None:
            words += [name, beside.model_type, beside.text_type]
            _describe(beside.parts, words, seen)
    apart = {*job.axes, *BETWEEN_STEPS}
    words += [f"{field.name}={getattr(job, field.name)}" for field in fields(job) if field.name not in apart]
    return Structure(" ".join(words), (*_job_sizes(job), *seen))


def decoder_stack(model: Model) -> tuple[str, Stack]:
    """Return the decoder's layers and their path."""
    for path in STACKS:
        part = model.parts.get(path)
        if isinstance(part, Stack) and part.layers:
            return path, part
    raise UnsupportedError("oomph finds no decoder layers in this model.", "Trace the real code instead: oomph trace.")


def with_layers(model: Model, depth: int) -> Model:
    """Return a model of the same pattern of layers with another number of them."""
    path, stack = decoder_stack(model)
    repeating = pattern(stack.layers)
    if repeating is None or depth < repeating.fixed:
        raise UsageError(
            f"The {len(stack.layers)} layers of this model follow no pattern that goes on to {depth}.",
            "Leave the number of layers to the model.",
        )
    shallow = replace(stack, layers=repeating.layers(depth))
    return replace(model, parts={**model.parts, path: shallow}, num_layers=depth)


def shallow(model: Model, job: Job, layers: Size, more: int = 1) -> tuple[int, int] | None:
    """Return with how many layers a step of `layers` is played, and how many are a period, of which it is played with
    `more` more too; None where it is to be played in full."""
    repeating = pattern(decoder_stack(model)[1].layers)
    # Frozen first layers differ from the others; one table holds the prefixes of all.
    apart = isinstance(job, TrainJob) and (job.freeze_layers or job.method in ("freeze", "prefix-tuning"))
    if repeating is None or apart:
        return None
    # Layers that wait are not like the others; an assistant has as many as it has.
    if isinstance(job, InferJob) and (job.offload != "none" or job.assistant):
        return None
    every = job.checkpoint_every if isinstance(job, TrainJob) and job.checkpointing != "none" else 1
    period = lcm(len(repeating.period), every)
    rest = (number(layers) - repeating.fixed) % period
    # The first layer of each kind does other things than those between, and so do the last ones to a checkpoint.
    ends = len(repeating.period) + every
    if isinstance(job, TrainJob) and job.activation_offload in ("trl", "torchtune"):
        ends += OFFLOADED_BEHIND
    if isinstance(job, TrainJob) and job.checkpointing == "unsloth":
        ends += 1  # what the last one begins with stays on the device, so the one before it ends otherwise
    if isinstance(job, TrainJob) and job.method == "lisa":
        ends += job.active_layers  # the first ones train, those that repeat do not
    depth = repeating.fixed + period + ends + (rest - ends) % period
    if yes(layers > depth + more * period) and yes((layers - repeating.fixed) % period == rest):
        return depth, period
    return None


def _job_sizes(job: Job) -> list[int]:
    return [getattr(job, name) for name in job.axes]


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _describe(value: Any, words: list[str], seen: dict[int, int]) -> None:
    """Add what a value of a block is to the words; a size by which one of the distinct sizes it is."""
    if isinstance(value, int) and not isinstance(value, bool):
        words.append(f"#{seen.setdefault(value, len(seen))}")
    elif isinstance(value, Stack):
        for layer, places in value.groups():
            words.append(f"stack{places}")
            _describe(layer, words, seen)
    elif isinstance(value, (Block, Tensor)):
        kind: Any = type(value)
        words.append(kind.__name__)
        for name in _names(kind):
            _describe(getattr(value, name), words, seen)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            words.append(str(name))
            _describe(each, words, seen)
    elif isinstance(value, tuple):
        words.append(f"tuple{len(value)}")
        for each in value:
            _describe(each, words, seen)
    else:
        words.append(repr(value))


def symbolic(model: Model, job: Job, sheet: Sheet) -> tuple[Model, Job]:
    """Return model and job with expressions for their numbers; axes are made in the order of `structure`'s numbers."""
    sizes: dict[str, Any] = {name: sheet.axis(getattr(job, name)) for name in job.axes}
    axes: dict[int, Size] = {}
    known: dict[int, Any] = {}

    def lifted(value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if value not in axes:
                axes[value] = sheet.axis(value)
            return axes[value]
        if isinstance(value, Stack):
            for layer, _ in value.groups():
                known[id(layer)] = lifted(layer)
            return replace(value, layers=tuple(known[id(layer)] for layer in value.layers))
        if isinstance(value, (Block, Tensor)):
            if id(value) not in known:
                kind: Any = type(value)
                changed = {name: lifted(getattr(value, name)) for name in _names(kind)}
                known[id(value)] = replace(value, **changed)  # type: ignore[type-var]  # every block is a dataclass
            return known[id(value)]
        if isinstance(value, Mapping):
            return {name: lifted(each) for name, each in value.items()}
        return tuple(map(lifted, value)) if isinstance(value, tuple) else value

    parts = {path: lifted(part) for path, part in model.parts.items()}
    teacher, judge = (
        None if each is None else replace(each, parts=lifted(each.parts)) for each in (model.teacher, model.judge)
    )
    return replace(model, parts=parts, teacher=teacher, judge=judge), replace(job, **sizes)
