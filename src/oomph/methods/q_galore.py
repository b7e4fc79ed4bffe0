"""Q-GaLore's int8 weights, which train: a byte for each number, a scale and a zero for 256 of them.

Effect: the projections of attention and MLPs are codes that are made numbers for each use; their gradients are as wide
as before, kept beside them, and every update quantises anew, with stochastic rounding. Cost: nine sixteenths of a
16-bit weight, and one map's numbers at a time. Flag: --weight-quant. Source: github.com/VITA-Group/Q-GaLore,
run_pretrain.py; q_galore_torch/utils/quantization.py, QGaLoreLinear.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from oomph.blocks.base import Part, Parts, rewritten
from oomph.blocks.basic import Linear
from oomph.errors import UnsupportedError
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

GROUP = 256  # numbers that share a scale and a zero: weight_group_size, and proj_group_size of projections
QUANTISED = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"})
PROJECTED = ("attn", "mlp")  # words of the paths of maps whose gradients are projected


def with_int8_weights(model: Model, job: TrainJob) -> Model:
    """Return the model with int8 maps in the place of those that Q-GaLore quantises.

    Scales are in the dtype of the weight that was quantised: fp32 as the model is built, the job's after an update.
    Raises UnsupportedError where it has none, and for a map that is no whole number of groups or is not projected.
    """
    changed: list[str] = []

    def change(path: str, part: Part) -> Part:
        if type(part) is not Linear or path.rpartition(".")[2] not in QUANTISED:
            return part
        if not any(word in path for word in PROJECTED):
            raise UnsupportedError(f"{path} is no map of attention or an MLP by its name.", "Leave --weight-quant out.")
        if part.in_features * part.out_features % GROUP:
            size = f"{part.out_features} x {part.in_features}"
            why = f"Q-GaLore quantises {GROUP} numbers at a time, which {size} of {path} cannot be cut into."
            raise UnsupportedError(why, "Leave --weight-quant out.")
        changed.append(path)
        kept = job.weight_dtype if job.steady else "fp32"
        return LinearInt8(part.in_features, part.out_features, part.bias, part.role, scale_dtype=kept)

    parts = {path: rewritten(part, change, path) for path, part in model.parts.items()}
    if not changed:
        raise UnsupportedError("Q-GaLore finds no map to quantise in this model.", "Leave --weight-quant out.")
    return replace(model, parts=parts)


@dataclass(frozen=True)
class LinearInt8(Linear):
    """A linear map whose int8 weight trains."""

    scale_dtype: str = "bf16"

    @property
    def parts(self) -> Parts:
        """Codes, which train but want no gradient of autograd's, scales, zeros and, if any, bias."""
        of_group = (self.out_features * self.in_features // GROUP, 1)
        return {
            "weight": Tensor((self.out_features, self.in_features), self.role, "uint8"),
            "bias": Tensor((self.out_features,), "bias") if self.bias else None,
            **{name: Tensor(of_group, "buffer", self.scale_dtype, trains=False) for name in ("scales", "zeros")},
        }

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror QGaLoreLinear.forward."""
        from oomph.ops.int8_training import int8_linear

        return int8_linear(x, m.weight, m.parts["bias"])


def int8_maps(bound: Bound) -> Iterator[Bound]:
    """Yield all such maps below a block."""
    for part in bound.parts.values():
        if hasattr(part, "parts"):
            if isinstance(part.block, LinearInt8):
                yield part
            else:
                yield from int8_maps(part)
