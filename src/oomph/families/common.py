"""What decoder families share: the usual frame of embedding, layers, final norm and head."""

from __future__ import annotations

from collections.abc import Sequence

from oomph.blocks.base import Block, Part, Parts, Stack
from oomph.blocks.basic import Embedding, Head, Norm
from oomph.config import Config
from oomph.errors import UnsupportedError
from oomph.model import Model

OTHER_HEADS = (
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForRewardModel",
    "DoubleHeadsModel",
)
# Rotary embeddings whose frequencies are made anew as sequences grow.
RESCALED = ("dynamic", "longrope")
# Routers that also return their logits for a loss of their own, or whose inputs are shaken while training.
ROUTER_OPTIONS = ("output_router_logits", "router_jitter_noise")


def causal_lm(
    config: Config,
    layers: Sequence[Block],
    final_norm: Part,
    *,
    embed: str = "model.embed_tokens",
    stack: str = "model.layers",
    norm: str = "model.norm",
    head: str = "lm_head",
    tied: bool | None = None,
    head_bias: bool = False,
    extra: Parts | None = None,
) -> Model:
    """Return a decoder: embedding, `layers` (equal ones the same object), final norm, head, in that order.

    The keyword names are the paths of the real class; `extra` adds parts between embedding and layers.
    """
    hidden, vocab = config.size("hidden_size"), config.size("vocab_size")
    if tied is None:
        tied = config.bool("tie_word_embeddings", default=True)  # PretrainedConfig's own default
    top = output_head(config, hidden, vocab, tied, head, head_bias)
    parts: dict[str, Part] = {
        embed: Embedding(vocab, hidden),
        **(extra or {}),
        stack: Stack(tuple(layers)),
        norm: final_norm,
        **top,
    }
    return Model(
        parts=parts,
        hidden_size=hidden,
        num_layers=len(layers),
        vocab_size=vocab,
        tied=tied and head in top,
        context_length=config.optional_int("max_position_embeddings"),
        unplayed=_unplayed(config),
    )


def _unplayed(config: Config) -> tuple[str, ...]:
    """Return what a config asks for that the tape has no rule for, though no weight depends on it."""
    rope = config.section("rope_parameters") or config.section("rope_scaling")
    kind = str(rope.get("rope_type", rope.get("type")))[:40]
    rescaled = (f"rope_type={kind}",) if kind in RESCALED else ()
    return (*rescaled, *(f"{key}={config.raw[key]}"[:60] for key in ROUTER_OPTIONS if config.raw.get(key)))


def output_head(config: Config, hidden: int, vocab: int, tied: bool, name: str, bias: bool) -> dict[str, Part]:
    """Return what stands on top: the language head, a classifier, or nothing, as `architectures` says.

    An absent `architectures` means the language model. A bare FooModel stores no head.
    """
    architecture = str(next(iter(config.list("architectures") or []), ""))
    if architecture.endswith(OTHER_HEADS):
        raise UnsupportedError(
            f"oomph does not know the head of {architecture[:80]}.",
            "Name the ...ForCausalLM, ...ForSequenceClassification or bare ...Model class in architectures, or weigh "
            "the files themselves.",
        )
    if architecture.endswith("ForSequenceClassification"):
        labels = len(config.section("id2label")) or config.optional_int("num_labels") or 2
        return {"score": Head(hidden, labels)}
    if architecture.endswith("Model") and not architecture.endswith("LMHeadModel"):
        return {}
    return {name: Head(hidden, vocab, tied, bias)}


def head_dim(config: Config, hidden: int, heads: int) -> int:
    """Return the explicit head_dim, else hidden / heads, which must divide."""
    return config.optional_int("head_dim") or config.divide(hidden, heads, "attention heads")


def rms(size: int) -> Norm:
    """Return an RMSNorm."""
    return Norm(size)


def layer_norm(size: int, bias: bool = True) -> Norm:
    """Return a LayerNorm."""
    return Norm(size, bias)
