"""Fine-tuning methods: functions from a Model to a Model that exchange blocks as PEFT exchanges modules.

A method is one file with `adapt(model, job)`: it puts its own blocks in the place of those it targets, and marks what
does not train. Nothing else knows of methods: the tape plays the blocks it finds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from oomph.blocks.base import Block, Part
from oomph.errors import UsageError
from oomph.job import InferJob, TrainJob
from oomph.job_words import AROUND
from oomph.structure import decoder_stack

if TYPE_CHECKING:
    from oomph.model import Model

# The file of each method; full has none.
METHODS: dict[str, str] = {
    "lora": "lora",
    "qlora": "lora",
    "dora": "dora",
    "lora-fa": "lora",
    "vera": "vera",
    "loha": "loha",
    "lokr": "lokr",
    "adalora": "adalora",
    "oft": "oft",
    "boft": "boft",
    "ia3": "ia3",
    "bitfit": "saved",
    "badam": "badam",
    "freeze": "freeze",
    "lisa": "lisa",
    "prompt-tuning": "prompts",
    "p-tuning": "prompts",
    "prefix-tuning": "prefix",
    "ln-tuning": "saved",
}
LITGPT_LAYERS = "transformer.h"
OF_LITGPT = ("adapter", "adapter_v2")  # which PEFT does otherwise


def adapted(model: Model, job: TrainJob | InferJob) -> Model:
    """Return the model that a job trains: its method's blocks in place, its dtypes and what is frozen written down."""
    if not isinstance(job, TrainJob):
        return _served(model, job)
    if job.model_code != "transformers":
        from oomph.methods.litgpt import adapt

        return adapt(model, job)
    if job.method in OF_LITGPT:
        raise UsageError(f"{job.method} is a method of LitGPT.", "Say --framework litgpt.")
    model = as_coded(model, job)
    if job.kernels != "torch":
        from oomph.kernels import with_kernels

        model = with_kernels(model, job.kernels, job.kernel_parts)
    if job.qat != "none":
        from oomph.methods.qat import with_fake_quantisers

        model = with_fake_quantisers(model)
    if job.weight_quant:
        from oomph.methods.q_galore import with_int8_weights

        model = with_int8_weights(model, job)
    if job.wide_tables:
        from oomph.methods.wide_tables import with_wide_tables

        model = with_wide_tables(model)
    if job.method == "full":
        return _with_frozen_parts(model, job)
    if job.kbit_preparation:
        from oomph.methods.bitsandbytes import prepared

        model = prepared(model, job)
    if job.quantization != "none":
        from oomph.methods.quantised import quantised

        model = quantised(model, job)
    changed = _with_adapters(model, job)
    if job.kernels != "torch":
        from oomph.kernels import with_fused_adapters

        changed = with_fused_adapters(changed, job)
    if job.modules_to_save:
        from oomph.methods.saved import with_copies
        from oomph.methods.targets import split

        changed = with_copies(changed, split(job.modules_to_save), model)
    return changed


def _served(model: Model, job: InferJob) -> Model:
    """Return the model that a job without gradients runs: its experts as the version builds them, what is quantised."""
    model = as_coded(model, job)
    if job.quantization == "none":
        return model
    from oomph.methods.quantised import base_of, quantised

    return quantised(model, base_of(job))


def _with_adapters(model: Model, job: TrainJob) -> Model:
    """Return the model as its method changes it; a frozen tower is left as it is."""
    from oomph.methods.targets import freeze

    adapt = import_module(f"oomph.methods.{METHODS[job.method]}").adapt
    left = {path: freeze(part) for path, part in model.parts.items() if job.freeze_vision and is_vision(part)}
    others = {path: part for path, part in model.parts.items() if path not in left}
    changed: Model = adapt(replace(model, parts=others), job)
    return replace(changed, parts={**dict.fromkeys(model.parts), **changed.parts, **left})


def is_vision(part: Part) -> bool:
    """Tell whether a part is a tower or what stands between a tower and the language model."""
    return isinstance(part, Block) and part.kind in ("vision", "audio", "projector")


def as_coded(model: Model, job: TrainJob | InferJob) -> Model:
    """Return a model as the version of transformers builds it that a job means."""
    if job.experts != "modules":
        return model
    from oomph.methods.expert_modules import with_expert_modules

    return with_expert_modules(model)


def forward_of(causal_lm: Callable[..., Any], model: Model, job: TrainJob) -> Callable[..., Any]:
    """Return the forward pass of the model that a job trains, given its class's own."""
    if job.method not in AROUND:
        return causal_lm
    file: Any = import_module(f"oomph.methods.{METHODS[job.method]}")
    forward: Callable[..., Any] = file.forward_around(causal_lm, model)
    return forward


def layers_path(model: Model, job: TrainJob | InferJob) -> str:
    """Return where the decoder layers stand in the model that a job trains."""
    own = isinstance(job, TrainJob) and job.model_code != "transformers"
    return LITGPT_LAYERS if own else decoder_stack(model)[0]


def _with_frozen_parts(model: Model, job: TrainJob) -> Model:
    if not job.freeze_embeddings and not job.freeze_layers and not job.freeze_vision:
        return model
    from oomph.methods.saved import freeze_parts

    return freeze_parts(model, job)


def trainable_params(model: Model, job: TrainJob) -> int:
    """Return how many parameters train, adapters included (PEFT's print_trainable_parameters)."""
    weights = adapted(model, job).weights
    return sum(one.numel for one in weights if one.is_param and one.kind != "mtp" and one.tensor.trains)
