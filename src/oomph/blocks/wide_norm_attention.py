"""Attention whose norms on queries and keys span all heads at once (OLMoE)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from oomph.blocks.attention import Attention
from oomph.blocks.basic import Norm

if TYPE_CHECKING:
    from oomph.programs.cache import Cache
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


@dataclass(frozen=True)
class WideNormAttention(Attention):
    """Attention with one norm on the queries of all heads and one on the keys, before they are split into heads."""

    @classmethod
    def of(cls, attention: Attention, queries: int, keys: int) -> WideNormAttention:
        """Return an attention with norms of these widths."""
        values = {field.name: getattr(attention, field.name) for field in fields(Attention)}
        return cls(**{**values, "q_norm": Norm(queries), "k_norm": Norm(keys)})

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        position_embeddings: tuple[Sym, Sym],
        attention_mask: Sym | None,
        past_key_values: Cache | None = None,
        index: int = 0,
    ) -> tuple[Sym, Sym | None]:
        """Mirror OlmoeAttention.forward; arguments and results as in Attention.program."""
        from oomph import ops

        batch, length = hidden_states.shape[:2]
        key_shape = (batch, length, m.num_kv_heads, m.head_dim)
        query_states = m.q_norm(m.q_proj(hidden_states))
        key_states = m.k_norm(m.k_proj(hidden_states))
        value_states = m.v_proj(hidden_states)
        query_states = ops.transpose(ops.view(query_states, (batch, length, m.num_heads, m.head_dim)), 1, 2)
        key_states = ops.transpose(ops.view(key_states, key_shape), 1, 2)
        value_states = ops.transpose(ops.view(value_states, key_shape), 1, 2)
        cos, sin = position_embeddings
        query_states, key_states = ops.apply_rotary(query_states, key_states, cos, sin)
        if past_key_values is not None:
            key_states, value_states = past_key_values.update(key_states, value_states, index)
        attn_output, attn_weights = ops.attention(query_states, key_states, value_states, attention_mask, m.dropout)
        attn_output = ops.contiguous(ops.view(attn_output, (batch, length, m.num_heads * m.head_dim)))
        attn_output = m.o_proj(attn_output)
        return attn_output, attn_weights
