"""Optimizers that are not one object with parameters, states and a step, for a job that asks for these."""

from __future__ import annotations

from typing import Any


class Several:
    """Optimizers that step one after another, as one."""

    def __init__(self, each: list[Any]) -> None:
        self.each = each
        self.defaults = each[-1].defaults
        self.param_groups = [group for one in each for group in one.param_groups]

    @property
    def state(self) -> dict[Any, Any]:
        """The states of all parameters."""
        return {parameter: state for one in self.each for parameter, state in one.state.items()}

    def step(self) -> None:
        """Step each."""
        for one in self.each:
            one.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Free or fill all gradients."""
        for one in self.each:
            one.zero_grad(set_to_none=set_to_none)


class InBackward:
    """Optimizers of one parameter each, which hooks step; for who asks, an optimizer that has nothing left to do."""

    def __init__(self, own: dict[Any, Any]) -> None:
        self.own = own
        self.defaults = next(iter(own.values())).defaults
        self.param_groups = [group for each in own.values() for group in each.param_groups]

    @property
    def state(self) -> dict[Any, Any]:
        """The states of all parameters."""
        return {parameter: each.state.get(parameter, {}) for parameter, each in self.own.items()}

    def step(self) -> None:
        """Do nothing: every step is done."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: no gradient is left."""


class InFusedBackward:
    """LOMO for who asks for states and steps: its states are held by name, its backward pass makes the step."""

    def __init__(self, real: Any, learning_rate: float) -> None:
        self.real, self.learning_rate = real, learning_rate
        self.defaults, self.param_groups = real.defaults, real.param_groups
        found = ("exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq")
        self.state = {
            parameter: {key: getattr(real, key)[name] for key in found if name in getattr(real, key, {})}
            for name, parameter in real.model.named_parameters()
        }

    def fused_backward(self, loss: Any) -> None:
        """Run the backward pass and every update."""
        self.real.fused_backward(loss, self.learning_rate)

    def step(self) -> None:
        """Do nothing: every step is done."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: no gradient is left."""


class Offloaded:
    """An offloaded optimizer for who asks for states: it has those of its part on the GPU."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.step, self.zero_grad = real.step, real.zero_grad
        self.defaults: dict[str, Any] = {"fused": True}
        self.param_groups = real.d_opt.param_groups if real.d_opt is not None else []
        self.state = real.d_opt.state if real.d_opt is not None else {}


class WithMasters:
    """BAdam's optimizer, all of whose parameters are one block, for who asks for the states of parameters."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.step, self.zero_grad, self.defaults = real.step, real.zero_grad, real.defaults

    @property
    def state(self) -> dict[Any, Any]:
        """The fp32 copy of each parameter and its states."""
        real = self.real
        pairs = ((real.param_idx2lp[at], real.param_idx2hp[at]) for at in real.param_idx2lp)
        return {one: {"master": copy, **real.base_optimizer.state.get(copy, {})} for one, copy in pairs}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameters themselves, in the order of the model."""
        return [{**self.real.base_optimizer.param_groups[0], "params": list(self.real.param_idx2lp.values())}]
