"""VeRA: LoRA whose A and B are drawn once for all maps and frozen; two vectors for each map train.

Effect: one number for each rank and one for each output train. Cost: A and B, as wide as the widest target, once; each
adapter keeps no input, but two tensors for its vectors' gradients, x Aᵀ (as wide as the rank) and one as wide as the
output. Ranks are larger than LoRA's: PEFT's own is 256. Source: PEFT 0.21, tuners/vera/layer.py, Linear.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Part, Parts
from oomph.blocks.basic import Dropout, Head, Shared
from oomph.errors import UnsupportedError
from oomph.methods.bitsandbytes import Linear4bit
from oomph.methods.lora import adapter_dtype, features
from oomph.methods.quantised import PackedLinear
from oomph.methods.targets import inner, names_of, split, wrap_targets
from oomph.tape.sizes import yes
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

A, B = "vera_A", "vera_B"


def adapt(model: Model, job: TrainJob) -> Model:
    """Return the model with VeraLinear blocks in the place of the targeted maps, and the matrices that they share."""
    rate = job.adapter_dropout if job.dropout else 0.0
    widest = [0, 0]

    def wrap(path: str, base: Part) -> Block:
        if isinstance(inner(base), PackedLinear):
            raise UnsupportedError("oomph plays no VeRA on a GPTQ base.", "Take --method lora, or an nf4 base.")
        if isinstance(inner(base), Head):
            raise UnsupportedError("oomph plays no VeRA on a language head.", "Leave it out of the targets.")
        sizes = features(base)
        widest[:] = [one if yes(one > most) else most for one, most in zip(sizes, widest, strict=True)]
        return VeraLinear(base, *sizes, job.rank, rate, adapter_dtype(job), isinstance(inner(base), Linear4bit))

    changed = wrap_targets(model, names_of(model, job), wrap, split(job.modules_to_save))
    dtype = adapter_dtype(job) or job.weight_dtype
    shared = {A: Shared((job.rank, widest[0]), dtype), B: Shared((widest[1], job.rank), dtype)}
    return replace(changed, parts={**changed.parts, **shared})


@dataclass(frozen=True, eq=False)
class VeraLinear(Block):
    """A linear map with two vectors, [rank] and [out], in `dtype` (None: the job's)."""

    base: Part
    in_features: int
    out_features: int
    rank: int
    rate: float
    dtype: str | None
    clones: bool = False  # what a 4-bit map returns

    @property
    def parts(self) -> Parts:
        """The wrapped map, the dropout and the two vectors."""
        return {
            "base_layer": self.base,
            "vera_dropout": Dropout(self.rate),
            "vera_lambda_b": Tensor((self.out_features,), "param", self.dtype),
            "vera_lambda_d": Tensor((self.rank,), "param", self.dtype),
        }

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror vera.Linear.forward."""
        from oomph import ops

        previous_dtype = x.dtype
        result: Sym = m.base_layer(x)
        orig_dtype = result.dtype
        if m.clones:
            result = ops.clone(result)
        sliced_a = ops.slice_axis(m.tape.shared[A], 1, 0, m.in_features)
        sliced_b = ops.slice_axis(m.tape.shared[B], 0, 0, m.out_features)
        x = ops.cast(x, m.vera_lambda_d.dtype)
        result = result + m.vera_lambda_b * held_linear(
            m.vera_lambda_d * held_linear(m.vera_dropout(x), sliced_a), sliced_b
        )
        result = ops.cast(result, orig_dtype)
        result = ops.cast(result, previous_dtype)
        return result

    @staticmethod
    def off(m: Bound, x: Sym) -> Sym:
        """Mirror the same with adapters disabled."""
        from oomph import ops

        return ops.cast(m.base_layer(x), x.dtype)


def held_linear(x: Sym, weight: Sym) -> Sym:
    """Return F.linear, whose arguments live until it returns: x beside its cast under autocast."""
    from oomph import ops

    out = ops.linear(x, weight)
    del x
    return out
