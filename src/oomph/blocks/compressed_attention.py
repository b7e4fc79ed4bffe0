"""DeepSeek-V4's attention: one key/value head, a window of plain tokens and compressed ones beyond it.

Shape letters: H hidden, N heads, D head dim, Q query rank, G output groups, O output rank, C compression rate,
I indexer head dim. Source: transformers 5.23, models/deepseek_v4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from oomph.blocks.base import Block, Parts
from oomph.blocks.basic import Fp32Norm, Linear
from oomph.blocks.cached import Cached, TokenCache
from oomph.errors import ConfigError
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


@dataclass(frozen=True)
class GroupedLinear(Linear):
    """A map for each group of inputs: their weights one below the other."""

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror DeepseekV4GroupedLinear.forward."""
        from oomph.programs.compressed_attention import grouped_linear

        return grouped_linear(m, x)


@dataclass(frozen=True)
class Compressor(Block):
    """Folds C tokens into one entry of D; `overlap` 2 keeps two halves so that neighbouring entries overlap.

    `rope_dim` channels of an entry are turned.
    """

    hidden_size: int
    head_dim: int
    rate: int
    overlap: int = 1
    indexer: CompressedIndexer | None = None
    rope_dim: int = 64

    @property
    def parts(self) -> Parts:
        """Value and gate maps, a bias per position in the window, the norm, and the indexer if any."""
        width = self.overlap * self.head_dim
        return {
            "kv_proj": Linear(self.hidden_size, width),
            "gate_proj": Linear(self.hidden_size, width),
            "position_bias": Tensor((self.rate, width), "param"),
            "kv_norm": Fp32Norm(self.head_dim),
            "indexer": self.indexer,
        }

    @property
    def built_parts(self) -> Parts:
        """The same, the bias first: a module's own parameters come before those of its children."""
        return _bias_first(self.parts)

    @staticmethod
    def program(m: Bound, *arguments: Any) -> tuple[Sym, Sym | None]:
        """Mirror DeepseekV4HCACompressor.forward or, with an indexer, DeepseekV4CSACompressor's."""
        from oomph.programs.compressed_attention import heavy_compressor, sparse_compressor

        return heavy_compressor(m, *arguments) if m.indexer is None else sparse_compressor(m, *arguments)


def _bias_first(parts: Parts) -> Parts:
    bias = Tensor(parts["position_bias"].shape, "param", "fp32")  # type: ignore[union-attr]
    return {"position_bias": bias, **{name: part for name, part in parts.items() if name != "position_bias"}}


@dataclass(frozen=True)
class Scorer(Block):
    """Weights of an indexer's heads, and the scores of entries that they make."""

    hidden_size: int
    num_heads: int

    @property
    def parts(self) -> Parts:
        """The map."""
        return {"weights_proj": Linear(self.hidden_size, self.num_heads)}

    @staticmethod
    def program(m: Bound, q: Sym, compressed_kv: Sym, hidden_states: Sym) -> Sym:
        """Mirror DeepseekV4IndexerScorer.forward."""
        from oomph.programs.compressed_attention import scorer

        return scorer(m, q, compressed_kv, hidden_states)


@dataclass(frozen=True)
class CompressedIndexer(Block):
    """Picks `top_k` compressed entries: its own overlapping compressor of I, queries from the query latent (Q)."""

    hidden_size: int
    q_lora_rank: int
    num_heads: int
    head_dim: int
    rate: int
    rope_dim: int = 64
    top_k: int = 512

    @property
    def parts(self) -> Parts:
        """Its compressor's parts, the query map and the weights of the heads."""
        return {
            **Compressor(self.hidden_size, self.head_dim, self.rate, overlap=2).parts,
            "q_b_proj": Linear(self.q_lora_rank, self.num_heads * self.head_dim),
            "scorer": Scorer(self.hidden_size, self.num_heads),
        }

    @property
    def built_parts(self) -> Parts:
        """The same, the bias first."""
        return _bias_first(self.parts)

    @staticmethod
    def program(m: Bound, *arguments: Any) -> Sym:
        """Mirror DeepseekV4Indexer.forward."""
        from oomph.programs.compressed_attention import indexer

        return indexer(m, *arguments)


@dataclass(frozen=True)
class CompressedAttention(Block):
    """Queries N·D through rank Q, one shared key-and-value of D, an output map in G groups through rank O.

    The cache holds D per token of the window and D per compressed entry, for keys and values alike. `compressor` is
    None in layers that see the window alone. `rope_dim` channels of a head are turned; `dropout` is the rate on the
    attention weights.
    """

    hidden_size: int
    num_heads: int
    head_dim: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    compressor: Compressor | None = None
    sliding_window: int | None = None
    rope_dim: int = 64
    dropout: float = 0.0
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
            "q_a_norm": Fp32Norm(rank),
            "q_b_proj": Linear(rank, attended),
            "kv_proj": Linear(hidden, self.head_dim),
            "kv_norm": Fp32Norm(self.head_dim),
            "o_a_proj": GroupedLinear(attended // self.o_groups, mixed),
            "o_b_proj": Linear(mixed, hidden),
            "sinks": Tensor((self.num_heads,), "param"),
            "compressor": self.compressor,
        }

    @property
    def built_parts(self) -> Parts:
        """The same, the sinks first and in fp32, as the class keeps them."""
        return {
            "sinks": Tensor((self.num_heads,), "param", "fp32"),
            **{k: v for k, v in self.parts.items() if k != "sinks"},
        }

    @staticmethod
    def program(m: Bound, *arguments: Any) -> tuple[Sym, Sym | None]:
        """Mirror DeepseekV4Attention.forward."""
        from oomph.programs.compressed_attention import attention

        return attention(m, *arguments)

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
