"""Attention with a learned sink for each head: gpt-oss', eager or vLLM's flash-attn 3, and MiMo-V2-Flash's, eager."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from oomph.blocks.attention import Attention, projected
from oomph.blocks.base import Parts

if TYPE_CHECKING:
    from oomph.programs.cache import Cache
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


@dataclass(frozen=True)
class SinkAttention(Attention):
    """Attention whose softmax has one place more, a logit that is learned per head."""

    @classmethod
    def of(cls, attention: Attention, window: int | None) -> SinkAttention:
        """Return an attention with sinks and this window."""
        values = {field.name: getattr(attention, field.name) for field in fields(Attention)}
        return cls(**{**values, "sinks": True, "sliding_window": window})

    @property
    def built_parts(self) -> Parts:
        """The same, the sinks first: a module's own parameters come before those of its children."""
        parts = self.parts
        return {"sinks": parts["sinks"], **parts}

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        position_embeddings: tuple[Sym, Sym],
        attention_mask: Sym | None,
        past_key_values: Cache | None = None,
        index: int = 0,
    ) -> tuple[Sym, Sym | None]:
        """Mirror GptOssAttention.forward; arguments and results as in Attention.program."""
        from oomph import ops

        batch, length = hidden_states.shape[:2]
        _, query_states, key_states, value_states = projected(m, hidden_states)
        cos, sin = position_embeddings
        query_states, key_states = ops.apply_rotary_halves(query_states, key_states, cos, sin)
        if past_key_values is not None:
            key_states, value_states = past_key_values.update(key_states, value_states, index)
        attn_output, attn_weights = ops.sink_attention(
            query_states, key_states, value_states, m.parts["sinks"], attention_mask, m.dropout, m.sliding_window
        )
        attn_output = ops.contiguous(ops.view(attn_output, (batch, length, m.num_heads * m.head_dim)))
        attn_output = m.o_proj(attn_output)
        return attn_output, attn_weights


@dataclass(frozen=True)
class ShiftedAttention(Attention):
    """Attention whose scores are taken less the largest, in some layers with sinks; values are scaled and may be
    narrower than keys.
    """

    @property
    def built_parts(self) -> Parts:
        """The same, the sinks first: a module's own parameters come before those of its children."""
        parts = self.parts
        return {"sinks": parts["sinks"], **parts}

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        position_embeddings: tuple[Sym, Sym],
        attention_mask: Sym | None,
        past_key_values: Cache | None = None,
        index: int = 0,
    ) -> tuple[Sym, Sym | None]:
        """Mirror MiMoV2FlashAttention.forward; arguments and results as in Attention.program."""
        from oomph import ops

        input_shape, width = hidden_states.shape[:2], m.v_head_dim
        query_states = ops.view(m.q_proj(hidden_states), (*input_shape, m.num_heads, m.head_dim))
        query_states = ops.transpose(query_states, 1, 2)
        key_states = ops.view(m.k_proj(hidden_states), (*input_shape, m.num_kv_heads, m.head_dim))
        key_states = ops.transpose(key_states, 1, 2)
        value_states = (
            ops.transpose(ops.view(m.v_proj(hidden_states), (*input_shape, m.num_kv_heads, width)), 1, 2) * 1.0
        )
        cos, sin = position_embeddings
        query_states, key_states = ops.rotate(m.rotary, query_states, key_states, cos, sin)
        if past_key_values is not None:
            key_states, value_states = past_key_values.update(key_states, value_states, index)
        attn_output, attn_weights = ops.shifted_attention(
            query_states, key_states, value_states, m.parts["sinks"], attention_mask, m.dropout
        )
        attn_output = ops.contiguous(ops.view(attn_output, (*input_shape, m.num_heads * width)))
        attn_output = m.o_proj(attn_output)
        return attn_output, attn_weights
