"""LISA: embeddings, last norm and head train always, of the layers a few at a time, drawn anew every some steps.

Effect: gradients, and inputs kept for them, of `active_layers` layers instead of all. Cost: nothing is taken from the
optimizer when layers switch, so states of every layer that ever trained stay: in the end as many as of full
fine-tuning. A first step has those of the layers that train; a later one those of all, as after every layer had its
turn. The first layers are played; embeddings train, so whichever train, gradients go through all of them. Source:
LMFlow, pipeline/utils/lisa_trainer.py, DynamicLayerActivationCallback; ms-swift has the same callback.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from oomph.blocks.base import Stack
from oomph.errors import UsageError
from oomph.methods.saved import frozen
from oomph.structure import decoder_stack

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


def adapt(model: Model, job: TrainJob) -> Model:
    """Return the model of whose layers the first `active_layers` alone train, and all that is no layer."""
    if job.quantization != "none" or job.modules_to_save:
        raise UsageError("LISA trains whole layers as they are.", "Leave --quantization and --modules-to-save out.")
    path, stack = decoder_stack(model)
    if job.active_layers > len(stack.layers):
        fix = f"Say --active-layers {len(stack.layers)} or fewer."
        raise UsageError(f"The model has no {job.active_layers} layers.", fix)
    others = frozen(model).parts[path]
    assert isinstance(others, Stack)
    layers = (*stack.layers[: job.active_layers], *others.layers[job.active_layers :])
    return replace(model, parts={**model.parts, path: replace(others, layers=layers)})


def switched_off(bound: Bound, model: Model) -> list[Sym]:
    """Return the parameters of layers that do not train now; a tower that is frozen never did."""
    path, _ = decoder_stack(model)
    return [one for one in bound.parameters() if not one.requires_grad and one.made_for.startswith(f"{path}.")]
