"""LoRA: two low-rank maps beside a frozen linear map, y = x Wᵀ + (x Aᵀ) Bᵀ·scaling.

Effect: only A and B have gradients and optimizer states; frozen maps save no input. Cost: each adapter saves its own
input, in PEFT's default a copy in fp32, with dropout a dropped copy and a mask, so that activations take more than in
full fine-tuning. LoRA-FA freezes A, so that an adapter saves x Aᵀ, `rank` numbers for each token, and no input.
Source: PEFT 0.21, tuners/lora/layer.py, Linear; optimizers/lorafa.py, whose own temporaries are as small as the rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oomph.blocks.base import Block, Part, Parts
from oomph.blocks.basic import Dropout, Head, Linear
from oomph.errors import UsageError
from oomph.methods.aqlm import LinearAqlm
from oomph.methods.awq import LinearAwq
from oomph.methods.bitsandbytes import Linear4bit, Linear8bit
from oomph.methods.gptq import LinearGptq
from oomph.methods.hqq import LinearHqq
from oomph.methods.parameters import Targets, translated, wrapped
from oomph.methods.ranks import check_names, rank_at
from oomph.methods.saved import frozen
from oomph.methods.targets import check_mixers, inner, names_of, split, typed, wrap_targets

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.ops.unsloth import Adapted
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

SCALING = 2.0  # lora_alpha / r; no byte depends on it


def adapt(model: Model, job: TrainJob) -> Model:
    """Return the model with LoraLinear blocks in the place of the targeted maps, all else frozen."""
    rate = job.adapter_dropout if job.dropout else 0.0

    def wrap(path: str, base: Part) -> Block:
        return _kind(base)(base, *features(base), rank_at(path, job), rate, adapter_dtype(job), job.method != "lora-fa")

    check_names(model, job)
    names = names_of(model, job)
    check_mixers(model, names)
    targets = Targets(names) if job.experts == "modules" else translated(model, names)
    left = split(job.modules_to_save)
    changed = frozen(model) if targets.maps == () else wrap_targets(model, targets.maps, wrap, left)
    if not targets.parameters:
        return changed
    if job.rank_pattern:
        raise UsageError("Ranks of their own are not played on stacked experts.", "Leave --rank-pattern out.")
    if rate:
        raise UsageError("PEFT's adapters on stacked experts take no dropout.", "Say --adapter-dropout 0.")
    return wrapped(changed, targets, job.rank, adapter_dtype(job))


def _kind(base: Part) -> type[LoraLinear]:
    """Return PEFT's adapter for a map."""
    block = inner(base)
    if isinstance(block, (Linear4bit, Linear8bit)):
        return LoraLinear4bit if isinstance(block, Linear4bit) else LoraLinear8bit
    packed: dict[type, type[LoraLinear]] = {LinearHqq: LoraHqq, LinearAwq: LoraAwq, LinearAqlm: LoraAqlm}
    if type(block) in packed:
        return packed[type(block)]
    return LoraAutoGptq if isinstance(block, LinearGptq) and block.kernel != "gptqmodel" else LoraLinear


def adapter_dtype(job: TrainJob) -> str | None:
    """Return the dtype of adapters: fp32 as PEFT's autocast_adapter_dtype makes them, None for the job's."""
    return "fp32" if job.adapter_dtype == "fp32" else None


def features(base: Part) -> tuple[int, int]:
    """Return how wide a linear map's input and output are."""
    block = inner(base)
    if isinstance(block, Head):
        return block.hidden_size, block.vocab_size
    if not isinstance(block, Linear):
        raise TypeError("an adapter stands beside a linear map")
    return block.in_features, block.out_features


@dataclass(frozen=True, eq=False)
class LoraLinear(Block):
    """A linear map with an adapter: A (rank, in) and B (out, rank) in `dtype` (None: the job's).

    >>> from oomph.blocks.base import walk
    >>> sum(w.numel for w in walk(LoraLinear(Linear(4096, 1024), 4096, 1024, 16, 0.0, "fp32")) if "lora" in w.name)
    81920
    """

    base: Part
    in_features: int
    out_features: int
    rank: int
    rate: float
    dtype: str | None
    trains_a: bool = True

    @property
    def parts(self) -> Parts:
        """The wrapped map, the dropout and the two maps of the adapter."""
        down: Part = typed(Linear(self.in_features, self.rank), dtype=self.dtype, trains=self.trains_a)
        up: Part = typed(Linear(self.rank, self.out_features), dtype=self.dtype)
        return {"base_layer": self.base, "lora_dropout": Dropout(self.rate), "lora_A": down, "lora_B": up}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror lora.Linear.forward."""
        from oomph import ops

        result: Sym = m.base_layer(x)
        torch_result_dtype = result.dtype
        x = ops.cast(x, m.lora_A.weight.dtype)
        result = result + m.lora_B(m.lora_A(m.lora_dropout(x))) * SCALING
        result = ops.cast(result, torch_result_dtype)
        return result

    def adapted(self, m: Bound) -> Adapted:
        """Return the map and its adapter as Unsloth's operations take them."""
        from oomph.ops.quantised import FourBitWeight
        from oomph.ops.unsloth import Adapted

        base, a, b = m.base_layer, m.lora_A.weight, m.lora_B.weight
        if not isinstance(base.block, Linear4bit):
            return Adapted(base.weight, a, b)
        return Adapted(FourBitWeight((m.out_features, m.in_features), base["weight.absmax"], base.loaded), a, b)

    def dropped(self, m: Bound, x: Sym) -> Sym | None:
        """Return what the adapter's dropout leaves of an input, None where there is none."""
        left: Sym = m.lora_dropout(x)
        return None if left is x else left


@dataclass(frozen=True, eq=False)
class UnslothLoraLinear(LoraLinear):
    """The same as one operation of Unsloth's."""

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror apply_lora_o."""
        from oomph import ops

        block: Any = m.block
        return ops.lora_map(x, block.adapted(m))


@dataclass(frozen=True, eq=False)
class LoraLinear4bit(LoraLinear):
    """An adapter beside a 4-bit map, whose output is copied; under autocast the input is not cast beforehand."""

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror lora.bnb.Linear4bit.forward."""
        from oomph import ops

        return _added(m, x, ops.clone(m.base_layer(x)))


@dataclass(frozen=True, eq=False)
class LoraLinear8bit(LoraLinear):
    """An adapter beside an 8-bit map: as beside a 4-bit one, without the copy."""

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror lora.bnb.Linear8bitLt.forward."""
        return _added(m, x, m.base_layer(x))


def _added(m: Bound, x: Sym, result: Sym) -> Sym:
    """Mirror what lora.bnb's layers do with the result of their map; no frame but this one holds it."""
    from oomph import ops

    if requires_conversion := m.tape.autocast is None:
        expected_dtype = result.dtype
        x = ops.cast(x, m.lora_A.weight.dtype)
    output: Sym = m.lora_B(m.lora_A(m.lora_dropout(x))) * SCALING
    if requires_conversion:
        output = ops.cast(output, expected_dtype)
    result = result + output
    return result


@dataclass(frozen=True, eq=False)
class LoraHqq(LoraLinear):
    """An adapter beside a map of HQQ: what is added is cast with the sum, under autocast neither is."""

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror lora.hqq.HqqLoraLinear.forward."""
        from oomph import ops

        result: Sym = m.base_layer(x)
        if requires_conversion := m.tape.autocast is None:
            expected_dtype = result.dtype
            x = ops.cast(x, m.lora_A.weight.dtype)
        result = result + m.lora_B(m.lora_A(m.lora_dropout(x))) * SCALING
        if requires_conversion:
            result = ops.cast(result, expected_dtype)
        return result


def _cast_and_scaled(m: Bound, x: Sym, add: Callable[[Sym, Sym], Sym]) -> Sym:
    """Mirror what AwqLoraLinear and its like do: what B gives is cast, scaled, and joined to the map's result."""
    from oomph import ops

    result: Sym = m.base_layer(x)
    if requires_conversion := m.tape.autocast is None:
        expected_dtype = result.dtype
        x = ops.cast(x, m.lora_A.weight.dtype)
    output: Sym = m.lora_B(m.lora_A(m.lora_dropout(x)))
    if requires_conversion:
        output = ops.cast(output, expected_dtype)
    output = output * SCALING
    result = add(result, output)
    return result


@dataclass(frozen=True, eq=False)
class LoraAwq(LoraLinear):
    """An adapter beside a map of AWQ: its output is cast, then scaled and added, under autocast without casts."""

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror lora.awq.AwqLoraLinear.forward."""
        from oomph import ops

        return _cast_and_scaled(m, x, ops.add)


@dataclass(frozen=True, eq=False)
class LoraAqlm(LoraLinear):
    """An adapter beside a map of AQLM: as beside one of AWQ, but added in place."""

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror lora.aqlm.AqlmLoraLinear.forward."""
        from oomph import ops

        return _cast_and_scaled(m, x, ops.add_)


@dataclass(frozen=True, eq=False)
class LoraAutoGptq(LoraLinear):
    """An adapter of PEFT 0.4 to 0.13 on a map of auto_gptq: the sum in place, under autocast no cast beforehand."""

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror lora.gptq.QuantLinear.forward."""
        from oomph import ops

        shape = (ops.rows(x), m.out_features)
        return _cast_and_scaled(m, x, lambda result, output: ops.add_to_view(result, output, shape))
