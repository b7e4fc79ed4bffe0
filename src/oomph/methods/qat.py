"""Quantisation-aware training: linear maps compute with weights and inputs that are rounded as they will be one day.

Effect: weights in int4 with a scale for each group of 32, inputs in int8 with a scale for each token (8da4w). Cost: of
every map a weight as rounded and, for its gradient, the same in fp32 before it was bounded, as long as the graph; so of
every input: six bytes more of each in 16 bits. Scales of the last call stay on the module. Source: torchao 0.18,
quantization/qat/linear.py, FakeQuantizedLinear, as QATConfig(step="prepare") puts it in.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from oomph.blocks.base import Part, rewritten
from oomph.blocks.basic import Head, Linear
from oomph.errors import UnsupportedError
from oomph.tape.sizes import settled

if TYPE_CHECKING:
    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

PLAYED = ("llama", "mistral", "qwen2", "qwen3", "phi3", "olmo2")
GROUP = 32  # weights that share a scale


def with_fake_quantisers(model: Model) -> Model:
    """Return the model with all that is nn.Linear rounding its weight and its input.

    Raises UnsupportedError for a map whose inputs are no whole number of groups, which torchao refuses too, and for a
    model whose maps have not been held against the real ones.
    """
    if model.model_type not in PLAYED:
        raise UnsupportedError(f"Fake quantisers are played for {', '.join(PLAYED)}.", "Trace it: oomph trace.")

    def change(path: str, part: Part) -> Part:
        if type(part) not in (Linear, Head) or getattr(part, "role", "") == "conv1d":
            return part
        assert isinstance(part, Linear | Head)
        size = part.in_features if isinstance(part, Linear) else part.hidden_size
        if settled(size) % GROUP:
            raise UnsupportedError(f"{path} has {settled(size)} inputs, no whole number of groups of {GROUP}.")
        new = LinearQat if isinstance(part, Linear) else HeadQat
        return new(**{field.name: getattr(part, field.name) for field in fields(part)})

    return replace(model, parts={path: rewritten(part, change, path) for path, part in model.parts.items()})


def rounded_linear(m: Bound, x: Sym, weight: Sym) -> Sym:
    """Return the product of a map's input and its weight, each rounded; mirrors FakeQuantizedLinear.forward."""
    from oomph import ops
    from oomph.ops.fake_quant import fake_quantised

    x = fake_quantised(m, "activation", x, x.shape[-1], symmetric=False)
    w = fake_quantised(m, "weight", weight, GROUP, symmetric=True)
    return ops.linear(x, w, m.parts["bias"])


@dataclass(frozen=True)
class LinearQat(Linear):
    """A linear map that rounds its weight and its input."""

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror FakeQuantizedLinear.forward."""
        return rounded_linear(m, x, m.weight)


@dataclass(frozen=True)
class HeadQat(Head):
    """The head as such a map; a tied one rounds the embedding's table."""
