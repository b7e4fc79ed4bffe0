"""BART and its kin (mBART, M2M-100 and NLLB, Marian, Pegasus, PLBART, Blenderbot), and Whisper.

Encoder-decoders of one pattern. Class defaults and structure: transformers 5.23, models/bart, mbart, m2m_100, marian,
pegasus, plbart, blenderbot, whisper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Part, Stack
from oomph.blocks.basic import Conv, Embedding, FixedTable, Head, Linear, Norm, Sinusoids
from oomph.blocks.encoder import EncoderLayer, KeyBiaslessAttention, LayerNames
from oomph.blocks.mlp import MLP
from oomph.config import Config
from oomph.families.heads import BINARY_LABELS, classifier, num_labels, task, two_step_classifier
from oomph.model import Model
from oomph.tensor import Tensor

_BASE: dict[str, Any] = {
    "vocab_size": 50265, "max_position_embeddings": 1024, "encoder_layers": 12, "encoder_ffn_dim": 4096,
    "encoder_attention_heads": 16, "decoder_layers": 12, "decoder_ffn_dim": 4096, "decoder_attention_heads": 16,
    "d_model": 1024, "tie_word_embeddings": True,
}  # fmt: skip
TYPES: dict[str, dict[str, Any]] = {
    "bart": _BASE,
    "mbart": _BASE,
    "m2m_100": {**_BASE, "vocab_size": 128112},
    "marian": {**_BASE, "vocab_size": 58101, "share_encoder_decoder_embeddings": True},
    "pegasus": _BASE,
    "blenderbot": {
        **_BASE, "vocab_size": 8008, "max_position_embeddings": 128, "encoder_layers": 2, "encoder_ffn_dim": 10240,
        "encoder_attention_heads": 32, "decoder_layers": 24, "decoder_ffn_dim": 10240, "decoder_attention_heads": 32,
        "d_model": 2560,
    },
    "plbart": {
        **_BASE, "vocab_size": 50005, "encoder_layers": 6, "encoder_ffn_dim": 3072, "encoder_attention_heads": 12,
        "decoder_layers": 6, "decoder_ffn_dim": 3072, "decoder_attention_heads": 12, "d_model": 768,
    },
    "whisper": {
        "vocab_size": 51865, "num_mel_bins": 80, "encoder_layers": 4, "encoder_attention_heads": 6,
        "encoder_ffn_dim": 1536, "decoder_layers": 4, "decoder_attention_heads": 6, "decoder_ffn_dim": 1536,
        "d_model": 384, "max_source_positions": 1500, "max_target_positions": 448, "classifier_proj_size": 256,
        "use_weighted_layer_sum": False, "tie_word_embeddings": True,
    },
}  # fmt: skip
_OLD: dict[str, tuple[str, ...]] = {
    "d_model": ("hidden_size",), "encoder_layers": ("num_hidden_layers",),
    "encoder_attention_heads": ("num_attention_heads",),
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = dict.fromkeys(TYPES, _OLD)


@dataclass(frozen=True)
class Traits:
    """How the families differ.

    `positions` is how many rows the position tables have beyond max_position_embeddings, None where positions
    are computed and not stored, `fixed` whether they never train. `bias_buffer`: the logits' bias is stored as a
    buffer.
    """

    prefix: str
    tasks: tuple[str, ...]
    generation: str = "ForConditionalGeneration"
    positions: int | None = 0
    embedding_norm: bool = False
    final_norm: bool = True
    pre_norm: bool = True
    fixed: bool = False
    bias_buffer: bool = True
    labels: int = BINARY_LABELS


_CLASSIFIED = ("ForSequenceClassification", "ForQuestionAnswering")
BART_OFFSET = 2  # BART's tables begin two rows later
COMPUTED_OFFSET = 2  # and so do M2M-100's, which are computed
LAYERDROP = 0.05  # M2M-100's encoder_layerdrop and decoder_layerdrop, where a file does not say
BART_LABELS = 3  # the class default: three-way inference
_TRAITS = {
    "bart": Traits(
        "Bart",
        _CLASSIFIED,
        positions=BART_OFFSET,
        embedding_norm=True,
        final_norm=False,
        pre_norm=False,
        labels=BART_LABELS,
    ),
    "mbart": Traits("MBart", _CLASSIFIED, positions=BART_OFFSET, embedding_norm=True),
    "m2m_100": Traits("M2M100", (), positions=None, bias_buffer=False),
    "marian": Traits("Marian", (), "MTModel", final_norm=False, pre_norm=False, fixed=True),
    "pegasus": Traits("Pegasus", (), fixed=True),
    "blenderbot": Traits("Blenderbot", ()),
    "plbart": Traits(
        "PLBart",
        ("ForSequenceClassification",),
        positions=BART_OFFSET,
        embedding_norm=True,
        final_norm=False,
        pre_norm=False,
    ),
    "whisper": Traits("Whisper", ("ForAudioClassification",), bias_buffer=False),
}
DROPOUT = 0.1  # dropout of every class here but Whisper's
CONV_STRIDE = 2  # of the second one
CONV_WIDTH = 3  # both convolutions of Whisper's front end

_ENCODER_LAYER = LayerNames("self_attn", "self_attn_layer_norm", "", "final_layer_norm")
_DECODER_LAYER = LayerNames(
    "self_attn", "self_attn_layer_norm", "", "final_layer_norm", "encoder_attn", "encoder_attn_layer_norm"
)


def build(config: Config) -> Model:
    """Return encoder, decoder and head."""
    traits = _TRAITS[config.model_type]
    known = ("Model", traits.generation, *(() if config.model_type == "m2m_100" else ("ForCausalLM",)), *traits.tasks)
    head = task(config, traits.prefix, known, traits.generation)
    hidden, vocab = config.size("d_model"), config.size("vocab_size")
    whisper = config.model_type == "whisper"
    has_decoder, has_encoder = head != "ForAudioClassification", head != "ForCausalLM"
    tied = config.bool("tie_word_embeddings")
    body: dict[str, Part] = {}
    if not whisper and has_encoder:
        body.update(_tables(config, hidden, vocab, tied))
    if has_encoder:
        body.update(_whisper_front(config, hidden) if whisper else _positions(config, traits, hidden, "encoder"))
        body.update(_stack(config, traits, hidden, "encoder"))
    if has_decoder:
        if whisper or not has_encoder:
            body["decoder.embed_tokens"] = Embedding(config.optional_int("decoder_vocab_size") or vocab, hidden)
        body.update(_positions(config, traits, hidden, "decoder"))
        body.update(_stack(config, traits, hidden, "decoder", has_encoder))
    if head not in ("Model", "ForAudioClassification"):
        body = {f"model.{path}": part for path, part in body.items()}
    return Model(
        parts={**body, **_top(config, traits, head, hidden, vocab, tied)},
        hidden_size=hidden,
        num_layers=sum(config.depth(f"{side}_layers") for side in ("encoder", "decoder")),
        vocab_size=vocab,
        tied=tied and head in (traits.generation, "ForCausalLM"),
        context_length=config.int("max_target_positions" if whisper else "max_position_embeddings"),
        objective="seq2seq-lm" if head == traits.generation else "",
        unplayed=tuple(_unplayed(config, head, head == traits.generation)),
    )


def _unplayed(config: Config, head: str, generates: bool) -> Iterator[str]:
    """Yield what the tape has no rule for: other heads, tables apart, layers skipped at random."""
    if not generates:
        yield f"the head of {head}"
    if not config.bool("tie_word_embeddings"):
        yield "tables that are not tied"
    if config.bool("apply_spec_augment"):
        yield "apply_spec_augment, which masks frames at random"
    if config.model_type == "marian" and not config.bool("share_encoder_decoder_embeddings"):
        yield "two vocabularies"
    skipped = LAYERDROP if config.model_type == "m2m_100" else 0.0
    if any(config.rate(f"{side}_layerdrop", skipped) for side in ("encoder", "decoder")):
        yield "LayerDrop, which skips layers at random"


def _tables(config: Config, hidden: int, vocab: int, tied: bool) -> dict[str, Part]:
    """Return the shared embedding and, where the config unties, both sides' own.

    Marian may keep two vocabularies; then nothing is shared.
    """
    shared, own = Embedding(vocab, hidden), None if tied else Embedding(vocab, hidden)
    if config.model_type == "marian" and not config.bool("share_encoder_decoder_embeddings"):
        rows = config.optional_int("decoder_vocab_size") or vocab
        return {"encoder.embed_tokens": shared, "decoder.embed_tokens": Embedding(rows, hidden)}
    return {"shared": shared, "encoder.embed_tokens": own, "decoder.embed_tokens": own}


def _positions(config: Config, traits: Traits, hidden: int, side: str) -> dict[str, Part]:
    if traits.positions is None:
        rows = config.int("max_position_embeddings") + COMPUTED_OFFSET
        return {f"{side}.embed_positions": Sinusoids(rows, hidden)}
    whisper = config.model_type == "whisper"
    rows = config.int("max_target_positions" if whisper else "max_position_embeddings") + traits.positions
    table = FixedTable if traits.fixed else Embedding
    return {f"{side}.embed_positions": table(rows, hidden, kind="position_embedding")}


def _whisper_front(config: Config, hidden: int) -> dict[str, Part]:
    """Return the convolutions over the spectrogram and the sinusoids, which the class stores as parameters."""
    sinusoids = FixedTable(config.int("max_source_positions"), hidden, kind="position_embedding")
    return {
        "encoder.conv1": Conv(config.int("num_mel_bins"), hidden, (CONV_WIDTH,), bias=True),
        "encoder.conv2": Conv(hidden, hidden, (CONV_WIDTH,), bias=True, stride=CONV_STRIDE),
        "encoder.embed_positions": sinusoids,
    }


def _stack(config: Config, traits: Traits, hidden: int, side: str, encoder: bool = True) -> dict[str, Part]:
    """Return the layers of one side and the norms around them; a decoder may stand without its `encoder`."""
    heads = config.int(f"{side}_attention_heads")
    kind = KeyBiaslessAttention if config.model_type == "whisper" else Attention
    m2m = config.model_type == "m2m_100"
    attention = kind(
        hidden, heads, heads, config.divide(hidden, heads, "attention heads"), qkv_bias=True, out_bias=True,
        qkv=("k_proj", "v_proj", "q_proj"), out="out_proj",
        dropout=config.rate("attention_dropout", DROPOUT if m2m or config.model_type == "plbart" else 0.0),
    )  # fmt: skip
    norm, activation = Norm(hidden, bias=True), config.str("activation_function", "relu" if m2m else "gelu")
    mlp = MLP(hidden, config.int(f"{side}_ffn_dim"), bias=True, names=("fc1", "fc2"), activation=activation)
    rate = config.rate("dropout", 0.0 if config.model_type == "whisper" else DROPOUT)
    inner_rate = config.rate("activation_dropout", 0.0)
    names, cross = (_ENCODER_LAYER, None) if side == "encoder" else (_DECODER_LAYER, attention)
    source = config.int("max_source_positions") if kind is KeyBiaslessAttention and cross else None  # padded to it
    source = source if encoder else 0
    layer = EncoderLayer(attention, mlp, norm, names, cross, traits.pre_norm, rate, inner_rate, source)
    return {
        f"{side}.layers": Stack.of(layer, config.depth(f"{side}_layers")),
        f"{side}.layernorm_embedding": norm if traits.embedding_norm else None,
        f"{side}.layer_norm": norm if traits.final_norm else None,
    }


def _top(config: Config, traits: Traits, head: str, hidden: int, vocab: int, tied: bool) -> dict[str, Part]:
    whisper = config.model_type == "whisper"
    if head == "ForAudioClassification":
        return _audio_classifier(config, hidden)
    if head == "ForSequenceClassification":
        return {"classification_head": two_step_classifier(hidden, num_labels(config, traits.labels))}
    if head == "ForQuestionAnswering":
        return {"qa_outputs": classifier(hidden, 2)}
    if head == "Model":
        return {}
    separate = config.model_type == "marian" and not config.bool("share_encoder_decoder_embeddings")
    rows = (config.optional_int("decoder_vocab_size") or vocab) if separate and head != "ForCausalLM" else vocab
    buffer = Tensor((1, rows), "bias buffer") if traits.bias_buffer and head != "ForCausalLM" else None
    return {"final_logits_bias": buffer, "proj_out" if whisper else "lm_head": Head(hidden, rows, tied)}


def _audio_classifier(config: Config, hidden: int) -> dict[str, Part]:
    """Return the head on Whisper's encoder: weights of its layers' sum, a projector, the classes."""
    states = config.depth("encoder_layers") + 1
    mixing = Tensor((states,), "param") if config.bool("use_weighted_layer_sum") else None
    size = config.int("classifier_proj_size")
    return {
        "layer_weights": mixing,
        "projector": Linear(hidden, size, bias=True),
        "classifier": classifier(size, num_labels(config)),
    }
