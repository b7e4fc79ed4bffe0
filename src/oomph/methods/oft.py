"""OFT: the input of a frozen map is rotated, block by block, by orthogonal matrices made of what trains.

Effect: the entries above the diagonal of `block_size`-wide blocks train; a rotation is a short series of powers
(Cayley-Neumann, PEFT's default). Cost: each call casts the input to fp32, keeps that, and makes two rotated copies of
it, one of which is a product's and one in the input's layout; the frozen map stays as it is, quantised or not. PEFT
0.21 sets up a dropout of blocks and never calls it. Source: PEFT 0.21, tuners/oft/layer.py, Linear, OFTRotationModule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Part, Parts
from oomph.blocks.basic import Shared
from oomph.errors import UnsupportedError, UsageError
from oomph.methods.lora import adapter_dtype, features
from oomph.methods.quantised import PackedLinear
from oomph.methods.targets import inner, names_of, split, wrap_targets
from oomph.tape.sizes import Size, number, yes
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

BLOCK_SIZE = 32  # OFTConfig's oft_block_size
NARROWEST = 2  # a block of one number turns nothing


def adapt(model: Model, job: TrainJob) -> Model:
    """Return the model with OftLinear blocks in the place of the targeted maps, all else frozen."""

    def wrap(path: str, base: Part) -> Block:
        block = inner(base)
        if isinstance(block, PackedLinear) or getattr(block, "role", "linear") != "linear":
            why = "PEFT has none for GPT-2's maps, and oomph plays none on a GPTQ base"
            raise UnsupportedError(f"There is no OFT for {path}: {why}.", "Take --method lora.")
        wide, out = features(base)
        size = fitting(wide, job.block_size or BLOCK_SIZE)
        if size < NARROWEST:
            fix = "Say another --block-size, or leave the map out of the targets."
            raise UsageError(f"Of {number(wide)}, which {path} takes, PEFT would make blocks {size} wide.", fix)
        return OftLinear(base, wide, out, size, adapter_dtype(job))

    return wrap_targets(model, names_of(model, job), wrap, split(job.modules_to_save))


def fitting(wide: Size, wanted: int) -> int:
    """Return the divisor of a width that is nearest to a block size, the smaller of two that are as near; the width is
    part of what was played.

    >>> fitting(4096, 32), fitting(11008, 48), fitting(331, 32), fitting(16, 32)
    (32, 43, 1, 16)
    """
    width = number(wide)
    yes(wide == width)
    if wanted >= width:
        return width
    higher = next(size for size in range(wanted, width + 1) if width % size == 0)
    lower = next(size for size in range(wanted, 0, -1) if width % size == 0)
    return lower if wanted - lower <= higher - wanted else higher


BATCHED = 3  # axes of [B, S, H]


@dataclass(frozen=True, eq=False)
class OftLinear(Block):
    """A linear map whose input is rotated, the rotation's numbers in `dtype` (None: the job's)."""

    base: Part
    in_features: Size
    out_features: Size
    block_size: int
    dtype: str | None

    @property
    def parts(self) -> Parts:
        """The wrapped map and the rotation."""
        return {"base_layer": self.base, "oft_R": OftRotation(self.in_features, self.block_size, self.dtype)}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror oft.Linear.forward."""
        from oomph import ops

        if len(x.shape) != BATCHED:
            raise UnsupportedError(
                "oomph cannot play OFT on maps of a mixture that read tokens without their batch yet.",
                "Name other maps, as --targets q_proj,v_proj.",
            )
        previous_dtype = x.dtype
        x = ops.cast(x, m.oft_R.weight.dtype)
        x = m.oft_R(x)
        result: Sym = m.base_layer(ops.cast(x, previous_dtype))
        result = ops.cast(result, previous_dtype)
        return result

    @staticmethod
    def off(m: Bound, x: Sym) -> Sym:
        """Mirror oft.Linear.forward with adapters disabled."""
        from oomph import ops

        return ops.cast(m.base_layer(x), x.dtype)


@dataclass(frozen=True, eq=False)
class OftRotation(Block):
    """Blocks of a rotation: weight (blocks, size (size - 1) / 2), and where its numbers stand, rows and columns."""

    width: Size
    size: int
    dtype: str | None

    @property
    def parts(self) -> Parts:
        """What trains, and two buffers of int64."""
        above = self.size * (self.size - 1) // 2
        place = Shared((above,), "int64")
        return {"weight": Tensor((self.width // self.size, above), "param", self.dtype), "rows": place, "cols": place}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror OFTRotationModule.forward."""
        from oomph import ops

        required_dtype = x.dtype
        orth_rotate = cayley_batch(m.weight, m.size)
        folded_shape = x.shape
        x_reshaped = ops.view(x, (*x.shape[:-1], m.width // m.size, m.size))
        x_rotated_reshaped = ops.rotate_blocks(x_reshaped, orth_rotate)
        x_rotated = ops.view(x_rotated_reshaped, folded_shape)
        return ops.cast(x_rotated, required_dtype)


def cayley_batch(q: Sym, size: int) -> Sym:
    """Mirror OFTRotationModule._cayley_batch with five terms: (1 + Q)(1 - Q)⁻¹ as a series of powers of Q."""
    from oomph import ops

    q_skew = _skew_symmetric(q, size)
    r = ops.identity(q, size, q.shape[0])
    r = ops.add_scaled_(r, q_skew)
    q_squared = ops.bmm(q_skew, q_skew)
    r = ops.add_scaled_(r, q_squared)
    q_power = q_squared
    q_power = ops.bmm(q_power, q_skew)
    r = ops.add_scaled_(r, q_power)
    q_power = ops.bmm(q_power, q_skew)
    r = ops.add_(r, q_power)
    return r


def _skew_symmetric(vec: Sym, size: int) -> Sym:
    from oomph import ops

    matrix = ops.put(vec, (vec.shape[0], size, size))
    matrix = matrix - ops.transpose(matrix, 1, 2)
    return matrix
