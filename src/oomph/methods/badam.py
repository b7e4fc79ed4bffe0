"""BAdam: one layer trains at a time, with an optimizer that keeps fp32 copies and states of that layer alone.

Effect: weights, gradients and states of a layer instead of the model's; embeddings and head are frozen. Cost: which
layer it is changes every some hundred steps; the first is played, as gradients then go through all layers and all of
them keep what that needs. States are thrown away with each change. Source: badam 1.4, block_optim.py, BlockOptimizer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from oomph.blocks.base import Part, Stack
from oomph.errors import UsageError
from oomph.methods.saved import frozen
from oomph.structure import decoder_stack

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model


def adapt(model: Model, job: TrainJob) -> Model:
    """Return the model of which the first layer alone trains."""
    if job.quantization != "none" or job.modules_to_save:
        raise UsageError("BAdam trains whole layers as they are.", "Leave --quantization and --modules-to-save out.")
    path, stack = decoder_stack(model)
    changed = frozen(model)
    rest = changed.parts[path]
    assert isinstance(rest, Stack)
    layers = (stack.layers[0], *rest.layers[1:])
    parts: dict[str, Part] = {**changed.parts, path: replace(rest, layers=layers)}
    return replace(changed, parts=parts)
