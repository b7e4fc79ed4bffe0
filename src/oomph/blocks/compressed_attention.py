"""DeepSeek-V4's attention: one key/value head, a window of plain tokens and compressed ones beyond it.

Shape letters: H hidden, N heads, D head dim, Q query rank, G output groups, O output rank, C compression rate,
I indexer head dim. Source: transformers 5.23, models/deepseek_v4.
"""

from __future__ import annotations

from dataclasses import dataclass

from oomph.blocks.base import Block, Module, Parts
from oomph.blocks.basic import Linear, Norm
from oomph.blocks.cached import Cached, TokenCache
from oomph.errors import ConfigError
from oomph.tensor import Tensor


@dataclass(frozen=True)
class Compressor(Block):
    """Folds C tokens into one entry of D; `overlap` 2 keeps two halves so that neighbouring entries overlap."""

    hidden_size: int
    head_dim: int
    rate: int
    overlap: int = 1
    indexer: CompressedIndexer | None = None

    @property
    def parts(self) -> Parts:
        """Value and gate maps, a bias per position in the window, the norm, and the indexer if any."""
        width = self.overlap * self.head_dim
        return {
            "kv_proj": Linear(self.hidden_size, width),
            "gate_proj": Linear(self.hidden_size, width),
            "position_bias": Tensor((self.rate, width), "param"),
            "kv_norm": Norm(self.head_dim),
            "indexer": self.indexer,
        }


@dataclass(frozen=True)
class CompressedIndexer(Block):
    """Picks compressed entries: its own overlapping compressor of I, queries from the query latent (Q)."""

    hidden_size: int
    q_lora_rank: int
    num_heads: int
    head_dim: int
    rate: int

    @property
    def parts(self) -> Parts:
        """Its compressor's parts, the query map and the weights of the heads."""
        return {
            **Compressor(self.hidden_size, self.head_dim, self.rate, overlap=2).parts,
            "q_b_proj": Linear(self.q_lora_rank, self.num_heads * self.head_dim),
            "scorer": Module({"weights_proj": Linear(self.hidden_size, self.num_heads)}),
        }


@dataclass(frozen=True)
class CompressedAttention(Block):
    """Queries N·D through rank Q, one shared key-and-value of D, an output map in G groups through rank O.

    The cache holds D per token of the window and D per compressed entry, for keys and values alike. `compressor` is
    None in layers that see the window alone.
    """

    hidden_size: int
    num_heads: int
    head_dim: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    compressor: Compressor | None = None
    sliding_window: int | None = None
    kind: str = "attention"

    def __post_init__(self) -> None:
        if self.num_heads * self.head_dim % self.o_groups:
            raise ConfigError(
                f"{self.num_heads} heads of {self.head_dim} cannot be divided into {self.o_groups} output groups.",
                "Check num_attention_heads, head_dim and o_groups.",
            )

    @property
    def parts(self) -> Parts:
        """Query maps, the key/value map, the grouped output maps, the sinks and the compressor."""
        hidden, attended, rank = self.hidden_size, self.num_heads * self.head_dim, self.q_lora_rank
        mixed = self.o_groups * self.o_lora_rank
        return {
            "q_a_proj": Linear(hidden, rank),
            "q_a_norm": Norm(rank),
            "q_b_proj": Linear(rank, attended),
            "kv_proj": Linear(hidden, self.head_dim),
            "kv_norm": Norm(self.head_dim),
            "o_a_proj": Linear(attended // self.o_groups, mixed),
            "o_b_proj": Linear(mixed, hidden),
            "sinks": Tensor((self.num_heads,), "param"),
            "compressor": self.compressor,
        }

    @property
    def cached(self) -> tuple[Cached, ...]:
        """One vector per token of the window, and what the compressor makes of all tokens."""
        window = TokenCache(1, self.head_dim, 0, "latent", window=self.sliding_window)
        if self.compressor is None:
            return (window,)
        made, indexer = self.compressor, self.compressor.indexer
        index_dim = indexer.head_dim if indexer else 0
        entries = TokenCache(
            1, made.head_dim, 0, "compressed", index_dim=index_dim, ratio=made.rate, overlap=made.overlap
        )
        return window, entries
