"""Feed-forward blocks: gated (SwiGLU, GeGLU) and plain (GELU, ReLU²). H hidden, F ffn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Parts
from oomph.blocks.basic import Linear
from oomph.tensor import Role

if TYPE_CHECKING:
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


@dataclass(frozen=True)
class GatedMLP(Block):
    """down(act(gate(x)) · up(x)): 3·H·F. `names` has three entries, or two when gate and up are fused.

    `dropout` is what follows the down map, `sub_norm` the norm of what goes into it (BitNet); `kernel` names the one
    that makes act(gate) · up at once, "" none; `granite` says that a fused map's result is cut as Granite cuts it;
    `down_second` that the class makes the down map before up.
    """

    hidden_size: int
    ffn_size: int
    bias: bool = False
    names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    activation: str = "silu"
    dropout: Block | None = None
    sub_norm: Block | None = None
    kernel: str = ""
    granite: bool = False
    down_second: bool = False
    role: Role = "linear"
    kind: str = "mlp"

    @property
    def parts(self) -> Parts:
        """Gate, up and down maps."""
        hidden, ffn = self.hidden_size, self.ffn_size
        *inner, down = self.names
        width = ffn * 2 // len(inner)
        maps = {name: Linear(hidden, width, self.bias, self.role) for name in inner}
        maps[down] = Linear(ffn, hidden, self.bias, self.role)
        if self.down_second:
            maps = {name: maps[name] for name in (inner[0], down, *inner[1:])}
        return {
            **maps,
            **({} if self.sub_norm is None else {"ffn_sub_norm": self.sub_norm}),
            **({} if self.dropout is None else {"dropout": self.dropout}),
        }

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror LlamaMLP.forward; where gate and up are one map, Phi3MLP.forward."""
        from oomph import ops

        if len(m.names) == 2:
            return _granite(m, x) if m.granite else _fused(m, x)
        gate, up, down = (m[name] for name in m.names)
        if m.kernel == "unsloth":
            adapted: Sym = ops.lora_mlp(x, *(one.block.adapted(one) for one in (gate, up, down)))
            return adapted
        if m.kernel == "axolotl":  # one dropout for gate and up, none for down
            adapters = [one.block.adapted(one) for one in (gate, up, down)]
            made: Sym = ops.adapted_mlp(x, gate.block.dropped(gate, x), *adapters)
            return made
        if m.kernel:
            fused: Sym = down(ops.liger_glu(m.kernel, gate(x), up(x)))
            return fused
        if m.sub_norm is not None:
            normed: Sym = down(m.ffn_sub_norm(ops.activate(m.activation, gate(x)) * up(x)))
            return normed
        down_proj: Sym = down(ops.activate(m.activation, gate(x)) * up(x))
        if m.dropout is not None:
            down_proj = m.dropout(down_proj)
        return down_proj


def _fused(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror Phi3MLP.forward: gate and up are views of one map's result."""
    from oomph import ops

    gate_up_proj, down_proj = (m[name] for name in m.names)
    up_states = gate_up_proj(hidden_states)
    gate, up_states = ops.split(up_states, m.ffn_size, 2)
    if m.kernel:
        fused: Sym = down_proj(ops.liger_glu(m.kernel, gate, up_states))
        return fused
    up_states = up_states * ops.activate(m.activation, gate)
    projected: Sym = down_proj(up_states)
    return projected


def _granite(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror GraniteMoeSharedMLP.forward: both halves are held to the end."""
    from oomph import ops

    input_linear, output_linear = (m[name] for name in m.names)
    hidden_states = input_linear(hidden_states)
    chunked_hidden_states = ops.split(hidden_states, m.ffn_size, 2)
    hidden_states = ops.activate(m.activation, chunked_hidden_states[0]) * chunked_hidden_states[1]
    hidden_states = output_linear(hidden_states)
    return hidden_states


@dataclass(frozen=True)
class HalvedMLP(GatedMLP):
    """The same with gate and up fused as Granite writes it: both halves live as long as the forward pass runs."""

    @staticmethod
    def program(m: Bound, hidden_states: Sym) -> Sym:
        """Mirror GraniteMoeHybridMLP.forward."""
        from oomph import ops

        input_linear, output_linear = (m[name] for name in m.names)
        hidden_states = input_linear(hidden_states)
        chunked_hidden_states = ops.split(hidden_states, m.ffn_size, 2)
        hidden_states = ops.activate(m.activation, chunked_hidden_states[0]) * chunked_hidden_states[1]
        hidden_states = output_linear(hidden_states)
        return hidden_states


@dataclass(frozen=True)
class BoundedMLP(GatedMLP):
    """The same with bounds: of gate and up before the activation, or, `bounds_last`, of the activated gate and of up.

    `bounds_last` is Step-3.7's form, the other DeepSeek-V4's.
    """

    bounds_last: bool = False

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror DeepseekV4MLP.forward or Step3p7MLP.forward."""
        from oomph import ops

        gate_proj, up_proj, down_proj = (m[name] for name in m.names)
        if m.bounds_last:
            gate = ops.clamp(ops.activate(m.activation, gate_proj(x)))
            up = ops.clamp_both(up_proj(x))
            last: Sym = down_proj(gate * up)
            return last
        gate = ops.clamp(gate_proj(x))
        up = ops.clamp_both(up_proj(x))
        projected: Sym = down_proj(ops.activate(m.activation, gate) * up)
        return projected


@dataclass(frozen=True)
class SwigluOaiMLP(GatedMLP):
    """MiniMax-M3's, gate and up fused: gpt-oss' activation, whose two are not interleaved."""

    @staticmethod
    def program(m: Bound, hidden_states: Sym) -> Sym:
        """Mirror MiniMaxM3VLDenseMLP.forward."""
        from oomph import ops

        gate_up_proj, down_proj = (m[name] for name in m.names)
        gate_up = gate_up_proj(hidden_states)
        gate, up = ops.split(gate_up, m.ffn_size, 2)
        gate = ops.clamp(gate)
        up = ops.clamp_both(up)
        glu = gate * ops.sigmoid(gate * 1.702)
        output: Sym = down_proj((up + 1.0) * glu)
        return output


@dataclass(frozen=True)
class SparseMLP(GatedMLP):
    """The same as Gemma 3n writes it, each step a variable; if `sparse`, all but the gate's largest values are zero."""

    sparse: bool = False

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror Gemma3nTextMLP.forward."""
        from oomph.programs.gemma3n import sparse_mlp

        return sparse_mlp(m, x)


@dataclass(frozen=True)
class MLP(Block):
    """down(act(up(x))): 2·H·F and, with `bias`, F + H."""

    hidden_size: int
    ffn_size: int
    bias: bool = False
    names: tuple[str, str] = ("up_proj", "down_proj")
    dropout: Block | None = None
    activation: str = "gelu_new"
    linear: type[Linear] = Linear
    role: Role = "linear"
    kind: str = "mlp"

    @property
    def parts(self) -> Parts:
        """Up and down maps."""
        up, down = self.names
        return {
            up: self.linear(self.hidden_size, self.ffn_size, self.bias, self.role),
            down: self.linear(self.ffn_size, self.hidden_size, self.bias, self.role),
            "dropout": self.dropout,
        }

    @staticmethod
    def program(m: Bound, hidden_states: Sym) -> Sym:
        """Mirror GPT2MLP.forward."""
        from oomph import ops

        up, down = (m[name] for name in m.names)
        hidden_states = up(hidden_states)
        hidden_states = ops.activate(m.activation, hidden_states)
        hidden_states = down(hidden_states)
        if m.dropout is not None:
            hidden_states = m.dropout(hidden_states)
        return hidden_states
