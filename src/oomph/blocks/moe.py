"""Mixture of experts: a router, E experts of which a token uses k, and perhaps experts all tokens share.

Checkpoints store every expert's matrices apart; some classes stack them into one tensor. The ledger keeps the
matrices apart (`experts.*.gate_proj`), which is what quantisers see; the element count is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import index
from typing import TYPE_CHECKING, Any, TypeVar

from oomph.blocks.base import Block, Module, Part, Parts, Stack
from oomph.blocks.basic import BareNorm, Fp32Linear, Linear
from oomph.blocks.mlp import MLP, GatedMLP
from oomph.errors import ConfigError
from oomph.tensor import Role, Tensor

if TYPE_CHECKING:
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

Shared = TypeVar("Shared", MLP, GatedMLP, Linear)


@dataclass(frozen=True)
class Router(Block):
    """Scores of E experts from H. `correction` is the load-balancing bias stored as a buffer (DeepSeek-V3).

    `linear` names the inner map where checkpoints nest it (Granite-MoE's router.layer); `flat`: the class does not.
    `correction_like_weights`: the correction has the model's dtype, not fp32 (Kimi-Linear).
    """

    hidden_size: int
    num_experts: int
    bias: bool = False
    correction: str = ""
    linear: str = ""
    flat: bool = False
    correction_like_weights: bool = False
    kind: str = "moe_router"

    @property
    def parts(self) -> Parts:
        """The map (nested or not) and the correction buffer."""
        scores = Linear(self.hidden_size, self.num_experts, self.bias, "router")
        role: Role = "bias buffer" if self.correction_like_weights else "buffer"
        buffer = {self.correction: Tensor((self.num_experts,), role)} if self.correction else {}
        return {**({self.linear: scores} if self.linear else scores.parts), **buffer}

    @property
    def built_parts(self) -> Parts:
        """The map's own parts where the class does not nest it."""
        return replace(self, linear="").parts if self.flat else self.parts

    @staticmethod
    def program(m: Bound, hidden_states: Sym, forward: Callable[[Bound, Sym], Any]) -> Any:
        """Run the forward of the router's class, which its mixture knows."""
        return forward(m, hidden_states)


@dataclass(frozen=True)
class CorrectedRouter(Router):
    """ERNIE-4.5's as its class builds it: in fp32 whatever the model is, its correction a parameter that never trains.

    Checkpoints keep the correction beside the router.
    """

    @property
    def parts(self) -> Parts:
        """The map and, in a module of its own, the correction."""
        correction = Tensor((1, self.num_experts), "param", "fp32", trains=False)
        return {
            "weight": Tensor((self.num_experts, self.hidden_size), "router", "fp32"),
            "moe_statics": Module({"e_score_correction_bias": correction}),
        }


@dataclass(frozen=True)
class CappedRouter(Router):
    """Laguna's as its class builds it: the correction beside the map, a parameter that never trains.

    `capped`: logits are bounded by a tanh.
    """

    capped: bool = False

    @property
    def parts(self) -> Parts:
        """The map and the correction."""
        correction = Tensor((self.num_experts,), "param", trains=False)
        return {
            "weight": Tensor((self.num_experts, self.hidden_size), "router"),
            "e_score_correction_bias": correction,
        }


@dataclass(frozen=True)
class HashRouter(Router):
    """DeepSeek-V4's as its class builds it: experts are looked up by token, in a table of int64 its program makes."""

    vocab_size: int = 0

    @property
    def parts(self) -> Parts:
        """The map, and a place for the table."""
        return {"weight": Tensor((self.num_experts, self.hidden_size), "router"), "tid2eid": None}


@dataclass(frozen=True)
class Fp32Router(Router):
    """Hunyuan's as its class builds it: a linear map in fp32 whatever the model is."""

    @property
    def parts(self) -> Parts:
        """The map, `wg`."""
        return {"wg": Fp32Linear(self.hidden_size, self.num_experts, role="router")}


@dataclass(frozen=True)
class StackedExperts(Block):
    """All experts of a layer as transformers 5 keeps them: gate and up in one tensor (E, 2F, H), down in (E, H, F).

    `gated` False: there is no gate, only up (E, F, H). `transposed`: the last two axes the other way round. `bias`: one
    vector for each expert and tensor. `names` are those of the two tensors; `activation` is what the gate goes through.
    `bounds`: gate and up are bounded, "first" before the activation, "last" the gate after it; "" they are not.
    `loops`: the class knows no form but a loop over experts.

    Mixtral-8x7B: 8·(2·14336)·4096 + 8·4096·14336 parameters, as many as in a matrix for each map and expert.
    >>> [part.numel for part in StackedExperts(4096, 14336, 8).parts.values() if part]
    [939524096, 469762048]
    """

    hidden_size: int
    ffn_size: int
    num_experts: int
    activation: str = "silu"
    transposed: bool = False
    bias: bool = False
    names: tuple[str, str] = ("gate_up_proj", "down_proj")
    gated: bool = True
    bounds: str = ""
    loops: bool = False

    @property
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """The shape of each tensor of matrices by its name."""
        experts, hidden, ffn = self.num_experts, self.hidden_size, self.ffn_size
        into, out = (2 * ffn if self.gated else ffn, hidden), (hidden, ffn)
        into, out = (into[::-1], out[::-1]) if self.transposed else (into, out)
        return {name: (experts, *shape) for name, shape in zip(self.names, (into, out), strict=True)}

    @property
    def parts(self) -> Parts:
        """Gate and up, down, and their biases."""
        parts: dict[str, Part] = {}
        inner = 2 * self.ffn_size if self.gated else self.ffn_size
        for (name, shape), width in zip(self.shapes.items(), (inner, self.hidden_size), strict=True):
            parts[name] = Tensor(shape, "expert")
            if self.bias:
                parts[f"{name}_bias"] = Tensor((self.num_experts, width), "bias")
        return parts

    @staticmethod
    def program(m: Bound, hidden_states: Sym, top_k_index: Sym | None = None, top_k_weights: Sym | None = None) -> Sym:
        """Mirror the class's experts in the form that the job asks for."""
        from oomph.programs.experts import experts, sorted_experts

        if top_k_index is None or top_k_weights is None:
            return sorted_experts(m, hidden_states)
        return experts(m, hidden_states, top_k_index, top_k_weights)


@dataclass(frozen=True, eq=False)
class MoE(Block):
    """Router, experts and shared part, under the class's names.

    `expert` is one expert (a GatedMLP or MLP with role "expert"); `extra` holds what else the class keeps
    beside them (shared experts, their gate, latent projections). `stacked` are the experts as the class of
    transformers keeps them, None where that is not known; `experts_first`: it makes them before the router,
    `experts_last` after all else. `style`
    names the mixture's program (programs/mixtures.py), `normalised`: the weights of a token's experts add up to 1;
    `built_router` is the router as the class builds it, where that differs; `beside_router` names what of `extra` is in
    there. `groups`: how many groups of experts there are and of how many a token may use some, (1, 1) where it may use
    all.
    """

    router: Block
    expert: Block
    num_experts: int
    top_k: int
    shaken: bool = False
    router_name: str = "gate"
    experts_name: str = "experts"
    extra: Parts | None = None
    stacked: StackedExperts | None = None
    experts_first: bool = False
    experts_last: bool = False
    style: str = ""
    normalised: bool = False
    groups: tuple[int, int] = (1, 1)
    built_router: Router | None = None
    beside_router: tuple[str, ...] = ()
    kind: str = "mlp"

    def __post_init__(self) -> None:
        if self.top_k > self.num_experts:
            raise ConfigError(
                f"A token cannot use {self.top_k} of {self.num_experts} experts.",
                "Check num_experts_per_tok and the number of experts.",
            )

    @property
    def parts(self) -> Parts:
        """Router, experts, and whatever is shared."""
        expert = Module(self.expert.parts)  # under "moe_experts", not the expert's own "mlp"
        experts = Stack((expert,) * index(self.num_experts), self.top_k, kind="moe_experts")
        return {self.router_name: self.router, self.experts_name: experts, **(self.extra or {})}

    @property
    def built_parts(self) -> Parts:
        """The same with the experts as the class keeps them."""
        if self.stacked is None:
            return self.parts
        router, experts = {self.router_name: self.built_router or self.router}, {self.experts_name: self.stacked}
        first, second = (experts, router) if self.experts_first else (router, experts)
        extra = {name: part for name, part in (self.extra or {}).items() if name not in self.beside_router}
        return {**router, **extra, **experts} if self.experts_last else {**first, **second, **extra}

    @staticmethod
    def program(m: Bound, hidden_states: Sym) -> Any:
        """Mirror the forward of the class's sparse block."""
        from oomph.programs.mixtures import mixture

        return mixture(m, hidden_states)


@dataclass(frozen=True, eq=False)
class ScoredMoE(MoE):
    """DeepSeek-V4's: with the function that makes scores of logits; tokens' ids may decide where they go."""

    scoring: str = "sigmoid"

    @staticmethod
    def program(m: Bound, hidden_states: Sym, input_ids: Sym | None = None) -> Any:
        """Mirror DeepseekV4SparseMoeBlock.forward."""
        from oomph.programs.hashed import deepseek_v4

        return deepseek_v4(m, hidden_states, input_ids)


@dataclass(frozen=True, eq=False)
class ExpertModules(MoE):
    """The same as transformers 4 kept it: a router that is a linear map, and `modules`, an MLP for each expert."""

    modules: Stack | None = None

    @property
    def parts(self) -> Parts:
        """Router, experts, and whatever is shared."""
        return {self.router_name: self.router, self.experts_name: self.modules, **(self.extra or {})}

    @staticmethod
    def program(m: Bound, hidden_states: Sym) -> Any:
        """Mirror the forward of the class's sparse block."""
        from oomph.programs.expert_modules import mixture

        return mixture(m, hidden_states)


@dataclass(frozen=True)
class ScaledRouter(Block):
    """Gemma 4's: a norm, a scale for each channel and one for each expert; a token goes to `top_k`."""

    hidden_size: int
    num_experts: int
    top_k: int
    kind: str = "moe_router"

    @property
    def parts(self) -> Parts:
        """The scales, the norm, which has no parameters, and the map."""
        return {
            "scale": Tensor((self.hidden_size,), "param"),
            "per_expert_scale": Tensor((self.num_experts,), "param"),
            "norm": BareNorm("rms by power bare"),
            "proj": Linear(self.hidden_size, self.num_experts, role="router"),
        }

    @staticmethod
    def program(m: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
        """Mirror Gemma4TextRouter.forward."""
        from oomph.programs.mixtures import gemma4_router

        return gemma4_router(m, hidden_states)


@dataclass(frozen=True, eq=False)
class MixtureLayer(Module):
    """A decoder layer with a router and experts beside a dense MLP (Gemma 4); `stacked` are the experts as built."""

    stacked: StackedExperts | None = None

    @property
    def built_parts(self) -> Parts:
        """The same with the experts as the class keeps them."""
        return self.parts if self.stacked is None else {**self.parts, "experts": self.stacked}


@dataclass(frozen=True, eq=False)
class RegroupedLayer(Module):
    """A decoder layer whose checkpoints name its parts otherwise than its class does, which is `built`."""

    built: Module | None = None

    @property
    def built_parts(self) -> Parts:
        """The parts under the names of the class."""
        return self.parts if self.built is None else self.built.built_parts


def shared_expert(expert: Shared) -> Shared:
    """Return the same maps counted as a shared expert, which every token passes through."""
    return replace(expert, kind="moe_shared_expert")
