"""Freeze tuning: the last layers train as they are, all else is frozen; LLaMA-Factory's `finetuning_type: freeze`.

Effect: gradients, states and fp32 weights of `active_layers` layers instead of all, and nothing kept of the layers
below them, through which no gradient goes. Cost: what trains is cast to fp32 unless adapter_dtype is base, beside what
stays in 16 bit. Layers in which nothing trains are not checkpointed. Source: LLaMA-Factory 0.9.5, model/adapter.py
(_setup_freeze_tuning), model/model_utils/checkpointing.py (get_custom_gradient_checkpointing_func).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from oomph.blocks.base import Stack
from oomph.errors import UsageError
from oomph.methods.lora import adapter_dtype
from oomph.methods.saved import frozen
from oomph.methods.targets import typed
from oomph.structure import decoder_stack

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model


def adapt(model: Model, job: TrainJob) -> Model:
    """Return the model of whose layers the last `active_layers` alone train."""
    if job.quantization != "none" or job.modules_to_save:
        fix = "Leave --quantization and --modules-to-save out."
        raise UsageError("Freeze tuning trains whole layers as they are.", fix)
    path, stack = decoder_stack(model)
    if job.active_layers > len(stack.layers):
        fix = f"Say --active-layers {len(stack.layers)} or fewer."
        raise UsageError(f"The model has no {job.active_layers} layers.", fix)
    below = len(stack.layers) - job.active_layers
    changed = frozen(model)
    rest = changed.parts[path]
    assert isinstance(rest, Stack)
    made = {id(layer): typed(layer, dtype=adapter_dtype(job)) for layer in stack.layers[below:]}  # one for equal ones
    layers = (*rest.layers[:below], *(made[id(layer)] for layer in stack.layers[below:]))
    return replace(changed, parts={**changed.parts, path: replace(rest, layers=layers)})  # type: ignore[arg-type]
