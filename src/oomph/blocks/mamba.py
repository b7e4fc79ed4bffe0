"""State-space mixers: Mamba-1 (selective scan) and Mamba-2 (state-space duality).

Shape letters: H hidden, I inner width, N state size, K convolution kernel, R time-step rank; Mamba-2 also has
P heads of D = I / P each and G groups that share B and C.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Module, Part, Parts
from oomph.blocks.basic import BareNorm, Conv, Linear, Norm
from oomph.blocks.cached import Cached, StateCache
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.programs.cache import Cache
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


def depthwise(channels: int, kernel: int, bias: bool) -> Conv:
    """Return the causal convolution over time that every channel has for itself: weight (channels, 1, kernel)."""
    return Conv(channels, channels, (kernel,), groups=channels, bias=bias)


@dataclass(frozen=True)
class Mamba(Block):
    """Mamba-1: in (H, 2·I), a convolution, x_proj (I, R + 2·N) for dt, B and C, dt_proj (R, I), out (I, H).

    `inner_norms` are the norms on dt, B and C: "weighted" (Jamba), "bare" (Falcon-Mamba, whose class keeps scales that
    it does not use), "" none. `activation` is what follows the convolution.

    One layer of mamba-130m, norm apart:
    >>> from oomph.blocks.base import walk
    >>> sum(w.numel for w in walk(Mamba(768, 1536, 16, 4, 48)))
    3770880
    """

    hidden_size: int
    inner_size: int
    state_size: int
    conv_kernel: int
    time_step_rank: int
    bias: bool = False
    conv_bias: bool = True
    inner_norms: str = ""
    activation: str = "silu"
    kind: str = "mamba"

    @property
    def parts(self) -> Parts:
        """The maps, the convolution, and the state matrix A (I, N) with the skip D (I)."""
        inner, state, rank = self.inner_size, self.state_size, self.time_step_rank
        norms: dict[str, Part] = {}
        if self.inner_norms == "weighted":
            norms = {"dt_layernorm": Norm(rank), "b_layernorm": Norm(state), "c_layernorm": Norm(state)}
        if self.inner_norms == "bare":
            norms = {f"{name}_layernorm": BareNorm("rms bare") for name in ("dt", "b", "c")}
        return {
            "A_log": Tensor((inner, state), "param"),
            "D": Tensor((inner,), "param"),
            "conv1d": depthwise(inner, self.conv_kernel, self.conv_bias),
            "in_proj": Linear(self.hidden_size, 2 * inner, self.bias),
            "x_proj": Linear(inner, rank + 2 * state),
            "dt_proj": Linear(rank, inner, bias=True),
            "out_proj": Linear(inner, self.hidden_size, self.bias),
            **norms,
        }

    @property
    def cached(self) -> tuple[Cached, ...]:
        """What the convolution saw last, and N numbers per channel."""
        return (StateCache("mamba", self.inner_size, self.conv_kernel, (self.inner_size, self.state_size)),)

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        cache_params: Cache | None = None,
        attention_mask: Sym | None = None,
        index: int = 0,
    ) -> Sym:
        """Mirror MambaMixer.forward: hidden_states [B, S, H] in and out, `index` of the layer in the cache."""
        from oomph.programs.mamba1 import mixer

        return mixer(m, hidden_states, cache_params, attention_mask, index)


@dataclass(frozen=True)
class MultiHeadMamba(Block):
    """Zamba's Mamba-1: the selective maps cut into `num_heads` heads and kept as stacked bare parameters.

    >>> MultiHeadMamba(8, 16, 4, 4, 1, num_heads=2).parts["x_proj_weight"].shape
    (2, 9, 8)
    """

    hidden_size: int
    inner_size: int
    state_size: int
    conv_kernel: int
    time_step_rank: int
    num_heads: int
    bias: bool = False
    conv_bias: bool = True
    activation: str = "silu"
    kind: str = "mamba"

    @property
    def parts(self) -> Parts:
        """As Mamba-1, with a leading axis of heads on everything between the two big maps; A_log is loaded as fp32."""
        heads, width = self.num_heads, self.inner_size // self.num_heads
        state, rank = self.state_size, self.time_step_rank
        return {
            "x_proj_weight": Tensor((heads, rank + 2 * state, width), "param"),
            "dt_proj_weight": Tensor((heads, width, rank), "param"),
            "dt_proj_bias": Tensor((heads, width), "bias"),
            "A_log": Tensor((heads, width, state), "param", dtype="fp32"),
            "D": Tensor((heads, width), "param"),
            "conv1d": depthwise(self.inner_size, self.conv_kernel, self.conv_bias),
            "in_proj": Linear(self.hidden_size, 2 * self.inner_size, self.bias),
            "out_proj": Linear(self.inner_size, self.hidden_size, self.bias),
        }

    @property
    def cached(self) -> tuple[Cached, ...]:
        """As Mamba-1's, cut into heads."""
        state = (self.num_heads, self.inner_size // self.num_heads, self.state_size)
        return (StateCache("mamba", self.inner_size, self.conv_kernel, state),)

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        cache_params: Cache | None = None,
        attention_mask: Sym | None = None,
        index: int = 0,
    ) -> Sym:
        """Mirror ZambaMambaMixer.forward: hidden_states [B, S, H] in and out, `index` of the layer in the cache."""
        from oomph.programs.zamba import mixer

        return mixer(m, hidden_states, cache_params, attention_mask, index)


@dataclass(frozen=True)
class Mamba2(Block):
    """Mamba-2: one map in for gate, x, B, C and dt; a convolution over x, B and C; a gated norm; one map out.

    `gated_norm` is absent in most Falcon-H1 models, `norm_first` says that it comes before its gate. `chunk_size`: how
    many positions are computed as one matrix; `activation` is what follows the convolution.

    One mixer of Nemotron-H-8B, with its norm:
    >>> from oomph.blocks.base import walk
    >>> sum(w.numel for w in walk(Mamba2(4096, 128, 64, 128, 8, 4)))
    109635968
    """

    hidden_size: int
    num_heads: int
    head_dim: int
    state_size: int
    num_groups: int
    conv_kernel: int
    in_bias: bool = False
    out_bias: bool = False
    conv_bias: bool = True
    gated_norm: bool = True
    norm_first: bool = False
    chunk_size: int = 256
    activation: str = "silu"
    kind: str = "mamba"

    @property
    def inner_size(self) -> int:
        """Width of x and of the gate: all heads side by side."""
        return self.num_heads * self.head_dim

    @property
    def conv_size(self) -> int:
        """Channels the convolution sees: x, and B and C of every group."""
        return self.inner_size + 2 * self.num_groups * self.state_size

    @property
    def parts(self) -> Parts:
        """The maps, the convolution, one A, D and time-step bias per head, the gated norm."""
        per_head = (self.num_heads,)
        return {
            "dt_bias": Tensor(per_head, "bias"),
            "A_log": Tensor(per_head, "param"),
            "D": Tensor(per_head, "param"),
            "conv1d": depthwise(self.conv_size, self.conv_kernel, self.conv_bias),
            "in_proj": Linear(self.hidden_size, self.inner_size + self.conv_size + self.num_heads, self.in_bias),
            "norm": GatedNorm(self.inner_size, self.num_groups) if self.gated_norm else None,
            "out_proj": Linear(self.inner_size, self.hidden_size, self.out_bias),
        }

    @property
    def cached(self) -> tuple[Cached, ...]:
        """What the convolution saw last, and N numbers per channel of each head."""
        return (
            StateCache("mamba2", self.conv_size, self.conv_kernel, (self.num_heads, self.head_dim, self.state_size)),
        )

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        cache_params: Cache | None = None,
        attention_mask: Sym | None = None,
        index: int = 0,
    ) -> Sym:
        """Mirror Mamba2Mixer.forward: hidden_states [B, S, H] in and out, `index` of the layer in the cache."""
        from oomph.programs.mamba2 import mixer

        return mixer(m, hidden_states, cache_params, attention_mask, index)


@dataclass(frozen=True)
class GatedNorm(Block):
    """An RMSNorm of each of some groups of channels, after a gate: Mamba-2's."""

    size: int
    num_groups: int
    kind: str = "norm"

    @property
    def parts(self) -> Parts:
        """The scale."""
        return {"weight": Tensor((self.size,), "norm")}

    @staticmethod
    def program(m: Bound, hidden_states: Sym, gate: Sym) -> Sym:
        """Mirror MambaRMSNormGated.forward: both [B, S, I], the result in the first one's dtype times the scale's."""
        from oomph.programs.mamba2 import gated_norm

        return gated_norm(m, hidden_states, gate)


@dataclass(frozen=True, eq=False)
class MambaLayer(Module):
    """A norm and a mixer, nothing else; `residual_in_fp32`: what the layers add to is kept in fp32."""

    residual_in_fp32: bool = True
