"""DeepSeek Sparse Attention: latent attention to the tokens that an indexer picks, which are a mask to its class.

Shape letters: B batch, S queries, T keys, N the indexer's heads, D their size. Source: transformers 5.23,
models/deepseek_v32/modeling_deepseek_v32.py, models/glm_moe_dsa/modeling_glm_moe_dsa.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oomph.blocks.latent_attention import Indexer, LatentAttention, expand_kv
from oomph.errors import UnsupportedError
from oomph.tape.sizes import Size, yes

if TYPE_CHECKING:
    from oomph.programs.cache import Cache
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


@dataclass(frozen=True)
class SparseIndexer(Indexer):
    """The scorer with its program: of every token's scores the `top_k` largest. `rotary` says how pairs are turned."""

    top_k: int = 2048
    rope_dim: int = 64
    rotary: str = "halves"

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        q_resid: Sym,
        position_embeddings: tuple[Sym, Sym],
        attention_mask: Sym,
        past_key_values: Cache | None,
        index: int,
    ) -> Sym:
        """Mirror DeepseekV32Indexer.forward, or GlmMoeDsaIndexer's: int32 [B, S, k], without gradient."""
        with m.tape.no_grad():
            return _picked(m, hidden_states, q_resid, position_embeddings, attention_mask, past_key_values, index)


def _picked(
    m: Bound,
    hidden_states: Sym,
    q_resid: Sym,
    position_embeddings: tuple[Sym, Sym],
    attention_mask: Sym,
    past_key_values: Any,
    index: int,
) -> Sym:
    from oomph import ops

    batch, length = hidden_states.shape[:2]
    rest = m.head_dim - m.rope_dim
    cos, sin = position_embeddings
    q = m.wq_b(q_resid)
    q = ops.view(q, (batch, length, m.num_heads, m.head_dim))
    q_rot, q_pass = ops.split_sizes(q, (m.rope_dim, rest))
    k = ops.unsqueeze(m.k_norm(m.wk(hidden_states)), 2)
    k_rot, k_pass = ops.split_sizes(k, (m.rope_dim, rest))
    turn = ops.apply_rotary_interleaved if m.rotary == "interleaved" else ops.apply_rotary
    q_rot, k_rot = turn(q_rot, k_rot, cos, sin, heads=2)
    q = ops.cat((q_rot, q_pass), -1)
    k = ops.view(ops.cat((k_rot, k_pass), -1), (batch, length, m.head_dim))
    if past_key_values is not None:
        k = past_key_values.layers[index].update_indexer(k)
    scores = ops.matmul(ops.cast(q, "fp32"), ops.unsqueeze(ops.cast(ops.transpose(k, 1, 2), "fp32"), 1)) * 1.0
    scores = ops.unary(scores, "relu")
    weight = getattr(m.weights_proj, "weight", None)
    if weight is None:
        raise UnsupportedError(
            "oomph does not know what an indexer makes of a packed weights_proj, whose dtype it asks for.",
            "Choose another --quantization: nf4, int8, an hqq- or a torchao- one.",
        )
    weights = ops.cast(m.weights_proj(ops.cast(hidden_states, weight.dtype)), "fp32") * 1.0
    index_scores = _without_row(ops.matmul(ops.unsqueeze(weights, 2), scores))
    if attention_mask.dtype == "bool":
        index_scores = ops.masked_fill(index_scores, ops.unary(attention_mask, "bitwise_not"))
    else:
        index_scores = index_scores + attention_mask
    return _largest(index_scores, m.top_k)


def _without_row(products: Sym) -> Sym:
    """Return [B, S, 1, T] as [B, S, T], a view."""
    from oomph import ops

    batch, length, _, keys = products.shape
    return ops.view(products, (batch, length, keys))


def _largest(index_scores: Sym, top_k: Size) -> Sym:
    """Mirror index_scores.topk(k).indices.to(torch.int32)."""
    from oomph import ops

    keys = index_scores.shape[-1]
    indices = ops.topk(index_scores, top_k if yes(top_k < keys) else keys)[1]
    return ops.cast(indices, "int32")


@dataclass(frozen=True)
class SparseLatentAttention(LatentAttention):
    """Latent attention to the picked tokens. `shares`: it hands on what was picked, by its own indexer or, without one,
    by that of an earlier layer (GLM-5.2).
    """

    shares: bool = False

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        position_embeddings: Any,
        attention_mask: Sym | None,
        past_key_values: Cache | None = None,
        index: int = 0,
        prev_topk_indices: Sym | None = None,
    ) -> Any:
        """Mirror DeepseekV32Attention.forward, or GlmMoeDsaAttention's: the output, the weights, and what was picked
        where it is shared.
        """
        from oomph import ops

        assert attention_mask is not None  # its class always makes one
        batch, length = hidden_states.shape[:2]
        q_resid = m.q_a_layernorm(m.q_a_proj(hidden_states))
        q_states = ops.transpose(ops.view(m.q_b_proj(q_resid), (batch, length, m.num_heads, m.qk_head_dim)), 1, 2)
        q_pass, q_rot = ops.split_sizes(q_states, (m.qk_nope_head_dim, m.qk_rope_head_dim))
        compressed_kv = m.kv_a_proj_with_mqa(hidden_states)
        kv_pass, k_rot = ops.split_sizes(compressed_kv, (m.kv_lora_rank, m.qk_rope_head_dim))
        k_pass = ops.view(m.kv_a_layernorm(kv_pass), (batch, 1, length, m.kv_lora_rank))
        k_rot = ops.view(k_rot, (batch, 1, length, m.qk_rope_head_dim))
        cos, sin = position_embeddings
        q_rot, k_rot = ops.apply_rotary_interleaved(q_rot, k_rot, cos, sin)
        if past_key_values is not None:
            k_pass, k_rot = past_key_values.update(k_pass, k_rot, index)
        query_states = ops.cat((q_pass, q_rot), -1)
        key_states, value_states = expand_kv(m, k_pass, k_rot)
        if m.indexer is None:
            topk_indices = prev_topk_indices
        else:
            topk_indices = m.indexer(
                hidden_states, q_resid, position_embeddings, ops.select(attention_mask, 1), past_key_values, index
            )
        assert topk_indices is not None  # the first layer has an indexer
        index_mask = not_picked(topk_indices, key_states.shape[2])
        attention_mask = without(attention_mask, index_mask)
        attn_output, attn_weights = ops.attention(query_states, key_states, value_states, attention_mask, m.dropout)
        attn_output = ops.contiguous(ops.view(attn_output, (batch, length, m.num_heads * m.v_head_dim)))
        attn_output = m.o_proj(attn_output)
        return (attn_output, attn_weights, topk_indices) if m.shares else (attn_output, attn_weights)


def not_picked(topk_indices: Sym, keys: Size) -> Sym:
    """Return where no picked key is: booleans [B, 1, S, T], ones in which the places of int32 [B, S, k] are cleared."""
    from oomph import ops

    tape, (batch, length, _) = topk_indices.tape, topk_indices.shape
    ones = tape.empty((batch, length, keys), "bool", op="new_ones")
    places = ops.as_int64(topk_indices)
    cleared = tape.empty((batch, length, keys), "bool", op="scatter")
    del ones, places
    return ops.unsqueeze(cleared, 1)


def without(attention_mask: Sym, index_mask: Sym) -> Sym:
    """Return a mask [B, 1, S, T] that lets no key through that was not picked."""
    from oomph import ops

    if attention_mask.dtype != "bool":
        return ops.masked_fill(attention_mask, index_mask)
    picked = ops.unary(index_mask, "bitwise_not")
    both = picked.tape.empty(picked.shape, "bool", op="bitwise_and")
    del picked
    return both
