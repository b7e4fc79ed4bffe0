"""Grouped-query attention over the blocks of tokens that an indexer picks (MiniMax-M3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Parts
from oomph.blocks.basic import Linear, Norm
from oomph.blocks.cached import Cached, TokenCache

if TYPE_CHECKING:
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


@dataclass(frozen=True)
class BlockIndexer(Block):
    """Scores blocks of `block_size` tokens; a query sees the `top_k` best and `local_blocks` before it."""

    hidden_size: int
    num_heads: int
    head_dim: int
    block_size: int
    top_k: int
    local_blocks: int
    norm: str = ""

    @property
    def parts(self) -> Parts:
        """Query and key maps, their norms."""
        norm = Norm(self.head_dim, style=self.norm)
        return {
            "q_proj": Linear(self.hidden_size, self.num_heads * self.head_dim),
            "k_proj": Linear(self.hidden_size, self.head_dim),
            "q_norm": norm,
            "k_norm": norm,
        }

    @staticmethod
    def program(m: Bound, *arguments: Any) -> Sym:
        """Mirror MiniMaxM3VLIndexer.forward."""
        from oomph.programs.block_indexer import indexer

        return indexer(m, *arguments)


@dataclass(frozen=True)
class IndexedAttention(Attention):
    """Attention and its indexer: `index_heads` queries and one cached key of `index_head_dim` per token.

    Names as MiniMax-M3's checkpoint spells them; its class keeps the indexer's parts in a module of their own. Source:
    transformers 5.23, MiniMaxM3VLIndexer.
    """

    index_heads: int = 0
    index_head_dim: int = 0
    block_size: int = 128
    top_k: int = 16
    local_blocks: int = 1
    norm: str = ""

    @property
    def indexer(self) -> BlockIndexer:
        """The indexer as the class builds it."""
        return BlockIndexer(
            self.hidden_size, self.index_heads, self.index_head_dim, self.block_size, self.top_k, self.local_blocks,
            self.norm,
        )  # fmt: skip

    @property
    def parts(self) -> Parts:
        """The attention's parts, the indexer's query and key maps and their norms."""
        return {**super().parts, **{f"index_{name}": part for name, part in self.indexer.parts.items()}}

    @property
    def built_parts(self) -> Parts:
        """The attention's parts and the indexer."""
        return {**super().parts, "indexer": self.indexer}

    @property
    def cached(self) -> tuple[Cached, ...]:
        """Keys and values, and the indexer's key."""
        values = self.v_head_dim or self.head_dim
        return (TokenCache(self.num_kv_heads, self.head_dim, values, index_dim=self.index_head_dim),)

    @staticmethod
    def program(m: Bound, *arguments: Any) -> tuple[Sym, Sym | None]:
        """Mirror MiniMaxM3VLAttention.forward of a layer with an indexer."""
        from oomph.programs.block_indexer import attention

        return attention(m, *arguments)
