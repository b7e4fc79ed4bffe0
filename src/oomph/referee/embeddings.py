"""sentence-transformers' own code in a trace: its modules, its losses, its trainer's loss without a Trainer."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch

from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.objectives.embed import TOKEN_TYPED, lengths, pooling_of
from oomph.referee.inputs import text_inputs
from oomph.referee.losses import unwrapped

INSTALL = 'pip install "sentence-transformers>=6.2"'
WRITTEN = "token_embeddings"  # what the first module makes for those that follow
LOSSES = {
    "contrastive": "MultipleNegativesRankingLoss",
    "contrastive-cached": "CachedMultipleNegativesRankingLoss",
}
Wrapped = Callable[[Callable[..., Any]], Callable[..., Any]]


def imported(name: str) -> Any:
    """Return a module of sentence-transformers; refused where there is none."""
    if not find_spec("sentence_transformers"):
        raise UnsupportedError("A trace of this objective needs sentence-transformers.", f"Do: {INSTALL}")
    return import_module(f"sentence_transformers.{name}")


def trainer(job: TrainJob, model: Any, wrapped: Wrapped) -> Any:
    """Return a SentenceTransformerTrainer with what its compute_loss reads, around a model of transformers.

    `wrapped` does to the forward of the whole model what accelerate does.
    """
    embedding_model = _embedding_model(job, model)
    embedding_model.forward = wrapped(embedding_model.forward)
    kind = getattr(imported("sentence_transformer.losses"), LOSSES[job.objective])
    options = {"mini_batch_size": job.mini_batch_size} if job.objective == "contrastive-cached" else {}
    made = object.__new__(imported("sentence_transformer.trainer").SentenceTransformerTrainer)
    vars(made).update(loss=kind(embedding_model, **options), model=embedding_model, model_wrapped=embedding_model)
    compute_loss = made.compute_loss
    made.compute_loss = lambda model, inputs: compute_loss(embedding_model, inputs)
    return made


def _embedding_model(job: TrainJob, model: Any) -> Any:
    """Return a SentenceTransformer of a model, without a tokenizer."""
    modules = {"0": _transformer(model), "1": _pooling(job, model)}
    if job.normalize:
        modules["2"] = imported("sentence_transformer.modules").Normalize()
    made = object.__new__(imported("sentence_transformer.model").SentenceTransformer)
    torch.nn.Sequential.__init__(made, OrderedDict(modules))
    made.module_kwargs = None
    return made


def _transformer(model: Any) -> Any:
    """Return the module Transformer around a model, with what its forward reads."""
    where = imported("base.modules.transformer")
    made = object.__new__(where.Transformer)
    torch.nn.Module.__init__(made)
    inner = unwrapped(model)
    known = inspect.signature(inner.forward).parameters
    named = set(known) | {"input_ids", "attention_mask", "token_type_ids"}
    takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values())
    made.model = inner
    made.modality_config = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    made.module_output_name = WRITTEN
    made.transformer_task = "feature-extraction"
    made._declared_forward_params = set(known)
    made.model_forward_params = named
    if hasattr(made, "_configure_use_cache"):  # since release 6
        made.model_forward_params = None if takes_all else named
        made._configure_use_cache(inner.config, {})
    return made


def _pooling(job: TrainJob, model: Any) -> Any:
    config = unwrapped(model).config
    mode = pooling_of(config.model_type, job)
    return imported("sentence_transformer.modules.pooling").Pooling(config.hidden_size, mode)


def inputs(job: TrainJob, model: Any) -> dict[str, Any]:
    """Return a batch as the collator makes it, column by column, with what a tokenizer of the type makes."""
    made: dict[str, Any] = {}
    typed = unwrapped(model).config.model_type in TOKEN_TYPED
    for column, length in enumerate(lengths(job)):
        found = text_inputs(model, job.batch, length, 0)
        if typed:
            found["token_type_ids"] = torch.zeros_like(found["input_ids"])
        found["attention_mask"] = torch.ones_like(found["input_ids"])
        if job.padding:
            found["attention_mask"][:, :1].zero_()
        made |= {f"{column}_{name}": each for name, each in found.items()}
        made[f"{column}_modality"] = "text"
    return made


@contextmanager
def of_full_length() -> Iterator[None]:
    """Let mini-batches be as long as their batch: no column of them is all padding."""
    where = imported("base.losses.gradcache")

    def sliced(feature: dict[str, Any], begin: int, end: int) -> dict[str, Any]:
        return {name: each[begin:end] if isinstance(each, torch.Tensor) else each for name, each in feature.items()}

    with patch.object(where, "_create_minibatch", sliced):
        yield
