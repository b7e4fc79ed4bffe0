"""Q-GaLore's own optimizer and int8 maps, set up as its run_pretrain.py does.

Source: q-galore-torch 1.0; the maps are in q_galore_torch/utils of github.com/VITA-Group/Q-GaLore, not in the wheel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

from oomph.errors import UnsupportedError

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.optimizer_names import Kind

LEARNING_RATE, SCALE = 1e-4, 0.25  # no byte depends on them
EVERY_STEP, SELDOM = 1, 200  # steps from one projection to the next
# What run_pretrain.py says of projections unless told otherwise.
PROJECTED: dict[str, Any] = {
    "scale": SCALE, "proj_type": "std", "quant": True, "quant_n_bit": 4, "quant_group_size": 256, "cos_threshold": 0.4,
    "gamma_proj": 2, "queue_size": 5,
}  # fmt: skip


def optimizer(kind: Kind, job: TrainJob, parameters: list[Any], targets: list[Any]) -> Any:
    """Return its optimizer: what is not projected in the first group."""
    base: Any = import_module("bitsandbytes.optim.optimizer").Optimizer2State
    if "percentile_clipping" not in signature(base.__init__).parameters:
        fix = "Do: pip install 'bitsandbytes<0.50'"
        raise UnsupportedError("q-galore-torch 1.0 asks bitsandbytes for what 0.50 has no more.", fix)
    projected = {id(one) for one in targets}
    others = [one for one in parameters if id(one) not in projected]
    own = [one for one in parameters if id(one) in projected]
    gap = EVERY_STEP if job.update_projection else SELDOM
    groups = [{"params": others}, {"params": own, "rank": job.optim_rank, "update_proj_gap": gap, **PROJECTED}]
    made: Any = import_module("q_galore_torch").QGaLoreAdamW8bit
    return made([group for group in groups if group["params"]], lr=LEARNING_RATE)


def as_on_cuda() -> Iterator[Any]:
    """Yield patches: singular vectors as cuSOLVER lays them out, and yes to the question whether no number is NaN."""
    made: Any = import_module("q_galore_torch").QGaLoreAdamW8bit
    yield patch.object(torch.linalg, "svd", _as_cusolver(torch.linalg.svd))
    yield patch.object(made, "step", _without_nan(made.step))


def _without_nan(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step whose asserts are told that no scale and no weight is NaN."""

    def wrapped(self: Any) -> None:
        with patch.object(torch.Tensor, "__bool__", lambda tensor: True):
            step(self)

    return wrapped


def _as_cusolver(real: Callable[..., Any]) -> Callable[..., Any]:
    """Return svd whose rows of right singular vectors lie one behind the other.

    Source: ATen/native/BatchLinearAlgebra.cpp, TORCH_META_FUNC(_linalg_svd).
    """

    def svd(matrix: Any, full_matrices: bool = True) -> Any:
        u, s, vh = real(matrix, full_matrices=full_matrices)
        return u, s, vh.as_strided(vh.shape, (vh.shape[1], 1))

    return svd
