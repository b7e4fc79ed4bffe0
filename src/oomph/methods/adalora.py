"""AdaLoRA: LoRA as B·diag(E)·A, like a singular value decomposition, whose A and B are held orthogonal by the loss.

Effect: LoRA's numbers and one more for each rank; ranks whose E matters least are set to zero between steps
(`update_and_allocate`, which no Trainer calls by itself), but their memory stays: `rank` is `init_r`, PEFT's own is 12.
Cost: each call makes A·E anew and keeps its own input in fp32, as LoRA does; after the loss every A and B of the model
is multiplied with itself, which keeps a square of the rank for each until backward reaches it, first of all. Source:
PEFT 0.21, tuners/adalora/layer.py, SVDLinear; bnb.py; model.py, AdaLoraModel.forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oomph.blocks.base import Block, Part, Parts
from oomph.blocks.basic import Dropout, Linear
from oomph.errors import UnsupportedError, UsageError
from oomph.methods.bitsandbytes import Linear4bit, Linear8bit
from oomph.methods.lora import adapter_dtype, features
from oomph.methods.targets import inner, names_of, split, wrap_targets
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.sizes import Size
    from oomph.tape.sym import Sym

SCALING = 2.0  # no byte depends on it


def adapt(model: Model, job: TrainJob) -> Model:
    """Return the model with SvdLinear blocks in the place of the targeted maps, all else frozen."""
    rate = job.adapter_dropout if job.dropout else 0.0
    in_16_bit = job.precision in ("bf16", "fp16") and not (job.autocast or job.kbit_preparation)
    if job.quantization == "int8" and in_16_bit:
        fix = "Add --autocast or --kbit-preparation."
        raise UsageError("PEFT's AdaLoRA turns what 8-bit maps return into fp32, which attention refuses.", fix)
    # What PEFT casts or moves to another device becomes a parameter that trains, the rank too.
    trains_rank = job.quantization != "none" or job.weight_dtype != "fp32"

    def wrap(path: str, base: Part) -> Block:
        block = inner(base)
        if isinstance(block, (Linear4bit, Linear8bit)):
            kind: type[SvdLinear] = SvdLinear4bit if isinstance(block, Linear4bit) else SvdLinear8bit
        elif type(block) is Linear:
            kind = SvdLinear
        else:
            raise UnsupportedError(f"oomph plays no AdaLoRA on {path}.", "Take --method lora.")
        return kind(base, *features(base), job.rank, rate, adapter_dtype(job), trains_rank)

    return wrap_targets(model, names_of(model, job), wrap, split(job.modules_to_save))


@dataclass(frozen=True, eq=False)
class SvdLinear(Block):
    """A linear map with A (rank, in), B (out, rank), E (rank, 1) and the rank itself in `dtype` (None: the job's)."""

    base: Part
    in_features: int
    out_features: int
    rank: Size
    rate: float
    dtype: str | None
    trains_rank: bool

    @property
    def parts(self) -> Parts:
        """The wrapped map, the dropout and the adapter."""
        return {
            "base_layer": self.base,
            "lora_dropout": Dropout(self.rate),
            "lora_A": Tensor((self.rank, self.in_features), "param", self.dtype),
            "lora_B": Tensor((self.out_features, self.rank), "param", self.dtype),
            "lora_E": Tensor((self.rank, 1), "param", self.dtype),
            "ranknum": Tensor((1,), "param", self.dtype, trains=self.trains_rank),
        }

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror adalora.SVDLinear.forward, which adds in place."""
        from oomph import ops

        result: Sym = m.base_layer(x)
        ranknum = m.ranknum + 1e-5
        x = ops.cast(x, m.lora_A.dtype)
        added = ops.divide(_low_rank(m, x) * SCALING, ranknum)
        if m.base_layer.parts["bias"] is None:  # torch folds a product back without a view, a sum by one
            result = ops.add_(result, added)
        else:
            result = ops.add_to_view(result, added, (ops.rows(x), m.out_features))
        del added
        return result


def _low_rank(m: Bound, x: Sym) -> Sym:
    """Return dropout(x) @ (A * E).T @ B.T."""
    from oomph import ops

    return ops.linear_unfused(ops.linear_unfused(m.lora_dropout(x), m.lora_A * m.lora_E), m.lora_B)


@dataclass(frozen=True, eq=False)
class SvdLinear8bit(SvdLinear):
    """The same beside an 8-bit map: a new sum, and under autocast the input is not cast beforehand."""

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror adalora.bnb.SVDLinear8bitLt.forward."""
        from oomph import ops

        result: Sym = m.base_layer(x)
        if requires_conversion := m.tape.autocast is None:
            expected_dtype = result.dtype
            x = ops.cast(x, "fp32")
        ranknum = m.ranknum + 1e-5
        output = _low_rank(m, x)
        if requires_conversion:
            output = ops.cast(output, expected_dtype)
        output = ops.divide(output * SCALING, ranknum)
        result = result + output
        return result


@dataclass(frozen=True, eq=False)
class SvdLinear4bit(SvdLinear):
    """The same beside a 4-bit map, whose output is copied, into which the sum is then written."""

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror adalora.bnb.SVDLinear4bit.forward."""
        from oomph import ops

        result: Sym = m.base_layer(x)
        result = ops.clone(result)
        ranknum = m.ranknum + 1e-5
        if requires_conversion := m.tape.autocast is None:
            expected_dtype = result.dtype
            x = ops.cast(x, m.lora_A.dtype)
        output = _low_rank(m, x)
        if requires_conversion:
            output = ops.cast(output, expected_dtype)
        output = ops.divide(output * SCALING, ranknum)
        result = ops.add_(result, output)
        return result


def forward_around(causal_lm: Callable[..., Any], model: Model) -> Callable[..., Any]:
    """Return AdaLoraModel.forward around a model's: to the loss comes the mean of ‖P·Pᵀ - 1‖ over every A, and of
    ‖Pᵀ·P - 1‖ over every B.
    """

    def forward(m: Bound, *args: Any, **kwargs: Any) -> Any:
        from oomph import ops

        loss, *others = causal_lm(m, *args, **kwargs)
        if loss is None:
            return (loss, *others)
        regu_loss: Sym | None = None
        for p in m.parameters():
            if p.requires_grad and p.made_for.endswith(("lora_A", "lora_B")):
                para_cov = _with_itself(p)
                identity = m.tape.empty(para_cov.shape, para_cov.dtype, op="empty_like")
                regu_loss = _plus(regu_loss, para_cov - identity)
        assert regu_loss is not None
        regu_loss = regu_loss / 2.0
        loss = ops.add_(loss, regu_loss * 0.5)
        return (loss, *others)

    return forward


def _with_itself(p: Sym) -> Sym:
    """Return A @ A.T or B.T @ B."""
    from oomph import ops

    turned = ops.transpose(p, 0, 1)
    return ops.times(p, turned) if p.made_for.endswith("lora_A") else ops.times(turned, p)


def _plus(regu_loss: Sym | None, difference: Sym) -> Sym:
    """Return regu_loss + ‖difference‖: the first time a new scalar, then in place."""
    from oomph import ops

    norm = ops.frobenius_norm(difference)
    return norm + 0.0 if regu_loss is None else ops.add_(regu_loss, norm)
