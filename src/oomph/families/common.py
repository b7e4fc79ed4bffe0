"""What decoder families share: the usual frame of embedding, layers, final norm and head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from oomph.blocks.base import Block, Part, Parts, Stack
from oomph.blocks.basic import Classifier, Embedding, Head, Norm
from oomph.config import Config
from oomph.errors import UnsupportedError
from oomph.families.heads import classifying, num_labels, other_problem
from oomph.model import Model

OTHER_HEADS = (
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForRewardModel",
    "DoubleHeadsModel",
)
# Rotary embeddings whose frequencies are made anew as sequences grow.
LONGROPE = "longrope"
DYNAMIC = "dynamic"
RESCALED = (DYNAMIC, LONGROPE)
LOOKING = ("internlm3", "llama")  # types whose class is played as it looks at how long sequences are
FIXED_ALPHA = ("hunyuan_v1_dense", "hunyuan_v1_moe")  # types whose class makes them once where the config has an alpha
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
    unplayed: tuple[str, ...] = (),
) -> Model:
    """Return a decoder: embedding, `layers` (equal ones the same object), final norm, head, in that order.

    The keyword names are the paths of the real class; `extra` adds parts between embedding and layers, `unplayed` names
    what the tape has no rule for.
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
        unplayed=(*_unplayed(config), *(other_problem(config) if "score" in top else ()), *unplayed),
        objective=objective(top),
    )


def objective(top: Parts) -> str:
    """Return what a decoder's head is trained for; without one its states are embeddings."""
    score = top.get("score")
    if isinstance(score, Classifier):
        return classifying(score.vocab_size)
    return "causal-lm" if top else "embedding"


def _unplayed(config: Config) -> tuple[str, ...]:
    """Return what a config asks for that the tape has no rule for, though no weight depends on it."""
    rope = rope_parameters(config)
    sections = [rope, *(each for each in rope.values() if isinstance(each, Mapping))]  # one for each kind of layer
    kinds = {_kind(each) for each in sections} & set(RESCALED)
    if config.model_type in ("phi3", "phimoe"):
        kinds -= {LONGROPE}
    if config.model_type in FIXED_ALPHA and rope.get("alpha"):
        kinds -= {DYNAMIC}
    if config.model_type in LOOKING:
        kinds -= {DYNAMIC}
    rescaled = tuple(f"rope_type={kind}" for kind in sorted(kinds))
    # Phi-MoE's router_jitter_noise is a bound on its scores, which moves no byte.
    options = ROUTER_OPTIONS[:1] if config.model_type == "phimoe" else ROUTER_OPTIONS
    return (*rescaled, *(f"{key}={config.raw[key]}"[:60] for key in options if config.raw.get(key)))


def rope_type(config: Config) -> str:
    """Return the kind of a config's rotary embedding, "" if it does not say."""
    return _kind(rope_parameters(config))


def _kind(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type", rope.get("type", "")))[:40]


def rope_parameters(config: Config) -> Mapping[str, Any]:
    """Return what a config says of its rotary embedding, under its present or its former name."""
    return config.section("rope_parameters") or config.section("rope_scaling")


def rotary_dim(config: Config, head_dim: int, default: float) -> int:
    """Return how many channels of a head the rotary embedding turns; `default` is the class's factor."""
    factor = rope_parameters(config).get("partial_rotary_factor")
    if factor is None:
        factor = config.rate("partial_rotary_factor", default)
    if not isinstance(factor, (int, float)) or not 0 <= factor <= 1:
        raise config.error("partial_rotary_factor", f"is {str(factor)[:40]!r}, not a number from 0 to 1")
    return int(head_dim * factor)


def turned_of_kind(config: Config, head_dim: int, kind: str, default: float, unsaid: float = 1.0) -> int:
    """Return how many channels of a head are turned in layers of a kind, whose section of rope_parameters says it.

    `default` is the class's factor where there are no sections, `unsaid` that of a section without one.
    """
    section = rope_parameters(config).get(kind)
    if not isinstance(section, Mapping):
        return int(head_dim * default)
    factor = section.get("partial_rotary_factor", unsaid)
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 <= factor <= 1:
        raise config.error("partial_rotary_factor", f"is {str(factor)[:40]!r}, not a number from 0 to 1")
    return int(head_dim * factor)


def by_window(windows: Sequence[int | None], layer: Callable[[int | None], Block]) -> list[Block]:
    """Return a layer for each window; layers with the same one are the same object."""
    made = {window: layer(window) for window in dict.fromkeys(windows)}
    return [made[window] for window in windows]


def with_head(model: Model, **changes: Any) -> Model:
    """Return a model with other options of its language head, if it has one."""
    head = model.parts.get("lm_head")
    if not isinstance(head, Head):
        return model
    return replace(model, parts={**model.parts, "lm_head": replace(head, **changes)})


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
        padded = config.raw.get("pad_token_id") is not None
        return {"score": Classifier(hidden, num_labels(config), padded=padded)}
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
    return Norm(size, bias, "layer")
