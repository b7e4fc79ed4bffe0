"""Q-GaLore's own optimizer and int8 maps, set up as its run_pretrain.py does.

Source: q-galore-torch 1.0; the maps are in q_galore_torch/utils of github.com/VITA-Group/Q-GaLore, not in the wheel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

from oomph.errors import UnsupportedError
from oomph.referee.optimizer_shapes import InBackward

if TYPE_CHECKING:
    from oomph.job import TrainJob

LEARNING_RATE, SCALE = 1e-4, 0.25  # no byte depends on them
EVERY_STEP, SELDOM = 1, 200  # steps from one projection to the next
# What run_pretrain.py says of projections unless told otherwise.
PROJECTED: dict[str, Any] = {
    "scale": SCALE, "proj_type": "std", "quant": True, "quant_n_bit": 4, "quant_group_size": 256, "cos_threshold": 0.4,
    "gamma_proj": 2, "queue_size": 5,
}  # fmt: skip


INT8 = "q_galore_torch.utils.quantization"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"]


def with_int8_weights(model: Any, dtype: Any) -> Any:
    """Return a model whose projections are Q-GaLore's int8 maps, all other parameters in a dtype; scales keep the one
    that weights had. run_pretrain.py casts buffers too: the table of rotary frequencies, which is left alone here.
    """
    try:
        maps: Any = import_module(INT8)
    except ImportError:
        fix = "Put github.com/VITA-Group/Q-GaLore on PYTHONPATH: its wheel lacks them."
        raise UnsupportedError("int8 weights that train need Q-GaLore's maps.", fix) from None
    asked = SimpleNamespace(weight_bits=8, weight_group_size=256, stochastic_round=True)
    with patch.object(torch.Tensor, "__bool__", lambda tensor: True):
        model = maps.prepare_model_for_int8_training(model, asked, TARGETS)
    for one in model.parameters():
        if one.is_floating_point():
            one.data = one.data.to(dtype)
    return model


def optimizer(job: TrainJob, model: Any) -> Any:
    """Return its optimizer, what is not projected in the first group; layer by layer one for each int8 weight."""
    base: Any = import_module("bitsandbytes.optim.optimizer").Optimizer2State
    if "percentile_clipping" not in signature(base.__init__).parameters:
        fix = "Do: pip install 'bitsandbytes<0.50'"
        raise UnsupportedError("q-galore-torch 1.0 asks bitsandbytes for what 0.50 has no more.", fix)
    kernel: Any = import_module("bitsandbytes.functional").optimizer_update_8bit_blockwise
    if "beta3" in signature(kernel).parameters:  # not under a trace, which calls no kernel
        fix = "Do: pip install 'bitsandbytes<0.44', or trace it: oomph trace"
        raise UnsupportedError("q-galore-torch 1.0 calls kernels as bitsandbytes had them before 0.44.", fix)
    made: Any = import_module("q_galore_torch").QGaLoreAdamW8bit
    own = _projected(model)
    projection = {
        "rank": job.optim_rank,
        "update_proj_gap": EVERY_STEP if job.update_projection else SELDOM,
        **PROJECTED,
    }
    if job.optimizer_in_backward:
        each = {one: made([{"params": [one], **projection}], lr=LEARNING_RATE) for one in own}
        for one in own:
            one.backward_hook = _updating(each)
        return InBackward(each)
    ids = {id(one) for one in own}
    others = [one for one in model.parameters() if id(one) not in ids]
    groups = [{"params": others}, {"params": own, **projection}]
    return made([group for group in groups if group["params"]], lr=LEARNING_RATE)


def _projected(model: Any) -> list[Any]:
    """Return the weights whose gradients are projected, as run_pretrain.py finds them."""
    maps: list[Any] = [torch.nn.Linear]
    if find_spec("q_galore_torch.utils") is not None:
        maps.append(import_module(INT8).QGaLoreLinear)
    found: list[tuple[str, Any]] = [each for each in model.named_modules() if isinstance(each[1], tuple(maps))]
    return [each.weight for name, each in found if "attn" in name or "mlp" in name]


def _updating(own: dict[Any, Any]) -> Callable[[Any], None]:
    def update(parameter: Any) -> None:
        own[parameter].step()
        own[parameter].zero_grad()

    return update


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
