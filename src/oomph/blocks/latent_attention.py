"""Multi-head latent attention (MLA): keys and values are read from one small latent vector per token.

Shape letters: H hidden, N heads, Q query rank, R key/value rank, P head dim without position (nope),
O head dim with position (rope), V value head dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oomph.blocks.base import Block, Parts
from oomph.blocks.basic import Linear, Norm
from oomph.blocks.cached import Cached, TokenCache

if TYPE_CHECKING:
    from oomph.programs.cache import Cache
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


@dataclass(frozen=True)
class Indexer(Block):
    """DeepSeek Sparse Attention's scorer: picks the tokens a query attends to, with N small heads of its own.

    It reads the query latent (Q) and the hidden state (H), and caches one key of `head_dim` per token.
    Source: transformers 5.23, DeepseekV32Indexer.

    DeepSeek-V3.2: 1536·64·128 + 7168·128 + 2·128 + 7168·64 parameters in every layer.
    >>> from oomph.blocks.base import walk
    >>> sum(w.numel for w in walk(Indexer(7168, 1536, 64, 128)))
    13959424
    """

    hidden_size: int
    q_lora_rank: int
    num_heads: int
    head_dim: int

    @property
    def parts(self) -> Parts:
        """Query and key maps, the key's LayerNorm and the weights of the heads."""
        return {
            "wq_b": Linear(self.q_lora_rank, self.num_heads * self.head_dim),
            "wk": Linear(self.hidden_size, self.head_dim),
            "k_norm": Norm(self.head_dim, bias=True),
            "weights_proj": Linear(self.hidden_size, self.num_heads),
        }


@dataclass(frozen=True)
class LatentAttention(Block):
    """Queries N·(P + O) through rank Q (or directly, when Q is None), keys and values through rank R.

    Only the latent (R) and the shared rotary key (O) need be cached. `bias` is on the maps down and out.
    Source: transformers 5.23, DeepseekV3Attention.

    DeepSeek-V3: 7168·1536 + 1536 + 1536·128·192 + 7168·576 + 512 + 512·128·256 + 128·128·7168 parameters.
    >>> from oomph.blocks.base import walk
    >>> sum(w.numel for w in walk(LatentAttention(7168, 128, 1536, 512, 128, 64, 128)))
    187107328
    """

    hidden_size: int
    num_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    bias: bool = False
    indexer: Indexer | None = None
    dropout: float = 0.0
    rotary: str = "interleaved"  # neighbours are turned together; "halves": x and x + O/2; "complex": as numbers
    sliding_window: int | None = None
    position_scaled: bool = False  # queries grow with their position, which the tables bring along (Mistral 4)
    kind: str = "attention"

    @property
    def qk_head_dim(self) -> int:
        """Width of one head's query and key."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def parts(self) -> Parts:
        """Query maps (one, or down and up), latent maps, output map and the indexer."""
        hidden, heads, rank = self.hidden_size, self.num_heads, self.q_lora_rank
        queries = heads * self.qk_head_dim
        query: Parts = {"q_proj": Linear(hidden, queries)}
        if rank is not None:
            query = {
                "q_a_proj": Linear(hidden, rank, self.bias),
                "q_a_layernorm": Norm(rank),
                "q_b_proj": Linear(rank, queries),
            }
        return {
            **query,
            "kv_a_proj_with_mqa": Linear(hidden, self.kv_lora_rank + self.qk_rope_head_dim, self.bias),
            "kv_a_layernorm": Norm(self.kv_lora_rank),
            "kv_b_proj": Linear(self.kv_lora_rank, heads * (self.qk_nope_head_dim + self.v_head_dim)),
            "o_proj": Linear(heads * self.v_head_dim, hidden, self.bias),
            "indexer": self.indexer,
        }

    @property
    def cached(self) -> tuple[Cached, ...]:
        """The latent and the rotary key as one vector, and the indexer's key."""
        width = self.kv_lora_rank + self.qk_rope_head_dim
        index_dim = self.indexer.head_dim if self.indexer else 0
        return (TokenCache(1, width, 0, "latent", window=self.sliding_window, index_dim=index_dim),)

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        position_embeddings: Any,
        attention_mask: Sym | None,
        past_key_values: Cache | None = None,
        index: int = 0,
    ) -> tuple[Sym, Sym | None]:
        """Mirror DeepseekV3Attention.forward and DeepSeek-V2's; what is cached is the latent and the rotary key."""
        from oomph import ops

        batch, length = hidden_states.shape[:2]
        if m.q_lora_rank is None:
            q_states = m.q_proj(hidden_states)
        else:
            q_states = m.q_b_proj(m.q_a_layernorm(m.q_a_proj(hidden_states)))
        q_states = ops.transpose(ops.view(q_states, (batch, length, m.num_heads, m.qk_head_dim)), 1, 2)
        q_pass, q_rot = ops.split_sizes(q_states, (m.qk_nope_head_dim, m.qk_rope_head_dim))
        compressed_kv = m.kv_a_proj_with_mqa(hidden_states)
        kv_nope, k_rot = ops.split_sizes(compressed_kv, (m.kv_lora_rank, m.qk_rope_head_dim))
        kv_nope = m.kv_a_layernorm(kv_nope)
        kv_nope = ops.view(kv_nope, (batch, 1, length, m.kv_lora_rank))
        k_rot = ops.view(k_rot, (batch, 1, length, m.qk_rope_head_dim))
        if m.rotary == "complex":
            q_rot, k_rot = ops.apply_rotary_complex(q_rot, k_rot, position_embeddings)
        else:
            cos, sin = position_embeddings[:2]
            turn = ops.apply_rotary_interleaved if m.rotary == "interleaved" else ops.apply_rotary
            q_rot, k_rot = turn(q_rot, k_rot, cos, sin)
        if past_key_values is not None:
            kv_nope, k_rot = past_key_values.update(kv_nope, k_rot, index)
        query_states = ops.cat((q_pass, q_rot), -1)
        if m.position_scaled:
            query_states = query_states * ops.position_scales(position_embeddings[2], query_states.dtype)
        key_states, value_states = expand_kv(m, kv_nope, k_rot)
        attn_output, attn_weights = ops.attention(query_states, key_states, value_states, attention_mask, m.dropout)
        attn_output = ops.contiguous(ops.view(attn_output, (batch, length, m.num_heads * m.v_head_dim)))
        attn_output = m.o_proj(attn_output)
        if m.rotary == "complex" or m.position_scaled:  # DeepSeek-V2 and Mistral 4 name the normed latent last
            del q_states, q_pass, q_rot, compressed_kv, k_rot
        return attn_output, attn_weights


@dataclass(frozen=True)
class UnturnedLatentAttention(LatentAttention):
    """The same without positions: what would be turned is compared as it is (Kimi-Linear)."""

    @staticmethod
    def program(
        m: Bound,
        hidden_states: Sym,
        position_embeddings: Any,
        attention_mask: Sym | None,
        past_key_values: Cache | None = None,
        index: int = 0,
    ) -> tuple[Sym, Sym | None]:
        """Mirror KimiLinearAttention.forward."""
        from oomph import ops

        batch, length = hidden_states.shape[:2]
        if m.q_lora_rank is None:
            q_states = m.q_proj(hidden_states)
        else:
            q_states = m.q_b_proj(m.q_a_layernorm(m.q_a_proj(hidden_states)))
        query_states = ops.transpose(ops.view(q_states, (batch, length, m.num_heads, m.qk_head_dim)), 1, 2)
        compressed_kv = m.kv_a_proj_with_mqa(hidden_states)
        kv_nope, k_rot = ops.split_sizes(compressed_kv, (m.kv_lora_rank, m.qk_rope_head_dim))
        kv_nope = m.kv_a_layernorm(kv_nope)
        kv_nope = ops.view(kv_nope, (batch, 1, length, m.kv_lora_rank))
        k_rot = ops.view(k_rot, (batch, 1, length, m.qk_rope_head_dim))
        if past_key_values is not None:
            kv_nope, k_rot = past_key_values.update(kv_nope, k_rot, index)
        key_states, value_states = expand_kv(m, kv_nope, k_rot)
        attn_output, attn_weights = ops.attention(query_states, key_states, value_states, attention_mask, m.dropout)
        attn_output = ops.contiguous(ops.view(attn_output, (batch, length, m.num_heads * m.v_head_dim)))
        attn_output = m.o_proj(attn_output)
        return attn_output, attn_weights


def expand_kv(m: Bound, kv_nope: Sym, k_rot: Sym) -> tuple[Sym, Sym]:
    """Mirror DeepseekV3Attention.expand_kv: of latents [B, 1, T, ..] keys [B, N, T, P + O], values [B, N, T, V]."""
    from oomph import ops

    batch, _, length, _ = kv_nope.shape
    key_shape = (batch, length, m.num_heads, m.qk_nope_head_dim + m.v_head_dim)
    kv_nope = ops.transpose(ops.view(m.kv_b_proj(kv_nope), key_shape), 1, 2)
    k_nope, value_states = ops.split_sizes(kv_nope, (m.qk_nope_head_dim, m.v_head_dim))
    k_rot = ops.expand(k_rot, (batch, m.num_heads, length, m.qk_rope_head_dim))
    key_states = m.tape.empty((batch, m.num_heads, length, m.qk_head_dim), kv_nope.dtype, op="new_empty")
    key_states = ops.copy_into_slice(key_states, k_nope)
    key_states = ops.copy_into_slice(key_states, k_rot)
    return key_states, value_states
