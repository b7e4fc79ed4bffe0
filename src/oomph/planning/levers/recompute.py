"""Doing things twice, or one after the other, instead of holding them at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from oomph.job import TrainJob
from oomph.job_words import Checkpointing
from oomph.model import Model
from oomph.planning.lever import Lever, Price, halving, replaced, setting

CHECKPOINTING = "https://huggingface.co/docs/transformers/en/grad_checkpointing"


def _one_after_the_other(job: TrainJob, model: Model) -> Iterable[TrainJob]:
    return halving("batch", 1, lambda factor: {"accumulation": job.accumulation * factor})(job, model)


def _sequence_by_sequence(job: TrainJob, model: Model) -> Iterable[TrainJob]:
    """The last resort for a batch that no power of two divides."""
    *_, last = (job, *_one_after_the_other(job, model))
    if last.batch > 1:
        changed = replaced(job, {"batch": 1, "accumulation": job.accumulation * job.batch})
        if changed is not None:
            yield changed


def _checkpointed(job: TrainJob, model: Model) -> Iterable[TrainJob]:
    """As torch recommends it; reentrant beside int8 weights that train, which the other way detaches."""
    if job.checkpointing == "none":
        way: Checkpointing = "reentrant" if job.weight_quant else "non-reentrant"
        yield replace(job, checkpointing=way, checkpoint_every=1)


LEVERS = (
    Lever(
        "smaller micro-batches, more of them",
        Price.SPEED,
        "The same gradient from more and smaller micro-batches, whose matrix products use the GPU less well.",
        "https://huggingface.co/docs/transformers/perf_train_gpu_one",
        lambda job, model: (*_one_after_the_other(job, model), *_sequence_by_sequence(job, model)),
    ),
    Lever(
        "gradient checkpointing",
        Price.SPEED,
        "The same gradient, some 20 % slower: each layer's forward pass is computed a second time for its backward.",
        CHECKPOINTING,
        _checkpointed,
    ),
    Lever(
        "layers' inputs in host memory",
        Price.SPEED,
        "The same gradient, a little slower: what checkpointed layers begin with goes to the host and back (Unsloth).",
        "https://unsloth.ai/blog/long-context",
        setting(lambda job: job.checkpointing != "none", checkpointing="unsloth", checkpoint_every=1),
    ),
    Lever(
        "checkpoint every layer",
        Price.SPEED,
        "The same gradient, a little slower: the layers between checkpoints are computed a second time too.",
        CHECKPOINTING,
        setting(lambda job: job.checkpointing != "none", checkpoint_every=1),
    ),
)
