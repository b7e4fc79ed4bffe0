"""Llama 4's attention: pairs of channels turned as complex numbers, or not at all and queries scaled by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oomph.blocks.attention import Attention
from oomph.blocks.cached import Cached, TokenCache

if TYPE_CHECKING:
    from oomph.programs.cache import Cache
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


@dataclass(frozen=True)
class Llama4Attention(Attention):
    """Grouped-query attention; `tuned`: where nothing is turned, queries are scaled by their position."""

    tuned: bool = False

    @property
    def cached(self) -> tuple[Cached, ...]:
        """Keys and values; what stands for a window is a chunk here."""
        return (TokenCache(self.num_kv_heads, self.head_dim, self.head_dim, chunk=self.sliding_window),)

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        position_embeddings: Any,
        attention_mask: Sym | None,
        past_key_values: Cache | None = None,
        index: int = 0,
    ) -> tuple[Sym, Sym | None]:
        """Mirror Llama4TextAttention.forward: the output and the eager kernel's weights."""
        from oomph import ops

        batch, length = hidden_states.shape[:2]
        query_states = ops.view(m.q_proj(hidden_states), (batch, length, m.num_heads, m.head_dim))
        key_states = ops.view(m.k_proj(hidden_states), (batch, length, m.num_kv_heads, m.head_dim))
        value_states = ops.view(m.v_proj(hidden_states), (batch, length, m.num_kv_heads, m.head_dim))
        value_states = ops.transpose(value_states, 1, 2)
        if m.rotary:
            query_states, key_states = ops.apply_rotary_complex_heads(query_states, key_states, position_embeddings)
        if m.q_norm is not None:
            query_states = m.q_norm(query_states)
            key_states = m.q_norm(key_states)
        if m.tuned and not m.rotary:
            positions = ops.unary(m.tape.empty((length,), "int64", op="arange"), "add")
            attn_scales = _scales(positions)
            attn_scales = ops.expand(ops.view(attn_scales, (1, length, 1, 1)), (batch, length, 1, 1))
            query_states = ops.cast(query_states * attn_scales, query_states.dtype)
        query_states = ops.transpose(query_states, 1, 2)
        key_states = ops.transpose(key_states, 1, 2)
        if past_key_values is not None:
            key_states, value_states = past_key_values.update(key_states, value_states, index)
        attn_output, attn_weights = ops.attention_as_is(
            query_states, key_states, value_states, attention_mask, m.dropout
        )
        attn_output = ops.contiguous(ops.view(attn_output, (batch, length, m.num_heads * m.head_dim)))
        attn_output = m.o_proj(attn_output)
        return attn_output, attn_weights


def _scales(positions: Sym) -> Sym:
    """Mirror torch.log1p(torch.floor((positions.float() + 1.0) / floor_scale)) * attn_scale + 1.0, fp32 [S]."""
    from oomph import ops

    made = ops.cast(positions, "fp32")
    for op in ("add", "div", "floor", "log1p", "mul", "add"):
        made = ops.unary(made, op)
    return made
