"""Small random configs of the encoders and encoder-decoders, each with one of the heads its classes know."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

CLASSIFIERS = ("ForSequenceClassification", "ForMultipleChoice", "ForTokenClassification", "ForQuestionAnswering")
MASKED = ("ForMaskedLM", "LMHeadModel")


def head(rng: random.Random, prefix: str, tasks: tuple[str, ...], default: bool = True) -> dict[str, Any]:
    """An architecture (or none, which means the language model), labels in each of the ways files give them."""
    raw: dict[str, Any] = {"architectures": [prefix + rng.choice(tasks)]}
    if default and rng.random() < 0.1:
        return {}
    if "Classification" in raw["architectures"][0] and rng.random() < 0.7:
        labels = rng.choice([3, 5])
        raw |= rng.choice([{"num_labels": labels}, {"id2label": {str(i): f"L{i}" for i in range(labels)}}])
    return raw


def encoder(rng: random.Random) -> dict[str, Any]:
    """Sizes in BERT's spelling; tied, untied and unsaid."""
    heads = rng.choice([1, 2, 3])
    raw: dict[str, Any] = {
        "hidden_size": heads * rng.choice([8, 24]),
        "intermediate_size": rng.randrange(32, 99),
        "num_hidden_layers": rng.choice([1, 2, 4]),
        "num_attention_heads": heads,
        "vocab_size": rng.randrange(32, 300),
        "max_position_embeddings": rng.randrange(10, 64),
        "pad_token_id": 1,
    }
    if rng.random() < 0.6:
        raw["tie_word_embeddings"] = rng.random() < 0.5
    return raw


def bert_like(model_type: str, prefix: str, tasks: tuple[str, ...]) -> Callable[[random.Random], dict[str, Any]]:
    """BERT's kin: token types, sometimes a decoder with attention to an encoder."""

    def sample(rng: random.Random) -> dict[str, Any]:
        raw = {"model_type": model_type, **encoder(rng), **head(rng, prefix, tasks)}
        if rng.random() < 0.7:
            raw["type_vocab_size"] = rng.choice([1, 3])
        if rng.random() < 0.3:
            raw |= {"is_decoder": True, "add_cross_attention": rng.random() < 0.7}
        if model_type == "electra":
            raw["embedding_size"] = rng.choice([12, raw["hidden_size"]])
            raw["summary_use_proj"] = rng.random() < 0.5
        if model_type == "ernie" and rng.random() < 0.5:
            raw |= {"use_task_id": True, "task_type_vocab_size": rng.choice([2, 4])}
        return raw

    return sample


def albert(rng: random.Random) -> dict[str, Any]:
    """Groups of shared layers."""
    tasks = ("Model", "ForMaskedLM", "ForPreTraining", *CLASSIFIERS)
    return {
        "model_type": "albert", **encoder(rng), **head(rng, "Albert", tasks, default=False),
        "embedding_size": rng.choice([12, 20]), "num_hidden_groups": rng.choice([1, 3]),
        "inner_group_num": rng.choice([1, 2]), "type_vocab_size": rng.choice([1, 2]),
    }  # fmt: skip


def distilbert(rng: random.Random) -> dict[str, Any]:
    """Old and new key names; question answering allows two labels only."""
    raw = encoder(rng)
    ffn = raw.pop("intermediate_size")
    raw |= {"model_type": "distilbert", "hidden_dim": ffn}
    if rng.random() < 0.5:
        raw |= {"dim": raw.pop("hidden_size"), "n_heads": raw.pop("num_attention_heads")}
        raw["n_layers"] = raw.pop("num_hidden_layers")
    return {**raw, **head(rng, "DistilBert", ("Model", "ForMaskedLM", *CLASSIFIERS), default=False)}


def mpnet(rng: random.Random) -> dict[str, Any]:
    """Relative position buckets."""
    raw = {"model_type": "mpnet", **encoder(rng), "relative_attention_num_buckets": rng.choice([8, 32])}
    return {**raw, **head(rng, "MPNet", ("Model", "ForMaskedLM", *CLASSIFIERS), default=False)}


def deberta(rng: random.Random) -> dict[str, Any]:
    """Every optional piece on and off: positions of three kinds, shared keys, convolution, narrow embedding."""
    raw = {"model_type": "deberta-v2", **encoder(rng)}
    raw |= head(rng, "DebertaV2", ("Model", "ForMaskedLM", *CLASSIFIERS), default=False)
    raw |= {"type_vocab_size": rng.choice([0, 2]), "position_biased_input": rng.random() < 0.5}
    if rng.random() < 0.7:
        raw |= {"relative_attention": True, "share_att_key": rng.random() < 0.4}
        raw["pos_att_type"] = rng.choice([None, ["c2p"], ["p2c", "c2p"], "p2c|c2p", "p2c"])
        raw |= rng.choice([{}, {"position_buckets": 6}, {"max_relative_positions": 7}, {"position_buckets": -1}])
    if rng.random() < 0.5:
        raw["norm_rel_ebd"] = rng.choice(["layer_norm", "none"])
    if rng.random() < 0.5:
        raw |= {"conv_kernel_size": 3, "conv_groups": rng.choice([1, 2])}
    if rng.random() < 0.5:
        raw["embedding_size"] = 12
        raw["tie_word_embeddings"] = True
    if rng.random() < 0.3:
        raw["legacy"] = False
    return raw


def nomic_bert(rng: random.Random) -> dict[str, Any]:
    """An explicit head_dim sometimes."""
    tasks = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
    raw = {"model_type": "nomic_bert", **encoder(rng), **head(rng, "NomicBert", tasks, default=False)}
    return {**raw, "type_vocab_size": rng.choice([1, 2]), **rng.choice([{}, {"head_dim": 16}])}


def gte(rng: random.Random) -> dict[str, Any]:
    """No token types sometimes."""
    tasks = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
    raw = {"model_type": "gte", **encoder(rng), **head(rng, "Gte", tasks, default=False)}
    return {**raw, "type_vocab_size": rng.choice([0, 1, 2])}


def jina_embeddings_v3(rng: random.Random) -> dict[str, Any]:
    """The head declared before the model."""
    tasks = ("Model", "ForMaskedLM", *CLASSIFIERS[::2], "ForQuestionAnswering")
    raw = {"model_type": "jina_embeddings_v3", **encoder(rng)}
    return {**raw, **head(rng, "JinaEmbeddingsV3", tasks, default=False), "type_vocab_size": rng.choice([1, 2])}


def modernbert(rng: random.Random) -> dict[str, Any]:
    """Each bias on and off."""
    raw = {"model_type": "modernbert", **encoder(rng)}
    raw |= head(rng, "ModernBert", ("Model", "ForMaskedLM", *CLASSIFIERS), default=False)
    for key in ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias", "decoder_bias"):
        if rng.random() < 0.7:
            raw[key] = rng.random() < 0.5
    return raw


def eurobert(rng: random.Random) -> dict[str, Any]:
    """Grouped queries, biases."""
    tasks = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
    raw = {"model_type": "eurobert", **encoder(rng), **head(rng, "EuroBert", tasks, default=False)}
    raw |= {"attention_bias": rng.random() < 0.5, "mlp_bias": rng.random() < 0.5}
    return {**raw, **rng.choice([{}, {"num_key_value_heads": 1}, {"head_dim": 16}])}


def esm(rng: random.Random) -> dict[str, Any]:
    """Rotary and learned positions, a norm before the layers or not."""
    tasks = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
    raw = {"model_type": "esm", **encoder(rng), **head(rng, "Esm", tasks, default=False), "mask_token_id": 3}
    raw["emb_layer_norm_before"] = rng.choice([True, False, None])
    return {**raw, **rng.choice([{}, {"position_embedding_type": "rotary"}])}


def t5_like(model_type: str) -> Callable[[random.Random], dict[str, Any]]:
    """d_kv apart from H / heads, both MLPs, both stacks. transformers always ties: untied heads are in the truth."""

    def sample(rng: random.Random) -> dict[str, Any]:
        tasks = (
            "Model", "EncoderModel", "ForConditionalGeneration", "ForSequenceClassification",
            "ForTokenClassification", "ForQuestionAnswering",
        )  # fmt: skip
        raw: dict[str, Any] = {
            "model_type": model_type, "vocab_size": rng.randrange(32, 300), "d_model": rng.choice([24, 40]),
            "d_kv": rng.choice([8, 16]), "d_ff": rng.randrange(50, 99), "num_layers": rng.choice([1, 2, 3]),
            "num_heads": rng.choice([2, 3]), "feed_forward_proj": rng.choice(["relu", "gated-gelu"]),
            **head(rng, model_type.upper(), tasks, default=False),
        }  # fmt: skip
        if rng.random() < 0.6:
            raw["num_decoder_layers"] = rng.choice([None, 1, 4])
        return {**raw, **rng.choice([{}, {"tie_word_embeddings": True}, {"relative_attention_num_buckets": 9}])}

    return sample


def both_sides(rng: random.Random) -> dict[str, Any]:
    """Sizes in BART's spelling, encoder and decoder unlike each other."""
    raw: dict[str, Any] = {"vocab_size": rng.randrange(32, 300), "d_model": 12 * rng.choice([2, 3])}
    for side in ("encoder", "decoder"):
        raw |= {
            f"{side}_layers": rng.choice([1, 2, 3]),
            f"{side}_attention_heads": rng.choice([2, 3]),
            f"{side}_ffn_dim": rng.randrange(40, 99),
        }
    if rng.random() < 0.6:
        raw["tie_word_embeddings"] = rng.random() < 0.5
    return raw


def bart_like(model_type: str, prefix: str, tasks: tuple[str, ...]) -> Callable[[random.Random], dict[str, Any]]:
    """Marian sometimes keeps two vocabularies."""

    def sample(rng: random.Random) -> dict[str, Any]:
        raw = {"model_type": model_type, **both_sides(rng), "max_position_embeddings": rng.randrange(10, 64)}
        raw |= {"pad_token_id": 1, **head(rng, prefix, tasks, default=False)}
        if model_type == "marian" and rng.random() < 0.5:
            raw |= {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": rng.randrange(300, 400)}
        return raw

    return sample


def whisper(rng: random.Random) -> dict[str, Any]:
    """Speech to text, the bare model, a classifier on the encoder."""
    tasks = ("Model", "ForConditionalGeneration", "ForCausalLM", "ForAudioClassification")
    return {
        "model_type": "whisper", **both_sides(rng), **head(rng, "Whisper", tasks, default=False),
        "num_mel_bins": rng.choice([7, 80]), "max_source_positions": rng.randrange(20, 90),
        "max_target_positions": rng.randrange(10, 50), "pad_token_id": 1, "classifier_proj_size": 11,
        "use_weighted_layer_sum": rng.random() < 0.5,
    }  # fmt: skip


_BERT = ("Model", *MASKED, "ForPreTraining", "ForNextSentencePrediction", *CLASSIFIERS)
_ERNIE = ("Model", "ForMaskedLM", "ForCausalLM", "ForPreTraining", "ForNextSentencePrediction", *CLASSIFIERS)
_ROBERTA = ("Model", "ForMaskedLM", "ForCausalLM", *CLASSIFIERS)
_ELECTRA = ("Model", "ForMaskedLM", "ForCausalLM", "ForPreTraining", *CLASSIFIERS)
_BART = ("Model", "ForConditionalGeneration", "ForCausalLM", "ForSequenceClassification", "ForQuestionAnswering")

SAMPLES = {
    "albert": albert,
    "bart": bart_like("bart", "Bart", _BART),
    "bert": bert_like("bert", "Bert", _BERT),
    "camembert": bert_like("camembert", "Camembert", _ROBERTA),
    "deberta-v2": deberta,
    "distilbert": distilbert,
    "electra": bert_like("electra", "Electra", _ELECTRA),
    "ernie": bert_like("ernie", "Ernie", _ERNIE),
    "esm": esm,
    "eurobert": eurobert,
    "gte": gte,
    "jina_embeddings_v3": jina_embeddings_v3,
    "m2m_100": bart_like("m2m_100", "M2M100", ("Model", "ForConditionalGeneration")),
    "marian": bart_like("marian", "Marian", ("Model", "MTModel", "ForCausalLM")),
    "mbart": bart_like("mbart", "MBart", _BART),
    "blenderbot": bart_like("blenderbot", "Blenderbot", ("Model", "ForConditionalGeneration", "ForCausalLM")),
    "plbart": bart_like("plbart", "PLBart", ("Model", "ForConditionalGeneration", "ForCausalLM")),
    "modernbert": modernbert,
    "mpnet": mpnet,
    "mt5": t5_like("mt5"),
    "nomic_bert": nomic_bert,
    "pegasus": bart_like("pegasus", "Pegasus", ("Model", "ForConditionalGeneration", "ForCausalLM")),
    "roberta": bert_like("roberta", "Roberta", _ROBERTA),
    "t5": t5_like("t5"),
    "umt5": t5_like("umt5"),
    "whisper": whisper,
    "xlm-roberta": bert_like("xlm-roberta", "XLMRoberta", _ROBERTA),
}
