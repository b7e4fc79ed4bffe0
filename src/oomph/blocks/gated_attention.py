"""Attention whose output passes a learned gate read from the layer's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.attention import Attention, mapped_at_once
from oomph.blocks.base import Parts
from oomph.blocks.basic import Linear

if TYPE_CHECKING:
    from oomph.programs.cache import Cache
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


@dataclass(frozen=True)
class GatedAttention(Attention):
    """Grouped-query attention and a gate of `gate_size`: one value per head, or one per head and dimension.

    Unlike `gated` (Qwen3-Next), the gate is not part of the query map. `gate_style` names its program, the type whose
    class it mirrors. Source: transformers 5.23, models/afmoe (gate_proj, per dimension), models/laguna and
    models/step3p7 (g_proj, per head).
    """

    gate: str = "gate_proj"
    gate_size: int = 0
    gate_style: str = ""

    @property
    def parts(self) -> Parts:
        """The attention's parts and the gate's map."""
        return {**super().parts, self.gate: Linear(self.hidden_size, self.gate_size, role=self.role)}

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        position_embeddings: tuple[Sym, Sym],
        attention_mask: Sym | None,
        past_key_values: Cache | None = None,
        index: int = 0,
    ) -> tuple[Sym, Sym | None]:
        """Mirror the attention of its style's class; arguments and results as Attention's."""
        from oomph.programs.gated_attention import STYLES

        return STYLES[m.gate_style](m, hidden_states, position_embeddings, attention_mask, past_key_values, index)


@dataclass(frozen=True)
class QueryGatedAttention(Attention):
    """Grouped-query attention whose query map holds the gate too: for each head its queries, then as many gates."""

    gated: bool = True

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        position_embeddings: tuple[Sym, Sym],
        attention_mask: Sym | None,
        past_key_values: Cache | None = None,
        index: int = 0,
    ) -> tuple[Sym, Sym | None]:
        """Mirror Qwen3NextAttention.forward; arguments as Attention's."""
        from oomph import ops

        batch, length = hidden_states.shape[:2]
        size, attended = m.head_dim, m.num_heads * m.head_dim
        query_shape, key_shape = (batch, length, m.num_heads, size * 2), (batch, length, m.num_kv_heads, size)
        if not m.kernel:
            query_states, gate = ops.split(ops.view(m.q_proj(hidden_states), query_shape), size, 2)
        else:
            query_states, key_states, value_states = mapped_at_once(m, hidden_states)
            query_states, gate = ops.split(ops.view(query_states, query_shape), size, 2)
        gate = ops.view(gate, (batch, length, attended))
        query_states = ops.transpose(m.q_norm(ops.view(query_states, (batch, length, m.num_heads, size))), 1, 2)
        if m.kernel:
            key_states = ops.transpose(m.k_norm(ops.view(key_states, key_shape)), 1, 2)
            value_states = ops.transpose(ops.view(value_states, key_shape), 1, 2)
        else:
            key_states = ops.transpose(m.k_norm(ops.view(m.k_proj(hidden_states), key_shape)), 1, 2)
            value_states = ops.transpose(ops.view(m.v_proj(hidden_states), key_shape), 1, 2)
        cos, sin = position_embeddings
        query_states, key_states = ops.rotate(m.rotary, query_states, key_states, cos, sin)
        if past_key_values is not None:
            key_states, value_states = past_key_values.update(key_states, value_states, index)
        attn_output, attn_weights = ops.attention(
            query_states, key_states, value_states, attention_mask, m.dropout, m.softcap
        )
        attn_output = ops.contiguous(ops.view(attn_output, (batch, length, attended)))
        attn_output = attn_output * ops.sigmoid(gate)
        attn_output = m.o_proj(attn_output)
        if m.kernel:  # where the gate's name is younger than theirs
            del query_states, key_states, value_states
        return attn_output, attn_weights
