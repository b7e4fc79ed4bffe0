"""What decoder families share: the usual frame of embedding, layers, final norm and head."""

from __future__ import annotations

from collections.abc import Sequence

from oomph.blocks.base import Block, Part, Parts, Stack
from oomph.blocks.basic import Classifier, Embedding, Head, Norm
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
        unplayed=(*_unplayed(config), *regression(top)),
        objective=objective(top),
    )


def objective(top: Parts) -> str:
    """Return what a decoder's head is trained for."""
    return "sequence-classification" if "score" in top else "causal-lm"


def regression(top: Parts) -> tuple[str, ...]:
    """Return the loss of a classifier with one label, which the tape has no rule for."""
    score = top.get("score")
    return ("a classifier of one label",) if isinstance(score, Classifier) and score.vocab_size == 1 else ()


def _unplayed(config: Config) -> tuple[str, ...]:
    """Return what a config asks for that the tape has no rule for, though no weight depends on it."""
    rope = config.section("rope_parameters") or config.section("rope_scaling")
    kind = str(rope.get("rope_type", rope.get("type")))[:40]
    return (f"rope_type={kind}",) if kind in RESCALED else ()


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
        return {"score": Classifier(hidden, labels, padded=config.raw.get("pad_token_id") is not None)}
    if architecture.endswith("Model") and not architecture.endswith("LMHeadModel"):
        return {}
    return {name: Head(hidden, vocab, tied, bias)}


def head_dim(config: Config, hidden: int, heads: int) -> int:
    """Return the explicit head_dim, else hidden / heads, which must divide."""
    return config.optional_int("head_dim") or config.divide(hidden, heads, "attention heads")


def rotary_width(config: Config, head_dim: int, default: float) -> int:
    """Return how many numbers of a head are turned: the part of head_dim that the config says.

    `default` is what the family's own key, if it has one, or its class says; rope_parameters come first.
    """
    name = "partial_rotary_factor"
    holds = Config(config.section("rope_parameters") or config.section("rope_scaling"), {}, {}, "rope_parameters")
    return int(head_dim * holds.rate(name, config.rate(name, default)))


def rms(size: int) -> Norm:
    """Return an RMSNorm."""
    return Norm(size)


def layer_norm(size: int, bias: bool = True) -> Norm:
    """Return a LayerNorm."""
    return Norm(size, bias)
