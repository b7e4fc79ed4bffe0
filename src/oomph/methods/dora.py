"""DoRA: LoRA whose direction is divided by the norm of base and adapter together, times a magnitude that trains.

Effect: as LoRA, with one number more for each output. Cost: every call builds the adapter's product as a matrix from an
identity as wide as the input, adds the whole weight to it and takes the norms of the rows; these matrices come and go
map by map, but with dropout the base map is computed a second time, from a cast copy of its weight that is kept for the
backward pass. Source: PEFT 0.21, tuners/lora/dora.py, DoraLinearLayer; tuners/lora/variants.py, DoraLinearVariant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oomph.blocks.base import Block, Part, Parts
from oomph.blocks.basic import Linear
from oomph.errors import UnsupportedError, UsageError
from oomph.methods.bitsandbytes import Linear4bit, Linear8bit
from oomph.methods.lora import SCALING, LoraLinear, adapter_dtype, features
from oomph.methods.parameters import Targets, translated
from oomph.methods.quantised import PackedLinear
from oomph.methods.ranks import check_names, rank_at
from oomph.methods.targets import check_mixers, inner, names_of, split, wrap_targets
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


def adapt(model: Model, job: TrainJob) -> Model:
    """Return the model with DoraLinear blocks in the place of the targeted maps, all else frozen."""
    rate = job.adapter_dropout if job.dropout else 0.0

    def wrap(path: str, base: Part) -> Block:
        if isinstance(inner(base), (PackedLinear, Linear8bit)):
            raise UnsupportedError("oomph plays no DoRA on this base.", "Take --method lora, or an nf4 base.")
        kind = DoraLinear4bit if isinstance(inner(base), Linear4bit) else DoraLinear
        return kind(base, *features(base), rank_at(path, job), rate, adapter_dtype(job))

    check_names(model, job)
    names = names_of(model, job)
    check_mixers(model, names)
    targets = Targets(names) if job.experts == "modules" else translated(model, names)
    if targets.parameters:
        raise UsageError(
            "PEFT's adapters on stacked experts do not work with DoRA.",
            "Name other maps, as --targets q_proj,v_proj; or take --method lora.",
        )
    return wrap_targets(model, targets.maps, wrap, split(job.modules_to_save))


@dataclass(frozen=True, eq=False)
class DoraLinear(LoraLinear):
    """A linear map with an adapter and a magnitude (out) in the adapter's dtype."""

    @property
    def parts(self) -> Parts:
        """What LoRA has, and the magnitude."""
        return {**super().parts, "lora_magnitude_vector": Tensor((self.out_features,), "param", self.dtype)}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror lora.Linear.forward with DoRA."""
        from oomph import ops

        result: Sym = m.base_layer(x)
        torch_result_dtype = result.dtype
        x = ops.cast(x, m.lora_A.weight.dtype)
        result = variant(m, x, result)
        result = ops.cast(result, torch_result_dtype)
        return result


@dataclass(frozen=True, eq=False)
class DoraLinear4bit(DoraLinear):
    """The same beside a 4-bit map, whose output is copied; under autocast the input is not cast beforehand."""

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror lora.bnb.Linear4bit.forward with DoRA."""
        from oomph import ops

        result: Sym = m.base_layer(x)
        result = ops.clone(result)
        if requires_conversion := m.tape.autocast is None:
            expected_dtype = result.dtype
            x = ops.cast(x, m.lora_A.weight.dtype)
        result = variant(m, x, result)
        if requires_conversion:
            result = ops.cast(result, expected_dtype)
        return result


def variant(m: Bound, x: Sym, result: Sym) -> Sym:
    """Mirror DoraLinearVariant.forward: with dropout, what the base made of the undropped input is of no use."""
    if m.rate and m.tape.dropout:
        x = m.lora_dropout(x)
        base_result = None
    else:
        base_result = result
    result = result + forward(m, x, base_result)
    return result


def forward(m: Bound, x: Sym, base_result: Sym | None) -> Sym:
    """Mirror DoraLinearLayer.forward."""
    from oomph import ops

    lora_weight = get_lora_weight(m)
    lora_weight = ops.cast(lora_weight, x.dtype)
    magnitude = m.lora_magnitude_vector
    weight = dequantised(m.base_layer)
    weight = ops.cast(weight, x.dtype)
    weight_norm = get_weight_norm(m, weight, lora_weight.detach())
    mag_norm_scale = ops.view(ops.divided(magnitude, weight_norm), (1, m.out_features))
    lora_result = m.lora_B(m.lora_A(x))
    if base_result is None:
        base_result = ops.linear(x, turned(m, weight))
    elif m.base_layer.parts["bias"] is not None:
        base_result = base_result - m.base_layer.parts["bias"]
    result_dora: Sym = (mag_norm_scale + -1.0) * base_result + mag_norm_scale * lora_result * SCALING
    return result_dora


def get_lora_weight(m: Bound) -> Sym:
    """Mirror DoraLinearLayer.get_lora_weight: the product of A and B, of an identity in A's dtype."""
    from oomph import ops

    x_eye = m.tape.empty((m.in_features, m.in_features), m.lora_A.weight.dtype, op="eye")
    lora_weight = ops.transpose(m.lora_B(m.lora_A(x_eye)), 0, 1)
    return lora_weight


def get_weight_norm(m: Bound, weight: Sym, lora_weight: Sym) -> Sym:
    """Mirror DoraLinearLayer.get_weight_norm."""
    from oomph import ops

    weight = turned(m, weight)
    weight = weight + lora_weight * SCALING
    weight_norm = ops.cast(ops.row_norms(weight), weight.dtype)
    return weight_norm


def turned(m: Bound, weight: Sym) -> Sym:
    """Return a weight as [out, in]: GPT-2's lies the other way."""
    from oomph import ops

    base = m.base_layer.block
    turns = isinstance(base, Linear) and not isinstance(base, Linear4bit)  # whose codes lie as nn.Linear's
    return ops.transpose(weight, 0, 1) if turns and base.role == "conv1d" else weight


def dequantised(base: Bound) -> Any:
    """Return a map's weight: the parameter itself, or what 4-bit codes become."""
    from oomph.ops.quantised import FourBitWeight, dequantise_4bit

    if not isinstance(base.block, Linear4bit):
        return base.weight
    shape = (base.out_features, base.in_features)
    return dequantise_4bit(base.tape, FourBitWeight(shape, base["weight.absmax"], base.loaded))
