"""What encoders and encoder-decoders add: layers with two or three sublayers, and heads that fill in masks.

Shape letters: H hidden, F ffn, V vocab, E embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module, Part, Parts, Stack
from oomph.blocks.basic import Embedding, Head, Linear, Norm
from oomph.blocks.cached import Cached, TokenCache
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


@dataclass(frozen=True)
class RelativeAttention(Attention):
    """Attention with a learned bias per head for each of `buckets` distances (T5); 0 in layers that reuse it."""

    buckets: int = 0

    @property
    def parts(self) -> Parts:
        """The maps and, where it is stored, the table (buckets, N)."""
        table = Embedding(self.buckets, self.num_heads, kind="attention") if self.buckets else None
        return {**super().parts, "relative_attention_bias": table}


@dataclass(frozen=True)
class KeyBiaslessAttention(Attention):
    """Attention whose query, value and output maps have a bias, its key map none (Whisper)."""

    @property
    def parts(self) -> Parts:
        """The maps, that of keys, the first, without bias."""
        key = Linear(self.hidden_size, self.num_kv_heads * self.head_dim)
        return {**super().parts, self.qkv[0]: key}


@dataclass(frozen=True)
class CrossAttention(Attention):
    """Attention to what an encoder made, or to images."""

    @property
    def cached(self) -> tuple[Cached, ...]:
        """Keys and values of what is attended to."""
        return (cross_cache(self),)


def cross_cache(attention: Attention, source_tokens: int | None = None) -> TokenCache:
    """Return what an attention keeps of the tokens of an encoder."""
    heads, size = attention.num_kv_heads, attention.head_dim
    return TokenCache(heads, size, attention.v_head_dim or size, "cross", source_tokens=source_tokens)


@dataclass(frozen=True)
class UncachedAttention(Attention):
    """Attention that keeps nothing: an encoder's, which sees all tokens at once, and GPT-1's, whose class cannot."""

    @property
    def cached(self) -> tuple[Cached, ...]:
        """Nothing."""
        return ()


@dataclass(frozen=True)
class LocalAttention(UncachedAttention):
    """Attention that sees `window` tokens to either side where it `slides`, else all (ModernBERT).

    The class makes the window's mask whether a layer slides or not.
    """

    window: int = 0
    slides: bool = False


@dataclass(frozen=True)
class LayerNames:
    """Where a class keeps the sublayers of a layer. `mlp` is "" when its maps lie in the layer itself."""

    attention: str
    attention_norm: str
    mlp: str
    mlp_norm: str
    cross: str = ""
    cross_norm: str = ""


@dataclass(frozen=True, eq=False)
class EncoderLayer(Block):
    """Attention, perhaps attention to an encoder (`cross`), an MLP, and one `norm` for each of them.

    `pre_norm` says whether a norm stands before its sublayer (Whisper, T5) or after the sum (BERT, BART); `rate` is
    that of the dropout after each sublayer, `inner_rate` of that inside the MLP; `source_tokens` is what the encoder
    gives if that is always as much. One that `decodes` without an encoder keeps what its attention keeps.

    BERT-base: 4·(768² + 768) + 2·768·3072 + 3072 + 768 + 2·2·768 parameters.
    >>> from oomph.blocks.base import walk
    >>> from oomph.blocks.mlp import MLP
    >>> attention = Attention(768, 12, 12, 64, qkv_bias=True, out_bias=True)
    >>> names = LayerNames("attention", "norm1", "mlp", "norm2")
    >>> layer = EncoderLayer(attention, MLP(768, 3072, bias=True), Norm(768, bias=True), names)
    >>> sum(w.numel for w in walk(layer))
    7087872
    """

    attention: Attention
    mlp: Block
    norm: Norm
    names: LayerNames
    cross: Attention | None = None
    pre_norm: bool = False
    rate: float = 0.0
    inner_rate: float = 0.0
    source_tokens: int | None = None
    decodes: bool = False

    @property
    def cached(self) -> tuple[Cached, ...]:
        """Nothing in an encoder; in a decoder what both attentions keep."""
        if self.cross:
            return (*self.attention.cached, cross_cache(self.cross, self.source_tokens))
        return self.attention.cached if self.decodes else ()

    @property
    def parts(self) -> Parts:
        """Sublayers and their norms in the order they run."""
        names = self.names
        cross = {names.cross: self.cross, names.cross_norm: self.norm} if self.cross else {}
        return {
            names.attention: self.attention,
            names.attention_norm: self.norm,
            **cross,
            **({names.mlp: self.mlp} if names.mlp else inline(self.mlp)),
            names.mlp_norm: self.norm,
        }


@dataclass(frozen=True, eq=False)
class NormFirstLayer(EncoderLayer):
    """A layer whose class declares the norm behind its MLP before all else (ALBERT)."""

    @property
    def parts(self) -> Parts:
        """The last norm, then the sublayers in the order they run."""
        return {self.names.mlp_norm: self.norm, **super().parts}


@dataclass(frozen=True, eq=False)
class AttentionThirdLayer(EncoderLayer):
    """A layer whose class declares attention behind its norm and the MLP (Nomic-BERT)."""

    @property
    def parts(self) -> Parts:
        """Norm, MLP, attention, norm."""
        parts, names = super().parts, self.names
        return {name: parts[name] for name in (names.attention_norm, names.mlp, names.attention, names.mlp_norm)}


@dataclass(frozen=True, eq=False)
class SharedLayers(Block):
    """Layers that the states pass through `times` times, with the same weights (ALBERT)."""

    layers: Stack
    times: int

    @property
    def parts(self) -> Parts:
        """The layers, once."""
        return {"albert_layers": self.layers}


def inline(block: Block) -> dict[str, Part]:
    """Return the maps of a block whose class keeps them in the layer itself, still counted as the block."""
    return {name: _counted(part, block.kind) for name, part in block.parts.items()}


def _counted(part: Part, kind: str) -> Part:
    """Return a map that is counted as a block of another kind; a norm within a head is no norm of a layer."""
    if isinstance(part, Linear):
        return replace(part, kind=kind)
    return Module(part.parts, kind) if isinstance(part, Block) else part


@dataclass(frozen=True)
class PredictionHead(Block):
    """dense H→H, activation, norm: what ModernBERT's heads have in front of their last map.

    `pooling` says how a classifier comes by one state of a sequence: "cls", its first, or "mean"; "" none is needed.
    """

    hidden_size: int
    bias: bool = False
    norm_bias: bool = False
    activation: str = "gelu"
    pooling: str = ""
    kind: str = "lm_head"

    @property
    def parts(self) -> Parts:
        """Dense map and norm."""
        hidden = self.hidden_size
        return {"dense": Linear(hidden, hidden, self.bias), "norm": Module(Norm(hidden, self.norm_bias).parts)}

    @staticmethod
    def program(m: Bound, hidden_states: Sym) -> Sym:
        """Mirror ModernBertPredictionHead.forward."""
        from oomph import ops

        hidden_states = ops.activate(m.activation, m.dense(hidden_states))
        return ops.layer_norm(hidden_states, m.norm.parts["weight"], m.norm.parts["bias"])


@dataclass(frozen=True)
class MaskedHead(Block):
    """dense H→E, activation, norm, decoder E→V: the head of masked language models.

    `names` are the paths of dense, norm and decoder; `bias` that of the decoder's bias where the class declares
    it a second time: one tensor when tied, two when not. `stores_table` marks classes that declare the head
    before the model, so that the tied table is the head's and the embedding is the one that borrows; `norm_first`
    those that declare the norm before the dense map.
    """

    hidden_size: int
    embedding_size: int
    vocab_size: int
    tied: bool
    names: tuple[str, str, str] = ("dense", "layer_norm", "decoder")
    bias: str = "bias"
    dense_bias: bool = True
    norm_bias: bool = True
    decoder_bias: bool = True
    stores_table: bool = False
    norm_first: bool = False
    activation: str = "gelu"
    kind: str = "lm_head"

    @property
    def parts(self) -> Parts:
        """Dense map, norm, decoder unless tied, and the bias."""
        dense, norm, decoder = self.names
        width = self.embedding_size
        twice = bool(self.bias) and not self.tied
        own_bias = self.decoder_bias and (twice or not self.bias)
        own = {self.bias: Tensor((self.vocab_size,), "bias")} if self.bias else {}
        normed: dict[str, Part] = {norm: Module(Norm(width, self.norm_bias).parts)}
        return {
            **own,
            **(normed if self.norm_first else {}),
            dense: Linear(self.hidden_size, width, self.dense_bias),
            **normed,
            decoder: Head(width, self.vocab_size, self.tied and not self.stores_table, own_bias),
        }
