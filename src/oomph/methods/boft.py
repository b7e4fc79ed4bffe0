"""BOFT: the input of a frozen map is multiplied by a rotation as large as its width squared, made of small blocks.

Effect: blocks of `block_size` and a scale for each output train. Cost: each call makes the whole rotation, and keeps
three square matrices as wide as the input (an identity, a permutation, the rotation itself) beside the input; a
permutation in fp32 lies there for each map. One butterfly factor, PEFT's default and all that there is without its own
CUDA extension. What cuSOLVER takes beside its results is not modelled. Source: PEFT 0.21, tuners/boft/layer.py, Linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Part, Parts
from oomph.blocks.basic import Linear, Shared
from oomph.errors import UnsupportedError, UsageError
from oomph.methods.lora import adapter_dtype, features
from oomph.methods.targets import inner, names_of, split, wrap_targets
from oomph.tape.sizes import Size, number, yes
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

BLOCK_SIZE = 4  # BOFTConfig's boft_block_size


def adapt(model: Model, job: TrainJob) -> Model:
    """Return the model with BoftLinear blocks in the place of the targeted maps, all else frozen."""
    size = job.block_size or BLOCK_SIZE
    if job.adapter_dropout:
        raise UnsupportedError("oomph plays no dropout of BOFT's blocks.", "Say --adapter-dropout 0.")
    if job.weight_dtype != "fp32" and adapter_dtype(job) != "fp32":
        raise UsageError("BOFT solves equations, which CUDA does in fp32 alone.", "Leave --adapter-dtype out.")

    def wrap(path: str, base: Part) -> Block:
        block = inner(base)
        if type(block) is not Linear or block.role != "linear":
            raise UnsupportedError(f"oomph plays BOFT on plain linear maps only, which {path} is not.", "Take lora.")
        wide, out = features(base)
        if not yes(wide % size == 0):
            fix = "Say another --block-size, or leave the map out of the targets."
            raise UsageError(f"PEFT makes no blocks of {size} of {number(wide)}, which {path} takes.", fix)
        return BoftLinear(base, wide, out, size, adapter_dtype(job))

    return wrap_targets(model, names_of(model, job), wrap, split(job.modules_to_save))


@dataclass(frozen=True, eq=False)
class BoftLinear(Block):
    """A linear map with blocks (1, blocks, size, size) and scales (out, 1) in `dtype` (None: the job's), and a
    permutation (1, in, in) in fp32.
    """

    base: Part
    in_features: Size
    out_features: Size
    block_size: int
    dtype: str | None

    @property
    def parts(self) -> Parts:
        """The wrapped map, what trains, and a buffer."""
        blocks = (1, self.in_features // self.block_size, self.block_size, self.block_size)
        return {
            "base_layer": self.base,
            "boft_R": Tensor(blocks, "param", self.dtype),
            "boft_s": Tensor((self.out_features, 1), "param", self.dtype),
            "boft_P": Shared((1, self.in_features, self.in_features), "fp32"),
        }

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror boft.Linear.forward."""
        from oomph import ops

        width, size, tape = m.in_features, m.block_size, m.tape
        previous_dtype = x.dtype
        result: Sym | None = None
        boft_rotation = tape.empty((width, width), previous_dtype, op="eye")
        boft_scale = tape.empty((m.out_features, 1), previous_dtype, op="ones")
        boft_r = ops.view(m.boft_R, (width // size, size, size))
        orth_rotate_butterfly = _cayley_batch(boft_r)
        block_diagonal_butterfly = ops.unsqueeze(ops.block_diagonal(orth_rotate_butterfly), 0)
        boft_p = ops.cast(m.boft_P, previous_dtype)
        block_diagonal_butterfly = ops.cast(block_diagonal_butterfly, previous_dtype)
        butterfly_oft_mat_batch = ops.bmm_cast(block_diagonal_butterfly, ops.transpose(boft_p, 1, 2))
        butterfly_oft_mat_batch = ops.bmm_cast(boft_p, butterfly_oft_mat_batch)
        butterfly_oft_mat = ops.select(butterfly_oft_mat_batch, 0)
        boft_rotation = ops.times(butterfly_oft_mat, boft_rotation)
        boft_scale = m.boft_s * boft_scale
        boft_rotation = ops.cast(boft_rotation, previous_dtype)
        x_rotated = ops.times_rows(x, boft_rotation)
        result = m.base_layer(x_rotated)
        bias = m.base_layer.parts["bias"]
        if bias is not None:
            result = result - bias
        result = result * ops.view(boft_scale, (m.out_features,))
        if bias is not None:
            result = result + bias
        result = ops.cast(result, previous_dtype)
        return result

    @staticmethod
    def off(m: Bound, x: Sym) -> Sym:
        """Mirror the same with adapters disabled."""
        from oomph import ops

        return ops.cast(m.base_layer(x), x.dtype)


def _cayley_batch(data: Sym) -> Sym:
    """Mirror BOFTLayer.cayley_batch: (1 - S)(1 + S)⁻¹ of the skew-symmetric half S of each block."""
    from oomph import ops

    skew_mat = (data - ops.transpose(data, 1, 2)) * 0.5
    id_mat = data.tape.empty(data.shape[1:], "fp32", op="eye")
    q = ops.solve(id_mat + skew_mat, id_mat - skew_mat)
    return q
