"""LoRA on parameters that no linear map holds: experts stacked in one tensor, and routers.

PEFT names what it adapts as transformers 4 named it, where experts were linear maps; for some types it translates that.
Effect: each forward pass makes a weight with the adapter added, a whole stack of experts at a time. Cost: that weight
as long as the graph, and its gradient, as large, in the backward pass: more than linear maps with adapters take.
Source: PEFT 0.21, tuners/lora/layer.py, ParamWrapper; utils/transformers_weight_conversion.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from oomph.blocks.base import Block, Part, Parts, rewritten
from oomph.blocks.basic import Linear
from oomph.blocks.moe import Router, StackedExperts
from oomph.errors import UnsupportedError, UsageError
from oomph.methods.bitsandbytes import QuantisedExperts
from oomph.methods.targets import Names, inner, typed

if TYPE_CHECKING:
    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

GATE, UP, DOWN = "gate_proj", "up_proj", "down_proj"
ROUTER = "gate"
# What maps were called that are parameters now (_MOE_TARGET_MODULE_MAPPING): gate, up and down, and the router.
NAMES: dict[str, tuple[str, str, str]] = {
    **dict.fromkeys(("minimax", "minimax_m2", "mixtral"), ("w1", "w3", "w2")),
    **dict.fromkeys(
        (
            "afmoe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe", "exaone_moe", "flex_olmo",
            "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "hunyuan_v1_moe", "mellum", "olmoe", "qwen3_moe",
            "qwen3_next", "qwen3_omni_moe_text", "qwen3_omni_moe_thinker", "solar_open",
        ),
        (GATE, UP, DOWN),
    ),
}  # fmt: skip
ROUTER_MAPS = ("afmoe",)  # types whose router PEFT takes for a parameter although it is a linear map
HALF = ("bf16", "fp16")
SCALING = 2.0  # lora_alpha / r; no byte depends on it


@dataclass(frozen=True)
class Targets:
    """What gets adapters: names of linear maps (None: all of them), the parameters of experts, routers."""

    maps: Names
    into: bool = False
    out: bool = False
    router: bool = False

    @property
    def parameters(self) -> bool:
        """Tell whether any parameter is among them."""
        return self.into or self.out or self.router


def translated(model: Model, names: Names) -> Targets:
    """Return what PEFT makes of target names for a model (None: all linear maps).

    A name that experts once had is theirs alone from then on: dense layers and shared experts lose it. Raises
    UsageError for one of gate and up without the other, as they are one tensor.
    """
    old = NAMES.get(model.model_type)
    if old is None:
        return Targets(names)
    if names is None:
        names = (*_linear_names(model), *old, ROUTER)
    has_gate, has_up = (any(_is(name, each) for name in names) for each in old[:2])
    if has_gate != has_up:
        raise UsageError(
            f"PEFT cannot adapt {old[0]} without {old[1]}: they are one tensor for all experts.", "Name both."
        )
    if model.model_type in ROUTER_MAPS and any(_is(name, each) for name in names for each in (*old, ROUTER)):
        raise UnsupportedError(
            f"oomph cannot play adapters on experts of {model.model_type}, whose router is a linear map, yet.",
            "Name other maps: --targets q_proj,v_proj, for one.",
        )
    rest = tuple(name for name in names if not any(_is(name, each) for each in (*old, ROUTER)))
    return Targets(rest, has_gate, any(_is(name, old[2]) for name in names), any(_is(name, ROUTER) for name in names))


def _is(name: str, old: str) -> bool:
    return name == old or name.endswith(f".{old}")


def _linear_names(model: Model) -> tuple[str, ...]:
    """Return the last names of all linear maps but the head."""
    found: dict[str, None] = {}

    def look(path: str, part: Part) -> Part:
        if isinstance(part, Block) and isinstance(inner(part), Linear):
            found[path.rpartition(".")[2]] = None
        return part

    for path, part in model.parts.items():
        rewritten(part, look, path)
    return tuple(found)


def wrapped(model: Model, targets: Targets, rank: int, dtype: str | None) -> Model:
    """Return the model with adapters around its experts and routers, as far as they are targets.

    Gate and up are one tensor with twice the rank. Packed experts are passed by: PEFT finds no parameter there.
    """

    def change(path: str, part: Part) -> Part:
        block = inner(part)
        flat = isinstance(block, Router) and "weight" in block.parts  # else its map is a module, as any other
        if isinstance(block, Router) and flat and targets.router and path.endswith(f".{ROUTER}"):
            return LoraParameter(part, "weight", block.hidden_size, block.num_experts, 1, rank, dtype)
        if not isinstance(block, StackedExperts) or isinstance(block, QuantisedExperts):
            return part
        into, out = block.names
        for name, wanted, times in ((into, targets.into, 2), (out, targets.out, 1)):
            if wanted:
                experts, rows, columns = block.shapes[name]
                part = LoraParameter(part, name, columns, rows, experts, rank * times, dtype)
        return part

    return replace(model, parts={path: rewritten(part, change, path) for path, part in model.parts.items()})


@dataclass(frozen=True, eq=False)
class LoraParameter(Block):
    """An adapter around a module of which it adapts one parameter [E, out, in] or [out, in], E = `experts` being 1.

    A (rank·E, in) and B (out, rank·E) in `dtype` (None: the job's). `base` may have another one around it.
    """

    base: Part
    name: str
    in_features: int
    out_features: int
    experts: int
    rank: int
    dtype: str | None

    @property
    def parts(self) -> Parts:
        """The wrapped module and the two maps of the adapter."""
        down: Part = typed(Linear(self.in_features, self.rank * self.experts), dtype=self.dtype)
        up: Part = typed(Linear(self.rank * self.experts, self.out_features), dtype=self.dtype)
        return {"base_layer": self.base, "lora_A": down, "lora_B": up}

    @staticmethod
    def program(m: Bound, *arguments: Any) -> Any:
        """Mirror ParamWrapper.forward: registering a parametrization makes its weight once, to look at it."""
        base = m.base_layer
        while isinstance(base.block, LoraParameter):
            base = base.base_layer
        outermost = not base.parametrized
        proxy = _delta(m, base[m.name]) if isinstance(base.block, Router) else _factors(m, base[m.name])
        proxy(base[m.name])
        base.parametrized[m.name] = proxy
        try:
            return m.base_layer(*arguments)
        finally:
            if outermost:
                base.made.clear()
            del base.parametrized[m.name]


def _factors(m: Bound, parameter: Sym) -> Callable[[Sym], Sym]:
    """Mirror get_delta_factors and _LoraFactorsProxy: W + scaling · lhs @ rhs in one product, outside of autocast."""
    from oomph import ops

    weight_a = ops.view(m.lora_A.weight, (m.experts, m.rank, m.in_features))
    weight_b = ops.view(m.lora_B.weight, (m.out_features, m.rank, m.experts))
    weight_b = ops.transpose(ops.transpose(weight_b, 0, 2), 1, 2)
    lhs, rhs = ops.cast(weight_b, parameter.dtype), ops.cast(weight_a, parameter.dtype)
    return partial(_folded, rhs, lhs)  # a tuple dies from the back, the module's attributes from the front


def _folded(rhs: Sym, lhs: Sym, weight: Sym) -> Sym:
    from oomph import ops

    with weight.tape.without_autocast():
        return ops.baddbmm(weight, lhs, rhs)


def _delta(m: Bound, parameter: Sym) -> Callable[[Sym], Sym]:
    """Mirror ParamWrapper.get_delta_weight and _LoraParameterProxy."""
    from oomph import ops

    delta_weight = ops.cast(_product(m), parameter.dtype)
    return lambda weight: weight + delta_weight


def _product(m: Bound) -> Sym:
    """Mirror Linear.get_delta_weight: on a CPU narrow adapters are multiplied in fp32."""
    from oomph import ops

    weight_a, weight_b = m.lora_A.weight, m.lora_B.weight
    dtype = weight_b.dtype
    if widened := m.tape.on != "gpu" and dtype in HALF:
        weight_a, weight_b = ops.cast(weight_a, "fp32"), ops.cast(weight_b, "fp32")
    output_tensor = ops.times(weight_b, weight_a) * SCALING
    if widened:
        output_tensor = ops.cast(output_tensor, dtype)
    return output_tensor
