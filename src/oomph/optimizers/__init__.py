"""Optimizers on the tape: the state a parameter gets, and the temporaries of a step. One file each.

A file holds `state(parameter, implementation)`, the tensors kept per parameter, and `step(parameters, states,
implementation)`, which allocates and frees what the real step does.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from oomph.tape.sym import Sym

OPTIMIZERS: dict[str, str] = {"adamw": "adamw", "sgd": "sgd", "sgd-momentum": "sgd"}

State = list[Sym]


class Optimizer:
    """The states of a model's parameters, made when a step first needs them, as torch.optim does."""

    def __init__(self, name: str, parameters: Sequence[Sym], implementation: str) -> None:
        self.name = name
        self.rule: Any = import_module(f"oomph.optimizers.{OPTIMIZERS[name]}")
        self.parameters = list(parameters)
        self.implementation = implementation
        self.states: list[State] = []

    def make_states(self) -> None:
        """Allocate the states of every parameter that trains."""
        if self.states:
            return
        for one in self.parameters:
            self.states.append(self.rule.state(self.name, one, self.implementation))
            for state in self.states[-1]:
                one.tape.recorder.name(state.storage.ordinal, one.made_for, "optimizer state")

    def step(self) -> None:
        """Play one update of all parameters."""
        mark = self.parameters[0].tape.recorder.mark
        first = not self.states
        if first and self.rule.STATES_FIRST:
            mark("optimizer states")
            self.make_states()
        mark("optimizer step")
        self.rule.step(self.name, self.parameters, self.states, self.implementation)
        if first and not self.rule.STATES_FIRST:
            mark("optimizer states")
            self.make_states()
