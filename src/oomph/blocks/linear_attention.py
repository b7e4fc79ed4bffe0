"""Attention with a state of constant size: gated delta net, Kimi delta attention, lightning attention, RWKV-4.

Shape letters: H hidden, N heads (K key heads, V value heads), D head dim, R rank of a low-rank gate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Module, Part, Parts
from oomph.blocks.basic import Linear, Norm
from oomph.blocks.cached import Cached, StateCache
from oomph.blocks.mamba import depthwise
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.programs.cache import Cache
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

QKV = ("q", "k", "v")  # the streams of every kind of attention
WKV_STATES = 3  # of each of RWKV-4's channels: numerator, denominator, largest exponent


@dataclass(frozen=True)
class GatedDeltaNet(Block):
    """Queries and keys of K heads, values and output gate z of V heads, two scalars (b, a) per value head.

    A convolution runs over queries, keys and values together, `activation` follows it. `maps` says which of q, k, v, z,
    b, a each input map of the class holds, `order` in which it makes its modules. `negative`: eigenvalues may be,
    which doubles b. `decay_dtype` is that of A_log
    where the class sets one.

    Qwen3-Next: 2048·(2·2048 + 2·4096 + 2·32) + 8192·4 + 2·32 + 128 + 4096·2048 parameters.
    >>> from oomph.blocks.base import walk
    >>> sum(w.numel for w in walk(GatedDeltaNet(2048, 16, 32, 128, 128, 4)))
    33718464
    """

    hidden_size: int
    num_key_heads: int
    num_value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int
    maps: tuple[tuple[str, str], ...] = (("in_proj_qkvz", "qkvz"), ("in_proj_ba", "ba"))
    norm: str = "norm"
    out: str = "out_proj"
    activation: str = "silu"
    negative: bool = False
    decay_dtype: str | None = None
    order: tuple[str, ...] = ("conv", "maps", "norm", "out")
    kind: str = "linear_attention"

    @property
    def key_size(self) -> int:
        """Width of all keys, and of all queries."""
        return self.num_key_heads * self.key_head_dim

    @property
    def value_size(self) -> int:
        """Width of all values, and of the output gate."""
        return self.num_value_heads * self.value_head_dim

    @property
    def parts(self) -> Parts:
        """The convolution, the maps, time-step bias and decay per value head, the gated norm of one head."""
        return self._parts(None)

    @property
    def built_parts(self) -> Parts:
        """The same with the decay in the dtype that the class gives it."""
        return self._parts(self.decay_dtype)

    def _parts(self, decay_dtype: str | None) -> Parts:
        keys, values, heads = self.key_size, self.value_size, self.num_value_heads
        width = {"q": keys, "k": keys, "v": values, "z": values, "b": heads, "a": heads}
        modules: dict[str, Parts] = {
            "conv": {"conv1d": depthwise(2 * keys + values, self.conv_kernel, bias=False)},
            "maps": {name: Linear(self.hidden_size, sum(width[x] for x in inside)) for name, inside in self.maps},
            "norm": {self.norm: NormBeforeGate(self.value_head_dim)},
            "out": {self.out: Linear(values, self.hidden_size)},
        }
        bias, decay = ("dt_bias", Tensor((heads,), "bias")), ("A_log", Tensor((heads,), "param", decay_dtype))
        parts: dict[str, Part] = dict((decay, bias) if self.order[0] == "maps" else (bias, decay))
        for name in self.order:
            parts |= modules[name]
        return parts

    @property
    def cached(self) -> tuple[Cached, ...]:
        """What the convolution saw last, and a key by value matrix per value head."""
        state = (self.num_value_heads, self.key_head_dim, self.value_head_dim)
        return (StateCache("gated_delta_net", 2 * self.key_size + self.value_size, self.conv_kernel, state),)

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        cache_params: Cache | None = None,
        attention_mask: Sym | None = None,
        index: int = 0,
    ) -> Sym:
        """Mirror the class's forward: hidden_states [B, S, H] in and out, `index` of the layer in the cache."""
        from oomph.programs.delta_net import BY_MAPS

        return BY_MAPS[len(m.maps)](m, hidden_states, cache_params, attention_mask, index)


@dataclass(frozen=True)
class NormBeforeGate(Norm):
    """An RMSNorm of a head whose result is gated by a SiLU of something else."""

    @staticmethod
    def program(m: Bound, hidden_states: Sym, gate: Sym) -> Sym:  # type: ignore[override]
        """Mirror Qwen3NextRMSNormGated.forward: both [.., D]."""
        from oomph.programs.delta_net import gated_norm

        return gated_norm(m, hidden_states, gate)


@dataclass(frozen=True)
class SigmoidGatedNorm(Norm):
    """An RMSNorm of a head whose result is gated by a sigmoid of something else."""

    @staticmethod
    def program(m: Bound, hidden_states: Sym, gate: Sym) -> Sym:  # type: ignore[override]
        """Mirror KimiLinearRMSNormGated.forward: both [.., D]."""
        from oomph.programs.kimi_linear import gated_norm

        return gated_norm(m, hidden_states, gate)


@dataclass(frozen=True)
class KimiDeltaAttention(Block):
    """KDA: a delta net whose decay is a vector per head, made by a gate f; a second gate g on the output.

    Both gates are low-rank (through one head's width) or, with `low_rank` False, full maps (Ring, Ling). The
    checkpoints keep the convolutions of q, k and v apart; the class has them in one.

    Kimi-Linear-48B: 4·2304·4096 + 3·4096·4 + 2·(2304·128 + 128·4096) + 2304·32 + 4096 + 32 + 128 parameters.
    >>> from oomph.blocks.base import walk
    >>> sum(w.numel for w in walk(KimiDeltaAttention(2304, 32, 128, 4)))
    39514272
    """

    hidden_size: int
    num_heads: int
    head_dim: int
    conv_kernel: int
    low_rank: bool = True
    kind: str = "linear_attention"

    @property
    def width(self) -> int:
        """Width of queries, of keys, of values: all heads side by side."""
        return self.num_heads * self.head_dim

    def gate(self, name: str) -> Parts:
        """Return the maps of gate f or g."""
        if not self.low_rank:
            return {f"{name}_proj": Linear(self.hidden_size, self.width)}
        return {
            f"{name}_a_proj": Linear(self.hidden_size, self.head_dim),
            f"{name}_b_proj": Linear(self.head_dim, self.width),
        }

    @property
    def parts(self) -> Parts:
        """The three maps, the convolution, decay gate with its bias and A, beta, output gate, norm, map out."""
        hidden, width = self.hidden_size, self.width
        a_log = (1, 1, self.num_heads, 1) if self.low_rank else (self.num_heads,)
        return {
            **{f"{name}_proj": Linear(hidden, width) for name in QKV},
            "conv1d": depthwise(len(QKV) * width, self.conv_kernel, bias=False),
            **self.gate("f"),
            "dt_bias": Tensor((width,), "bias"),
            "A_log": Tensor(a_log, "param"),
            "b_proj": Linear(hidden, self.num_heads),
            **self.gate("g"),
            "o_norm": SigmoidGatedNorm(self.head_dim),
            "o_proj": Linear(width, hidden),
        }

    @property
    def built_parts(self) -> Parts:
        """The same with what makes the decay in a module of its own, where the class has one (Kimi-Linear)."""
        if not self.low_rank:
            return self.parts
        names = ("dt_bias", "A_log", *self.gate("f"))  # a module's own parameters come first
        parts: dict[str, Part] = {}
        for name, part in self.parts.items():
            if name == names[-1]:
                parts["forget_gate"] = Module({each: self.parts[each] for each in names})
            if name not in names:
                parts[name] = part
        return parts

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        cache_params: Cache | None = None,
        attention_mask: Sym | None = None,
        index: int = 0,
    ) -> Sym:
        """Mirror Kimi-Linear's class: hidden_states [B, S, H] in and out, `index` of the layer in the cache."""
        from oomph.programs.kimi_linear import delta_attention

        return delta_attention(m, hidden_states, cache_params, attention_mask, index)

    @property
    def cached(self) -> tuple[Cached, ...]:
        """What the convolutions saw last, and a key by value matrix per head."""
        state = (self.num_heads, self.head_dim, self.head_dim)
        return (StateCache("kda", len(QKV) * self.width, self.conv_kernel, state),)


@dataclass(frozen=True)
class LightningAttention(Block):
    """MiniMax's linear attention: fused q, k, v of N·D each, a norm, an output gate, a fixed decay per head.

    The decays of one block of `block_size` tokens are no parameters; transformers stores them as buffers, the
    original checkpoints do not: `block_size` is None for those.

    >>> from oomph.blocks.base import walk
    >>> sum(w.numel for w in walk(LightningAttention(6144, 64, 128)))
    251666432
    """

    hidden_size: int
    num_heads: int
    head_dim: int
    block_size: int | None = None
    activation: str = "silu"
    kind: str = "linear_attention"

    @property
    def parts(self) -> Parts:
        """Norm, maps, and the stored decays if any."""
        width, heads = self.num_heads * self.head_dim, self.num_heads
        return {
            "norm": Norm(width),
            "qkv_proj": Linear(self.hidden_size, len(QKV) * width),
            "out_proj": Linear(width, self.hidden_size),
            "output_gate": Linear(self.hidden_size, width),
            **(self.decays(heads, self.block_size) if self.block_size else {}),
        }

    @staticmethod
    def decays(heads: int, block: int) -> Parts:
        """Return the decay rate of each head, and its powers within a block of tokens."""
        return {
            "slope_rate": Tensor((heads, 1, 1), "bias buffer"),
            "query_decay": Tensor((heads, block, 1), "bias buffer"),
            "key_decay": Tensor((heads, block, 1), "bias buffer"),
            "diagonal_decay": Tensor((1, heads, block, block), "bias buffer"),
        }

    @property
    def cached(self) -> tuple[Cached, ...]:
        """A key by value matrix per head."""
        return (StateCache("lightning", state=(self.num_heads, self.head_dim, self.head_dim)),)


@dataclass(frozen=True)
class RwkvTimeMix(Block):
    """RWKV-4's attention: receptance, key and value of A each from mixes of this token and the last, out (A, H)."""

    hidden_size: int
    attention_size: int
    kind: str = "linear_attention"

    @property
    def parts(self) -> Parts:
        """Decay and first-token bonus per channel, the three mixes, the four maps."""
        hidden, width = self.hidden_size, self.attention_size
        mix = Tensor((1, 1, hidden), "param")
        return {
            "time_decay": Tensor((width,), "param"),
            "time_first": Tensor((width,), "param"),
            "time_mix_key": mix,
            "time_mix_value": mix,
            "time_mix_receptance": mix,
            "key": Linear(hidden, width),
            "value": Linear(hidden, width),
            "receptance": Linear(hidden, width),
            "output": Linear(width, hidden),
        }

    @property
    def cached(self) -> tuple[Cached, ...]:
        """The last token, and of each channel a weighted sum of values, its weights' sum and their largest exponent."""
        return (StateCache("rwkv", self.hidden_size, 2, (WKV_STATES, self.attention_size)),)


@dataclass(frozen=True)
class RwkvChannelMix(Block):
    """RWKV-4's feed-forward: receptance (H, H) gates value(relu(key)²); it too mixes in the last token."""

    hidden_size: int
    ffn_size: int
    kind: str = "mlp"

    @property
    def parts(self) -> Parts:
        """The two mixes and the three maps."""
        hidden, mix = self.hidden_size, Tensor((1, 1, self.hidden_size), "param")
        return {
            "time_mix_key": mix,
            "time_mix_receptance": mix,
            "key": Linear(hidden, self.ffn_size),
            "receptance": Linear(hidden, hidden),
            "value": Linear(self.ffn_size, hidden),
        }

    @property
    def cached(self) -> tuple[Cached, ...]:
        """The last token."""
        return (StateCache("rwkv", self.hidden_size, 2),)
