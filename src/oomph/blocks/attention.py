"""Softmax attention: multi-head, grouped-query and multi-query.

Shape letters: H hidden, N query heads, K key/value heads, D head dim, V value head dim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oomph.blocks.base import Block, Parts
from oomph.blocks.basic import Linear
from oomph.blocks.cached import Cached, TokenCache
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
    weights, `resid_dropout` what follows the output map; `sliding_window` is how many tokens a query sees, None all.
    `norm_place` is where the norms stand (see PROJECTIONS): "heads" before heads are moved to the front, "turned"
    after, "whole" on all heads at once, "rotated" after the rotary embedding; "scaled keys": there are none, but keys
    are multiplied by a number. `out_first`: the output map is the
    class's first parameter, `out_apart`: what goes into it lives as long as what comes out.
    `rotary` names how positions are put in, "" not at all (see ops/rotary_kinds.py),
    `rotary_dim` in how many channels of a head, None all; `own_tables`: sliding and full layers have rotary tables of
    their own; `longrope`: frequencies are chosen anew in each forward pass; `dynamic`: they are made for so many
    positions, which each pass looks at. `softcap`: scores are bounded by a tanh.
    `clipped`: what a fused map makes is bounded.
    `kernel` names what computes all input maps at once, "" nothing does ("foak", "axolotl",
    "axolotl apart", where they stay PEFT's, or
    blocks/unsloth_attention.py).
    `position_scaled`: queries grow with their position, which the tables bring along (Ministral 3). `told_positions`:
    position ids are handed on to the kernel, of which flash-attn alone looks at them (not so in Granite 4).
    `sub_norm` is the norm of what goes into the output map (BitNet).
    `layout` is how a fused map lays out heads, where the class has several ways; `linear` what its maps are.

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
    norm_place: str = "heads"
    out_first: bool = False
    out_apart: bool = False
    rotary: str = "llama"
    rotary_dim: int | None = None
    own_tables: bool = False
    clipped: bool = False
    longrope: bool = False
    dynamic: int | None = None
    softcap: bool = False
    layout: str = ""
    sub_norm: Block | None = None
    position_scaled: bool = False
    told_positions: bool = True
    kernel: str = ""
    linear: type[Linear] = Linear
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
            name: self.linear(self.hidden_size, width, self.qkv_bias, self.role)
            for name, width in zip(self.qkv, widths, strict=True)
        }
        attended = self.num_heads * (self.v_head_dim or self.head_dim)
        out = {self.out: self.linear(attended, self.out_features or self.hidden_size, self.out_bias, self.role)}
        return {
            **(out | maps if self.out_first else maps | out),
            self.norms[0]: self.q_norm,
            self.norms[1]: self.k_norm,
            **({self.head_gate: Linear(self.hidden_size, self.num_heads)} if self.head_gate else {}),
            **({} if self.sub_norm is None else {"attn_sub_norm": self.sub_norm}),
            "resid_dropout": self.resid_dropout,
            "sinks": Tensor((self.num_heads,), "param") if self.sinks else None,
        }

    @property
    def cached(self) -> tuple[Cached, ...]:
        """Keys and values of every key/value head, of a window of tokens if there is one."""
        values = self.v_head_dim or self.head_dim
        return (TokenCache(self.num_kv_heads, self.head_dim, values, window=self.sliding_window),)

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        position_embeddings: Any,
        attention_mask: Sym | None,
        past_key_values: Cache | None = None,
        index: int = 0,
    ) -> tuple[Sym, Sym | None]:
        """Mirror LlamaAttention.forward and the likes of it; returns the output.

        hidden_states [B, S, H], cos and sin [1, S, D], `index` of the layer in the cache; the attention weights of the
        eager kernel die with the frame, and so does what a fused map made.
        """
        from oomph import ops

        batch, length = hidden_states.shape[:2]
        _qkv, query_states, key_states, value_states = projected(m, hidden_states)

        if m.rotary:
            cos, sin = position_embeddings[:2]
            if m.rotary == "stablelm":
                turned, size = m.rotary_dim, m.head_dim
                query_rot, query_pass = ops.part(query_states, 0, turned), ops.part(query_states, turned, size)
                key_rot, key_pass = ops.part(key_states, 0, turned), ops.part(key_states, turned, size)
                query_rot, key_rot = ops.apply_rotary(query_rot, key_rot, cos, sin)
                query_states = ops.joined((query_rot, query_pass))
                key_states = ops.joined((key_rot, key_pass))
            else:
                query_states, key_states = ops.rotate(m.rotary, query_states, key_states, cos, sin)
        if m.position_scaled:
            query_states = query_states * ops.position_scales(position_embeddings[2], query_states.dtype)
        if m.norm_place == "rotated":
            query_states = m[m.norms[0]](query_states)
            key_states = m[m.norms[1]](key_states)

        if past_key_values is not None:
            key_states, value_states = past_key_values.update(key_states, value_states, index)

        attn_output, attn_weights = ops.attention(
            query_states, key_states, value_states, attention_mask, m.dropout, m.softcap, m.sliding_window,
            m.told_positions,
        )  # fmt: skip
        if m.head_gate:
            attn_output = attn_output * ops.unsqueeze(ops.sigmoid(m[m.head_gate](hidden_states)), 3)
        attn_output = ops.contiguous(ops.view(attn_output, (batch, length, m.num_heads * m.head_dim)))
        if m.sub_norm is not None:
            attn_output = m.attn_sub_norm(attn_output)
        if m.out_apart:
            output = m[m.out](attn_output)
            return output, attn_weights
        attn_output = m[m.out](attn_output)
        if m.resid_dropout is not None:
            attn_output = m.resid_dropout(attn_output)
        return attn_output, attn_weights


Projected = tuple["Sym | None", "Sym", "Sym", "Sym"]  # a fused map's result, if any, and q, k, v [B, N or K, S, D]


def projected(m: Bound, hidden_states: Sym) -> Projected:
    """Return queries, keys and values in the way that an attention takes to them."""
    return PROJECTIONS[_projection(m)](m, hidden_states)


def _projection(m: Bound) -> str:
    """Return which of the ways to q, k and v an attention takes."""
    if len(m.qkv) == 1:
        return "clipped" if m.clipped else "fused"
    if m.kernel:
        return str(m.kernel)
    return "plain" if m.norm_place == "heads" and m[m.norms[0]] is None else m.norm_place


def _plain(m: Bound, hidden_states: Sym) -> Projected:
    """Mirror LlamaAttention.forward."""
    from oomph import ops

    q_proj, k_proj, v_proj = (m[name] for name in m.qkv)
    query_shape, key_shape = _shapes(m, hidden_states)
    query_states = ops.transpose(ops.view(q_proj(hidden_states), query_shape), 1, 2)
    key_states = ops.transpose(ops.view(k_proj(hidden_states), key_shape), 1, 2)
    value_states = ops.transpose(ops.view(v_proj(hidden_states), key_shape), 1, 2)
    return None, query_states, key_states, value_states


def _adapters_at_once(m: Bound, hidden_states: Sym) -> Projected:
    """Mirror LlamaAttention.forward with maps whose first call computes all three, as fms-acceleration builds them."""
    from oomph import ops

    maps = [m[name] for name in m.qkv]
    query_shape, key_shape = _shapes(m, hidden_states)
    made = list(ops.dropped_lora_qkv(hidden_states, [one.block.adapted(one) for one in maps], maps[0].rate))
    query_states = ops.transpose(ops.view(made.pop(0), query_shape), 1, 2)
    key_states = ops.transpose(ops.view(made.pop(0), key_shape), 1, 2)
    value_states = ops.transpose(ops.view(made.pop(0), key_shape), 1, 2)
    return None, query_states, key_states, value_states


def mapped_at_once(m: Bound, hidden_states: Sym) -> tuple[Sym, ...]:
    """Mirror axolotl's apply_qkv: one operation where all three maps have adapters, else one map after the other."""
    from oomph import ops

    maps = [m[name] for name in m.qkv]
    if m.kernel != "axolotl" or not all(hasattr(one.block, "adapted") for one in maps):
        return tuple(one(hidden_states) for one in maps)
    dropped = maps[0].block.dropped(maps[0], hidden_states)
    return ops.adapted_qkv(hidden_states, dropped, [one.block.adapted(one) for one in maps])


def _all_first(m: Bound, hidden_states: Sym) -> Projected:
    """Mirror forwards of Llama, Qwen 3 or Gemma 3 as axolotl rewrites them: apply_qkv, then views and norms."""
    from oomph import ops

    query_shape, key_shape = _shapes(m, hidden_states)
    query_states, key_states, value_states = mapped_at_once(m, hidden_states)
    q_norm, k_norm = (m[name] for name in m.norms)
    of_heads = m.norm_place == "heads" and q_norm is not None
    query_states = ops.view(query_states, query_shape)
    query_states = ops.transpose(q_norm(query_states) if of_heads else query_states, 1, 2)
    key_states = ops.view(key_states, key_shape)
    key_states = ops.transpose(k_norm(key_states) if of_heads else key_states, 1, 2)
    value_states = ops.transpose(ops.view(value_states, key_shape), 1, 2)
    if m.norm_place == "turned":
        query_states = q_norm(query_states)
        key_states = k_norm(key_states)
    return None, query_states, key_states, value_states


def _scaled_keys(m: Bound, hidden_states: Sym) -> Projected:
    """Mirror FalconH1Attention.forward: keys are multiplied by a number."""
    from oomph import ops

    q_proj, k_proj, v_proj = (m[name] for name in m.qkv)
    query_shape, key_shape = _shapes(m, hidden_states)
    query_states = ops.transpose(ops.view(q_proj(hidden_states), query_shape), 1, 2)
    key_states = ops.transpose(ops.view(k_proj(hidden_states), key_shape), 1, 2) * 1.0
    value_states = ops.transpose(ops.view(v_proj(hidden_states), key_shape), 1, 2)
    return None, query_states, key_states, value_states


def _norm_of_heads(m: Bound, hidden_states: Sym) -> Projected:
    """Mirror Qwen3Attention.forward."""
    from oomph import ops

    q_proj, k_proj, v_proj = (m[name] for name in m.qkv)
    q_norm, k_norm = (m[name] for name in m.norms)
    query_shape, key_shape = _shapes(m, hidden_states)
    query_states = ops.transpose(q_norm(ops.view(q_proj(hidden_states), query_shape)), 1, 2)
    key_states = ops.transpose(k_norm(ops.view(k_proj(hidden_states), key_shape)), 1, 2)
    value_states = ops.transpose(ops.view(v_proj(hidden_states), key_shape), 1, 2)
    return None, query_states, key_states, value_states


def _norm_of_turned(m: Bound, hidden_states: Sym) -> Projected:
    """Mirror Gemma3Attention.forward."""
    q_norm, k_norm = (m[name] for name in m.norms)
    _, query_states, key_states, value_states = _plain(m, hidden_states)
    query_states = q_norm(query_states)
    key_states = k_norm(key_states)
    return None, query_states, key_states, value_states


def _norm_of_whole(m: Bound, hidden_states: Sym) -> Projected:
    """Mirror Olmo2Attention.forward, or OlmoAttention.forward, where all three maps come before anything else."""
    from oomph import ops

    q_proj, k_proj, v_proj = (m[name] for name in m.qkv)
    q_norm, k_norm = (m[name] for name in m.norms)
    query_shape, key_shape = _shapes(m, hidden_states)
    query_states = q_proj(hidden_states) if q_norm is None else q_norm(q_proj(hidden_states))
    key_states = k_proj(hidden_states) if k_norm is None else k_norm(k_proj(hidden_states))
    value_states = v_proj(hidden_states)
    query_states = ops.transpose(ops.view(query_states, query_shape), 1, 2)
    key_states = ops.transpose(ops.view(key_states, key_shape), 1, 2)
    value_states = ops.transpose(ops.view(value_states, key_shape), 1, 2)
    return None, query_states, key_states, value_states


def _norm_per_head(m: Bound, hidden_states: Sym) -> Projected:
    """Mirror StableLmAttention.forward."""
    from oomph import ops

    q_proj, k_proj, v_proj = (m[name] for name in m.qkv)
    q_norm, k_norm = (m[name] for name in m.norms)
    query_shape, key_shape = _shapes(m, hidden_states)
    query_states = q_proj(hidden_states)
    key_states = k_proj(hidden_states)
    value_states = v_proj(hidden_states)
    query_states = ops.transpose(ops.view(query_states, query_shape), 1, 2)
    key_states = ops.transpose(ops.view(key_states, key_shape), 1, 2)
    value_states = ops.transpose(ops.view(value_states, key_shape), 1, 2)
    if q_norm is not None:
        query_states = q_norm(query_states)
        key_states = k_norm(key_states)
    return None, query_states, key_states, value_states


def _norm_before_turning(m: Bound, hidden_states: Sym) -> Projected:
    """Mirror CohereAttention.forward with use_qk_norm: all three maps come before the norms."""
    from oomph import ops

    q_proj, k_proj, v_proj = (m[name] for name in m.qkv)
    q_norm, k_norm = (m[name] for name in m.norms)
    query_shape, key_shape = _shapes(m, hidden_states)
    query_states = ops.view(q_proj(hidden_states), query_shape)
    key_states = ops.view(k_proj(hidden_states), key_shape)
    value_states = ops.view(v_proj(hidden_states), key_shape)
    query_states = q_norm(query_states)
    key_states = k_norm(key_states)
    query_states = ops.transpose(query_states, 1, 2)
    key_states = ops.transpose(key_states, 1, 2)
    value_states = ops.transpose(value_states, 1, 2)
    return None, query_states, key_states, value_states


def _fused(m: Bound, hidden_states: Sym) -> Projected:
    """Mirror Phi3Attention.forward: q, k and v are views of one map's result."""
    from oomph import ops

    query_shape, key_shape = _shapes(m, hidden_states)
    qkv = m[m.qkv[0]](hidden_states)
    query_pos = m.num_heads * m.head_dim
    key_pos = query_pos + m.num_kv_heads * m.head_dim
    query_states = ops.part(qkv, 0, query_pos)
    key_states = ops.part(qkv, query_pos, key_pos)
    value_states = ops.part(qkv, key_pos, qkv.shape[-1])
    query_states = ops.transpose(ops.view(query_states, query_shape), 1, 2)
    key_states = ops.transpose(ops.view(key_states, key_shape), 1, 2)
    value_states = ops.transpose(ops.view(value_states, key_shape), 1, 2)
    return qkv, query_states, key_states, value_states


def _clipped(m: Bound, hidden_states: Sym) -> Projected:
    """Mirror DbrxAttention.forward: what one map makes is bounded, then split."""
    from oomph import ops

    query_shape, key_shape = _shapes(m, hidden_states)
    qkv_states = m[m.qkv[0]](hidden_states)
    qkv_states = ops.clamp_both(qkv_states)
    keys = m.num_kv_heads * m.head_dim
    query_states, key_states, value_states = ops.split_sizes(qkv_states, (m.num_heads * m.head_dim, keys, keys))
    query_states = ops.transpose(ops.view(query_states, query_shape), 1, 2)
    key_states = ops.transpose(ops.view(key_states, key_shape), 1, 2)
    value_states = ops.transpose(ops.view(value_states, key_shape), 1, 2)
    return qkv_states, query_states, key_states, value_states


def _shapes(m: Bound, hidden_states: Sym) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of queries and of keys, heads apart."""
    batch, length = hidden_states.shape[:2]
    return (batch, length, m.num_heads, m.head_dim), (batch, length, m.num_kv_heads, m.head_dim)


PROJECTIONS: dict[str, Callable[[Bound, Sym], Projected]] = {
    "plain": _plain,
    "rotated": _plain,
    "scaled keys": _scaled_keys,
    "heads": _norm_of_heads,
    "turned": _norm_of_turned,
    "whole": _norm_of_whole,
    "per head": _norm_per_head,
    "before turning": _norm_before_turning,
    "fused": _fused,
    "foak": _adapters_at_once,
    "axolotl": _all_first,
    "axolotl apart": _all_first,
    "clipped": _clipped,
}
