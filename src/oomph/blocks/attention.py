"""Softmax attention: multi-head, grouped-query and multi-query.

Shape letters: H hidden, N query heads, K key/value heads, D head dim, V value head dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Parts
from oomph.blocks.basic import Linear
from oomph.errors import ConfigError
from oomph.tensor import Role, Tensor

if TYPE_CHECKING:
    from oomph.programs.cache import Cache
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


@dataclass(frozen=True)
class Attention(Block):
    """Queries N·D, keys K·D, values K·V wide, an output map back to H.

    `qkv` names the input maps as the class does: three names, or one for a fused map. `gated` doubles the
    query map (Qwen3-Next's output gate). `q_norm`/`k_norm` are the norms on queries and keys, if any;
    `sinks` is one learned logit per head (gpt-oss); `head_gate` names a map that gates the output of each head
    (LFM3); `out_features` is the output map's width where it is not H (Zamba). `dropout` is the rate on the attention
    weights, `resid_dropout` what follows the output map; `sliding_window` is how many tokens a query sees, None all;
    `rotary_dim` is how many of the D numbers of a head are turned, None all.

    Llama-3-8B: 4096·128·(32 + 2·8) + 32·128·4096 parameters.
    >>> from oomph.blocks.base import walk
    >>> sum(w.numel for w in walk(Attention(4096, 32, 8, 128)))
    41943040
    """

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    out: str = "o_proj"
    q_norm: Block | None = None
    k_norm: Block | None = None
    norms: tuple[str, str] = ("q_norm", "k_norm")
    gated: bool = False
    sinks: bool = False
    head_gate: str = ""
    out_features: int | None = None
    dropout: float = 0.0
    resid_dropout: Block | None = None
    sliding_window: int | None = None
    rotary_dim: int | None = None
    role: Role = "linear"
    kind: str = "attention"

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"{self.num_heads} attention heads cannot share {self.num_kv_heads} key/value heads evenly.",
                "Check num_attention_heads and num_key_value_heads.",
            )

    @property
    def parts(self) -> Parts:
        """The input maps (fused or not), norms, output map and sinks."""
        values = self.num_kv_heads * (self.v_head_dim or self.head_dim)
        widths = (
            self.num_heads * self.head_dim * (2 if self.gated else 1),
            self.num_kv_heads * self.head_dim,
            values,
        )
        if len(self.qkv) == 1:
            widths = (sum(widths),)  # type: ignore[assignment]
        maps = {
            name: Linear(self.hidden_size, width, self.qkv_bias, self.role)
            for name, width in zip(self.qkv, widths, strict=True)
        }
        attended = self.num_heads * (self.v_head_dim or self.head_dim)
        return {
            **maps,
            self.out: Linear(attended, self.out_features or self.hidden_size, self.out_bias, self.role),
            self.norms[0]: self.q_norm,
            self.norms[1]: self.k_norm,
            **({self.head_gate: Linear(self.hidden_size, self.num_heads)} if self.head_gate else {}),
            "resid_dropout": self.resid_dropout,
            "sinks": Tensor((self.num_heads,), "param") if self.sinks else None,
        }

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        position_embeddings: tuple[Sym, Sym],
        attention_mask: Sym | None,
        past_key_values: Cache | None = None,
        index: int = 0,
    ) -> tuple[Sym, Sym | None]:
        """Mirror LlamaAttention.forward, and Qwen3Attention.forward where there are norms; returns the output.

        hidden_states [B, S, H], cos and sin [1, S, D], `index` of the layer in the cache; the attention weights of the
        eager kernel die with the frame.
        """
        from oomph import ops

        batch, length = hidden_states.shape[:2]
        q_proj, k_proj, v_proj = (m[name] for name in m.qkv)
        q_norm, k_norm = (m[name] for name in m.norms)
        query_shape = (batch, length, m.num_heads, m.head_dim)
        key_shape = (batch, length, m.num_kv_heads, m.head_dim)
        if q_norm is not None:
            query_states = ops.transpose(q_norm(ops.view(q_proj(hidden_states), query_shape)), 1, 2)
            key_states = ops.transpose(k_norm(ops.view(k_proj(hidden_states), key_shape)), 1, 2)
        else:
            query_states = ops.transpose(ops.view(q_proj(hidden_states), query_shape), 1, 2)
            key_states = ops.transpose(ops.view(k_proj(hidden_states), key_shape), 1, 2)
        value_states = ops.transpose(ops.view(v_proj(hidden_states), key_shape), 1, 2)

        cos, sin = position_embeddings
        query_states, key_states = ops.apply_rotary(query_states, key_states, cos, sin)

        if past_key_values is not None:
            key_states, value_states = past_key_values.update(key_states, value_states, index)

        attn_output, attn_weights = ops.attention(query_states, key_states, value_states, attention_mask, m.dropout)
        attn_output = ops.contiguous(ops.view(attn_output, (batch, length, m.num_heads * m.head_dim)))
        attn_output = m[m.out](attn_output)
        return attn_output, attn_weights
