"""Grouped-query attention over the blocks of tokens that an indexer picks (MiniMax-M3)."""

from __future__ import annotations

from dataclasses import dataclass

from oomph.blocks.attention import Attention
from oomph.blocks.base import Parts
from oomph.blocks.basic import Linear, Norm
from oomph.blocks.cached import Cached, TokenCache


@dataclass(frozen=True)
class IndexedAttention(Attention):
    """Attention and its indexer: `index_heads` queries and one cached key of `index_head_dim` per token.

    Names as MiniMax-M3's checkpoint spells them. Source: transformers 5.23, MiniMaxM3VLIndexer.
    """

    index_heads: int = 0
    index_head_dim: int = 0

    @property
    def parts(self) -> Parts:
        """The attention's parts, the indexer's query and key maps and their norms."""
        dim = self.index_head_dim
        return {
            **super().parts,
            "index_q_proj": Linear(self.hidden_size, self.index_heads * dim),
            "index_k_proj": Linear(self.hidden_size, dim),
            "index_q_norm": Norm(dim),
            "index_k_norm": Norm(dim),
        }

    @property
    def cached(self) -> tuple[Cached, ...]:
        """Keys and values, and the indexer's key."""
        values = self.v_head_dim or self.head_dim
        return (TokenCache(self.num_kv_heads, self.head_dim, values, index_dim=self.index_head_dim),)
