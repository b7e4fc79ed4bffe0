"""Attention that saves on keys and values: layers that reuse another's, and keys that serve as values.

Shape letters: B batch, S sequence, H hidden, N query heads, K key/value heads, D head dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Parts
from oomph.blocks.basic import BareNorm, Linear, Norm
from oomph.blocks.cached import Cached, TokenCache

if TYPE_CHECKING:
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

VALUE_NORM = BareNorm("rms by power bare")
NORMS_FIRST = ("q_proj", "q_norm", "k_norm", "v_norm", "k_proj", "v_proj", "o_proj")
MAPS_FIRST = ("q_proj", "q_norm", "k_proj", "v_proj", "k_norm", "v_norm", "o_proj")


@dataclass(frozen=True)
class StoringAttention(Attention):
    """Attention with a norm on values, whose keys and values later layers reuse if it `stores` them.

    `values_last`: values are made after keys are turned (Gemma 3n).
    """

    stores: bool = False
    values_last: bool = False

    @property
    def parts(self) -> Parts:
        """Input maps and norms in the order of the class, that of values without parameters; the output map."""
        parts = {**super().parts, "v_norm": VALUE_NORM}
        return {name: parts[name] for name in (MAPS_FIRST if self.values_last else NORMS_FIRST)}

    @staticmethod
    def program(m: Bound, *arguments: Any) -> tuple[Sym, Sym | None]:
        """Mirror Gemma4TextAttention.forward, or Gemma3nTextAttention's."""
        from oomph.programs.shared_kv import attention

        return attention(m, *arguments)


@dataclass(frozen=True)
class SharedKVAttention(Block):
    """Queries and output map only: keys and values are those of an earlier layer (Gemma 3n, Gemma 4).

    It caches nothing of its own. `sliding_window` is how many tokens a query sees, None all, `dropout` the rate on the
    attention weights.
    """

    hidden_size: int
    num_heads: int
    head_dim: int
    bias: bool = False
    q_norm: Norm | None = None
    sliding_window: int | None = None
    dropout: float = 0.0
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

    @staticmethod
    def program(m: Bound, *arguments: Any) -> tuple[Sym, Sym | None]:
        """Mirror Gemma4TextAttention.forward."""
        from oomph.programs.shared_kv import attention

        return attention(m, *arguments)


@dataclass(frozen=True)
class KeyAsValueAttention(Block):
    """One map for keys and values, K·D wide (Gemma 4's `attention_k_eq_v`): values are the keys before rotation.

    Both are cached, since keys are rotated. `stores`: later layers reuse them; `dropout` is the rate on the weights.
    """

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    bias: bool = False
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    stores: bool = False
    dropout: float = 0.0
    sliding_window: None = None
    values_last: bool = False
    kind: str = "attention"

    @property
    def parts(self) -> Parts:
        """Query map, key map, norms, output map."""
        attended = self.num_heads * self.head_dim
        return {
            "q_proj": Linear(self.hidden_size, attended, self.bias),
            "q_norm": self.q_norm,
            "k_norm": self.k_norm,
            "v_norm": VALUE_NORM,
            "k_proj": Linear(self.hidden_size, self.num_kv_heads * self.head_dim, self.bias),
            "o_proj": Linear(attended, self.hidden_size, self.bias),
        }

    @staticmethod
    def program(m: Bound, *arguments: Any) -> tuple[Sym, Sym | None]:
        """Mirror Gemma4TextAttention.forward."""
        from oomph.programs.shared_kv import attention

        return attention(m, *arguments)

    @property
    def cached(self) -> tuple[Cached, ...]:
        """Keys, and the same before rotation as values."""
        return (TokenCache(self.num_kv_heads, self.head_dim, self.head_dim),)
