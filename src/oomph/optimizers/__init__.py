"""Optimizers on the tape: the state a parameter gets, and the temporaries of a step. One file each.

A file holds `state(settings, parameter)`, the tensors that a step leaves for a parameter, `step(settings, parameters,
states)`, which allocates and frees what the real step does, and STATES, which says when states are made: "before" the
first step, "after" it, "within" it (by the rule, where a parameter's list is empty), or with the optimizer ("made").
LEAVES_SMALL: a step puts the projected gradient in the place of a matrix's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from oomph.blocks.basic import Embedding, Linear
from oomph.errors import UnsupportedError
from oomph.methods.q_galore import int8_maps
from oomph.optimizer_names import KINDS, Targets
from oomph.optimizers.projection import low_rank, rank_of
from oomph.optimizers.settings import Settings, named
from oomph.structure import STACKS
from oomph.tape.autograd import backward
from oomph.tape.bound import Bound
from oomph.tape.sizes import Size, product, yes
from oomph.tape.sym import Sym

if TYPE_CHECKING:
    from oomph.job import TrainJob

State = list[Sym]
LAYERS = tuple(f"{path}." for path in STACKS)


class Optimizer:
    """The states of a model's parameters, made when a step first needs them, as the real optimizers do."""

    def __init__(self, job: TrainJob, bound: Bound, parameters: Sequence[Sym]) -> None:
        self.rule: Any = import_module(f"oomph.optimizers.{KINDS[job.optimizer].rule}")
        self.settings = replace(
            named(job.optimizer, job.implementation),
            embedding_32bit=job.embedding_32bit,
            embeddings=frozenset(one.storage.ordinal for one in embeddings(bound)),
            targets={one.storage.ordinal for one in matrices(bound, KINDS[job.optimizer].targets)},
            rank=KINDS[job.optimizer].rank or job.optim_rank,
            update_projection=job.update_projection,
            steady=job.steady,
            head_numel=head_numel(bound),
            denominators_apart=job.denominators_apart,
            scales={id(one.weight): (one.scales, one.zeros) for one in int8_maps(bound)},
        )
        if KINDS[job.optimizer].targets and not self.settings.targets:
            raise UnsupportedError(f"{job.optimizer} finds no matrices in this model.", "Choose another optimizer.")
        self.parameters = list(parameters)  # by groups, as zero_grad goes through them
        if self.settings.targets:
            self.parameters.sort(key=lambda one: self.settings.is_target(one) == (self.rule.TARGETS == "last"))
        if least := getattr(self.rule, "MIN_ON_HOST", 0):
            self.parameters.sort(key=lambda one: yes(product(one.shape) < least))
        self.states: list[State] = [[] for _ in parameters]
        self.remembered: list[State] = []  # of parameters that trained once
        self.stepped = False
        # In backward every parameter has an optimizer of its own, which shares nothing with the others.
        self.one_each = job.optimizer_in_backward
        self._places = {one.storage.ordinal: at for at, one in enumerate(self.parameters)}
        self.makes_at_once = self.rule.STATES == "made"
        if self.makes_at_once:
            self.make_states()

    def make_states(self) -> None:
        """Allocate what a step leaves for every parameter that trains."""
        for one, states in zip(self.parameters, self.states, strict=True):
            self._make_states(one, states)
            _name(one, states)
        self.stepped = True

    def small_gradient(self, parameter: Sym) -> tuple[Size, ...] | None:
        """Return the shape of the gradient that a step puts in the place of a parameter's own; None if it does not."""
        if not getattr(self.rule, "LEAVES_SMALL", False) or not self.settings.is_target(parameter):
            return None
        return low_rank(parameter, rank_of(self.settings, parameter))

    def remember(self, parameters: Sequence[Sym]) -> None:
        """Allocate what earlier steps left for parameters that trained then and do not now."""
        for one in parameters:
            self.remembered.append(self.rule.state(self._own() if self.one_each else self.settings, one))
            _name(one, self.remembered[-1])

    def _make_states(self, parameter: Sym, states: State) -> None:
        if not states:
            states += self.rule.state(self._own() if self.one_each else self.settings, parameter)

    def _own(self) -> Settings:
        return replace(self.settings, shared={})

    def updates(self, leaf: Sym) -> bool:
        """Tell whether a leaf is one of the parameters."""
        return leaf.storage.ordinal in self._places

    def step_one(self, parameter: Sym) -> None:
        """Play one update of one parameter, as a hook does that runs when its gradient is complete."""
        at = self._places[parameter.storage.ordinal]
        states = self.states[at]
        first = not states
        if first and self.rule.STATES == "before":
            self._make_states(parameter, states)
        self.rule.step(self._own(), [parameter], [states])
        if first and self.rule.STATES == "after":
            self._make_states(parameter, states)
        self._places[parameter.storage.ordinal] = at  # which is another one where a step copies the parameter
        _name(parameter, states)

    @property
    def fuses_backward(self) -> bool:
        """Tell whether a backward pass is the optimizer's own, which updates parameters while others get gradients."""
        return hasattr(self.rule, "fused_backward")

    def backward(self, loss: Sym) -> None:
        """Play the backward pass."""
        if self.fuses_backward:
            self.rule.fused_backward(self.settings, loss, self.step_complete)
        else:
            backward(loss)

    def step_complete(self) -> None:
        """Play the update of every parameter that has a gradient."""
        there = [at for at, one in enumerate(self.parameters) if one.grad is not None]
        self.rule.step(self.settings, [self.parameters[at] for at in there], [self.states[at] for at in there])

    def step(self) -> None:
        """Play one update of all parameters."""
        mark = self.parameters[0].tape.recorder.mark
        first, self.stepped = not self.stepped, True
        if first and self.rule.STATES == "before":
            mark("optimizer states")
            self.make_states()
        mark("optimizer step")
        self.rule.step(self.settings, self.parameters, self.states)
        if first and self.rule.STATES == "after":
            mark("optimizer states")
            self.make_states()
        for one, states in zip(self.parameters, self.states, strict=True):
            _name(one, states)


def _name(parameter: Sym, states: State) -> None:
    """Say whose states these are."""
    for state in states:
        parameter.tape.recorder.name(state.storage.ordinal, parameter.made_for, "optimizer state")


def embeddings(bound: Bound) -> list[Sym]:
    """Return the tables of all embeddings below a block."""
    found: list[Sym] = []
    for part in bound.parts.values():
        if isinstance(part, Bound):
            if isinstance(part.block, Embedding):
                found += part.parameters()
            else:
                found += embeddings(part)
    return found


def head_numel(bound: Bound) -> Size:
    """Return how many elements of queries' weights belong to a head of the first attention below a block; 1 of none."""
    if hasattr(bound.block, "num_heads") and hasattr(bound.block, "hidden_size"):
        return bound.block.hidden_size * bound.block.hidden_size // bound.block.num_heads
    below = (head_numel(part) for part in bound.parts.values() if isinstance(part, Bound))
    return next((found for found in below if not isinstance(found, int) or found > 1), 1)


def hidden_size(bound: Bound) -> Size:
    """Return how wide the first block below is that knows it; 0 if none does."""
    if hasattr(bound.block, "hidden_size"):
        found: Size = bound.block.hidden_size
        return found
    below = (hidden_size(part) for part in bound.parts.values() if isinstance(part, Bound))
    return next((found for found in below if not isinstance(found, int) or found), 0)


def matrices(bound: Bound, where: Targets) -> list[Sym]:
    """Return the weights of linear maps in attention and MLPs, as the HF Trainer finds them by nn.Linear ("linear"), or
    all matrices of the decoder layers ("hidden"); none for "".
    """
    found: list[Sym] = []
    for part in bound.parts.values() if where else ():
        if not isinstance(part, Bound):
            continue
        if not isinstance(part.block, Linear):
            found += matrices(part, where)
        elif "weight" not in part.parts:  # packed by a library whose map is no nn.Linear
            continue
        elif where == "hidden":
            found += [part.weight] if part.path.startswith(LAYERS) else []
        elif part.block.role == "linear" and ("attn" in part.path or "mlp" in part.path):
            found.append(part.weight)
    return found
