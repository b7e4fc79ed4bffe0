"""Attention as Unsloth computes it: adapted input maps as one operation, heads normed and turned by one kernel."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from oomph.blocks.attention import Attention

if TYPE_CHECKING:
    from oomph.programs.cache import Cache
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


@dataclass(frozen=True)
class UnslothAttention(Attention):
    """The same parts with LlamaAttention_fast_forward, or Qwen3Attention_fast_forward where heads have norms.

    `positions` are those of the model, for which its rotary tables are made; `kernel` names what takes queries, keys
    and values together, as soon as all three maps have adapters.
    """

    positions: int = 0

    @staticmethod
    def of(block: Attention, positions: int) -> UnslothAttention:
        """Return an attention of a class that Unsloth patches."""
        return UnslothAttention(
            **{one.name: getattr(block, one.name) for one in fields(Attention)}, positions=positions
        )

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        position_embeddings: Any,
        attention_mask: Sym | None,
        past_key_values: Cache | None = None,
        index: int = 0,
    ) -> tuple[Sym, None]:
        """Return the output; queries, keys, values and what attention returned live to the end."""
        from oomph import ops

        batch, length = hidden_states.shape[:2]
        cos, sin, *ids = position_embeddings
        Q, K, V = _queries_keys_values(m, hidden_states)  # noqa: N806  the function's own names
        Q = ops.view(Q, (batch, length, m.num_heads, m.head_dim))  # noqa: N806
        K = ops.view(K, (batch, length, m.num_kv_heads, m.head_dim))  # noqa: N806
        V = ops.transpose(ops.view(V, (batch, length, m.num_kv_heads, m.head_dim)), 1, 2)  # noqa: N806
        if m[m.norms[0]] is None:
            Q, K = ops.transpose(Q, 1, 2), ops.transpose(K, 1, 2)  # noqa: N806
            turn = ops.rotary_of_packed if ids else partial(ops.rotate, "unsloth")
            Q, K = turn(Q, K, cos, sin, *ids)  # noqa: N806
        else:
            q_norm, k_norm = (m[name] for name in m.norms)
            Q, K = ops.normed_rotary(Q, K, q_norm.weight, k_norm.weight, cos, sin, *ids)  # noqa: N806
            Q, K = ops.transpose(Q, 1, 2), ops.transpose(K, 1, 2)  # noqa: N806
        A = _attended(m, Q, K, V)  # noqa: N806
        attn_output = ops.contiguous(ops.view(A, (batch, length, m.num_heads * m.head_dim)))
        attn_output = m[m.out](attn_output)
        return attn_output, None


def _attended(m: Bound, Q: Sym, K: Sym, V: Sym) -> Sym:  # noqa: N803
    """Mirror run_attention: flash-attn shares key heads, xformers (`efficient`) wants them repeated."""
    from oomph import ops

    if Q.tape.kernel == "efficient" and m.num_heads != m.num_kv_heads:
        K = _repeated(m, K)  # noqa: N806
        V = _repeated(m, V)  # noqa: N806
    return ops.attention(Q, K, V, None, m.dropout)[0]


def _repeated(m: Bound, x: Sym) -> Sym:
    """Return heads [B, K, S, D] repeated to [B, N, S, D], a copy that lies as [B, S, N, D]."""
    from oomph import ops

    x = ops.transpose(x, 1, 2)
    batch, length, heads, size = x.shape
    x = ops.expand(ops.unsqueeze(x, 3), (batch, length, heads, m.num_heads // m.num_kv_heads, size))
    return ops.transpose(ops.view(x, (batch, length, m.num_heads, size)), 1, 2)


def _queries_keys_values(m: Bound, hidden_states: Sym) -> tuple[Sym, ...]:
    """Mirror apply_lora_qkv, or original_apply_qkv where not all three maps have adapters."""
    from oomph import ops

    maps = [m[name] for name in m.qkv]
    if m.kernel:
        return ops.lora_qkv(hidden_states, [one.block.adapted(one) for one in maps])
    return tuple(one(hidden_states) for one in maps)
