"""LoHa: a frozen map beside another one, whose weight is the elementwise product of two low-rank matrices.

Effect: four factors train for each map, twice as many numbers as LoRA's. Cost: each call makes the whole weight, as
large as the map's own, and keeps it and its own input for the backward pass, which makes both products anew, beside the
weight's gradient; all in fp32 unless autocast casts. Source: PEFT 0.21, tuners/loha/layer.py, Linear, HadaWeight;
tuners/lycoris_utils.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oomph.blocks.base import Block, Part, Parts
from oomph.blocks.basic import Linear
from oomph.errors import UnsupportedError, UsageError
from oomph.methods.lora import adapter_dtype, features
from oomph.methods.targets import inner, names_of, split, wrap_targets
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.sizes import Size
    from oomph.tape.sym import Sym


def adapt(model: Model, job: TrainJob) -> Model:
    """Return the model with LohaLinear blocks in the place of the targeted maps, all else frozen."""
    return adapted(model, job, LohaLinear)


def adapted(model: Model, job: TrainJob, kind: Callable[..., Block]) -> Model:
    """Return the model with LyCORIS's adapters; raises for maps that PEFT has none for."""
    if job.adapter_dropout:
        raise UsageError(f"PEFT has no dropout of {job.method}'s inputs.", "Say --adapter-dropout 0.")

    def wrap(path: str, base: Part) -> Block:
        block = inner(base)
        if type(block) is not Linear or block.role != "linear":
            fix = "Take --method lora."
            raise UnsupportedError(f"oomph plays {job.method} on plain linear maps only, which {path} is not.", fix)
        return kind(base, *features(base), job.rank, adapter_dtype(job))

    return wrap_targets(model, names_of(model, job), wrap, split(job.modules_to_save))


@dataclass(frozen=True, eq=False)
class LohaLinear(Block):
    """A linear map with two pairs of factors, (out, rank) and (rank, in), in `dtype` (None: the job's)."""

    base: Part
    in_features: Size
    out_features: Size
    rank: Size
    dtype: str | None

    @property
    def parts(self) -> Parts:
        """The wrapped map and the factors."""
        a = Tensor((self.out_features, self.rank), "param", self.dtype)
        b = Tensor((self.rank, self.in_features), "param", self.dtype)
        return {"base_layer": self.base, "hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": a, "hada_w2_b": b}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror LoHaLayer.forward."""
        return with_delta(m, x, get_delta_weight)

    @staticmethod
    def off(m: Bound, x: Sym) -> Sym:
        """Mirror LycorisLayer.forward with adapters disabled."""
        from oomph import ops

        return ops.cast(m.base_layer(x), x.dtype)


def with_delta(m: Bound, x: Sym, delta: Callable[[Bound], Sym]) -> Sym:
    """Return what the map makes of x, and a map whose weight `delta` makes added to it."""
    from oomph import ops

    previous_dtype = x.dtype
    result: Sym = m.base_layer(x)
    result = result + _get_delta_activations(m, x, delta)
    result = ops.cast(result, previous_dtype)
    return result


def _get_delta_activations(m: Bound, x: Sym, delta: Callable[[Bound], Sym]) -> Sym:
    from oomph import ops

    delta_weight = delta(m)
    x = ops.cast(x, delta_weight.dtype)
    return ops.linear(x, delta_weight)


def get_delta_weight(m: Bound) -> Sym:
    """Mirror LoHaLayer.get_delta_weight."""
    from oomph import ops

    weight = hada_weight(m.hada_w1_a, m.hada_w1_b, m.hada_w2_a, m.hada_w2_b)
    return ops.view(weight, weight.shape)


def hada_weight(w1a: Sym, w1b: Sym, w2a: Sym, w2b: Sym) -> Sym:
    """Mirror HadaWeight.forward: ((w1a @ w1b) * (w2a @ w2b)) * scale, of which only the factors are saved."""
    from oomph import ops
    from oomph.tape.autograd import made_by, record, save

    tape = w1a.tape
    # A number on the host, which a trace takes for one of the device; what is there anyway stands for it elsewhere.
    scale = tape.empty((), "fp32", op="lift_fresh") if tape.on == "trace" else w1a
    node = record("HadaWeight", (w1a, w1b, w2a, w2b), _hada_weight_backward)
    with tape.no_grad():
        diff_weight = (ops.times(w1a, w1b) * ops.times(w2a, w2b)) * 1.0
    save(node, w1a, w1b, w2a, w2b, scale)
    return made_by(diff_weight, node)


def _hada_weight_backward(node: Any, gradients: list[Any], saved: list[Any]) -> list[Any]:
    """Mirror HadaWeight.backward, outside autocast."""
    from oomph import ops
    from oomph.ops.elementwise import grad
    from oomph.ops.matmul import mm

    w1a, w1b, w2a, w2b, _ = saved
    with w1a.tape.no_grad():
        grad_out = grad(gradients) * 1.0
        temp = grad_out * mm(w2a, w2b)
        grad_w1a = mm(temp, ops.transpose(w1b, 0, 1))
        grad_w1b = mm(ops.transpose(w1a, 0, 1), temp)
        temp = grad_out * mm(w1a, w1b)
        grad_w2a = mm(temp, ops.transpose(w2b, 0, 1))
        grad_w2b = mm(ops.transpose(w2a, 0, 1), temp)
        del temp
    return [grad_w1a, grad_w1b, grad_w2a, grad_w2b]
