"""Attention that saves on keys and values: layers that reuse another's, and keys that serve as values.

Shape letters: H hidden, N query heads, K key/value heads, D head dim.
"""

from __future__ import annotations

from dataclasses import dataclass

from oomph.blocks.base import Block, Parts
from oomph.blocks.basic import Linear, Norm
from oomph.blocks.cached import Cached, TokenCache


@dataclass(frozen=True)
class SharedKVAttention(Block):
    """Queries and output map only: keys and values are those of an earlier layer (Gemma 3n, Gemma 4).

    It caches nothing of its own.
    """

    hidden_size: int
    num_heads: int
    head_dim: int
    bias: bool = False
    q_norm: Norm | None = None
    kind: str = "attention"

    @property
    def parts(self) -> Parts:
        """Query map, its norm, output map."""
        attended = self.num_heads * self.head_dim
        return {
            "q_proj": Linear(self.hidden_size, attended, self.bias),
            "q_norm": self.q_norm,
            "o_proj": Linear(attended, self.hidden_size, self.bias),
        }


@dataclass(frozen=True)
class KeyAsValueAttention(Block):
    """One map for keys and values, K·D wide (Gemma 4's `attention_k_eq_v`): values are the keys before rotation.

    Both are cached, since keys are rotated.
    """

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    bias: bool = False
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    kind: str = "attention"

    @property
    def parts(self) -> Parts:
        """Query map, key map, norms, output map."""
        attended = self.num_heads * self.head_dim
        return {
            "q_proj": Linear(self.hidden_size, attended, self.bias),
            "q_norm": self.q_norm,
            "k_norm": self.k_norm,
            "k_proj": Linear(self.hidden_size, self.num_kv_heads * self.head_dim, self.bias),
            "o_proj": Linear(attended, self.hidden_size, self.bias),
        }

    @property
    def cached(self) -> tuple[Cached, ...]:
        """Keys, and the same before rotation as values."""
        return (TokenCache(self.num_kv_heads, self.head_dim, self.head_dim),)
