"""Doing things twice, or one after the other, instead of holding them at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from oomph.job import TrainJob
from oomph.job_words import Checkpointing
from oomph.model import Model
from oomph.objectives import KINDS as OBJECTIVES
from oomph.planning.lever import Lever, Price, halving, replaced, setting

CHECKPOINTING = "https://huggingface.co/docs/transformers/en/grad_checkpointing"


def _one_after_the_other(job: TrainJob, model: Model) -> Iterable[TrainJob]:
    if OBJECTIVES[job.objective].task == "embedding":  # whose loss is of all texts of a micro-batch
        return ()
    return halving("batch", 1, lambda factor: {"accumulation": job.accumulation * factor})(job, model)


def _sequence_by_sequence(job: TrainJob, model: Model) -> Iterable[TrainJob]:
    """The last resort for a batch that no power of two divides."""
    *_, last = (job, *_one_after_the_other(job, model))
    if last.batch > 1 and OBJECTIVES[job.objective].task != "embedding":
        changed = replaced(job, {"batch": 1, "accumulation": job.accumulation * job.batch})
        if changed is not None:
            yield changed


def _checkpointed(job: TrainJob, model: Model) -> Iterable[TrainJob]:
    """As torch recommends it; reentrant beside int8 weights that train, which the other way detaches."""
    if job.checkpointing == "none":
        way: Checkpointing = "reentrant" if job.weight_quant else "non-reentrant"
        yield replace(job, checkpointing=way, checkpoint_every=1)


def _mini_batches(job: TrainJob, model: Model) -> Iterable[TrainJob]:
    """Yield GradCache with its own mini-batches, or those of a job that has it, and smaller ones."""
    cached = replaced(job, {"objective": "contrastive-cached"}) if job.objective == "contrastive" else job
    if cached is None or cached.objective != "contrastive-cached":
        return
    if cached is not job and cached.mini_batch_size < job.batch:
        yield cached
    yield from (each for each in halving("mini_batch_size", 1)(cached, model) if each.mini_batch_size < job.batch)


LEVERS = (
    Lever(
        "smaller micro-batches, more of them",
        Price.SPEED,
        "The same gradient from more and smaller micro-batches, whose matrix products use the GPU less well.",
        "https://huggingface.co/docs/transformers/perf_train_gpu_one",
        lambda job, model: (*_one_after_the_other(job, model), *_sequence_by_sequence(job, model)),
    ),
    Lever(
        "GradCache",
        Price.SPEED,
        "The same gradient, some 20 % slower: texts go through the model twice, a mini-batch at a time.",
        "https://arxiv.org/abs/2101.06983",
        _mini_batches,
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
