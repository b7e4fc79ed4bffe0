"""Tiny configs of encoders, for jobs on which the tape must equal the trace."""

from __future__ import annotations

import random
from typing import Any

from oomph.errors import OomphError
from oomph.job import TrainJob
from tests.tape.gptlike import ACTIVATIONS, RATES, Sampler, bert, sizes
from tests.tape.grid import job, played

TASKS = ["MaskedLM", "SequenceClassification"]


def distilbert(rng: random.Random) -> dict[str, Any]:
    """BERT's layers by other names, a head that is tied or not."""
    heads = rng.choice([2, 3, 4])
    return {
        "architectures": [f"DistilBertFor{rng.choice(TASKS)}"],
        "vocab_size": rng.choice([64, 515]),
        "n_layers": rng.choice([1, 2, 3]),
        "n_heads": heads,
        "dim": heads * rng.choice([8, 16, 20]),
        "hidden_dim": rng.choice([17, 64]),
        "max_position_embeddings": 128,
        "activation": rng.choice(ACTIVATIONS),
        "dropout": rng.choice(RATES),
        "attention_dropout": rng.choice(RATES),
        "seq_classif_dropout": rng.choice(RATES),
        "num_labels": rng.choice([1, 2, 3]),
        "tie_word_embeddings": rng.random() < 0.7,
    }


def electra(rng: random.Random) -> dict[str, Any]:
    """BERT on an embedding narrower than its layers."""
    own = {"embedding_size": rng.choice([12, 24]), "tie_word_embeddings": rng.random() < 0.7}
    return bert(rng) | {"architectures": [f"ElectraFor{rng.choice(TASKS)}"], **own}


def modernbert(rng: random.Random) -> dict[str, Any]:
    """Windows shorter and longer than sequences, every bias and dropout on and off, both ways to pool."""
    biases = ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias", "decoder_bias")
    rates = ("attention_dropout", "mlp_dropout", "embedding_dropout", "classifier_dropout")
    return sizes(rng) | {
        "architectures": [f"ModernBertFor{rng.choice(TASKS)}"],
        "intermediate_size": rng.choice([17, 64]),
        "local_attention": rng.choice([4, 16, 64, 256]),
        "global_attn_every_n_layers": rng.choice([1, 2, 3]),
        "pad_token_id": 0,
        "hidden_activation": rng.choice(["gelu", "relu"]),
        "classifier_pooling": rng.choice(["cls", "mean"]),
        "num_labels": rng.choice([1, 2, 3]),
        **{name: rng.random() < 0.5 for name in biases},
        **{name: rng.choice(RATES) for name in rates},
    }


def deberta(rng: random.Random) -> dict[str, Any]:
    """Positions scored with contents or contents with them, by maps of their own or not; distances or buckets."""
    raw = bert(rng)
    relative = rng.random() < 0.8
    return raw | {
        "model_type": "deberta-v2",
        "architectures": [f"DebertaV2For{rng.choice(TASKS)}"],
        "relative_attention": relative,
        "position_buckets": rng.choice([-1, 8, 40]),
        "max_relative_positions": rng.choice([-1, 20]),
        "pos_att_type": rng.choice([["p2c", "c2p"], ["c2p"], ["p2c"], "p2c|c2p", []]),
        "norm_rel_ebd": rng.choice(["layer_norm", "none"]) if relative else "none",
        "share_att_key": rng.random() < 0.5,
        "position_biased_input": rng.random() < 0.4,
        "type_vocab_size": rng.choice([0, 2]),
        "embedding_size": rng.choice([raw["hidden_size"], 24]),
        "pooler_dropout": rng.choice([0, 0.1]),
        "pad_token_id": 0,
    }


def ernie(rng: random.Random) -> dict[str, Any]:
    """BERT with a table of tasks, or without."""
    own = {"use_task_id": rng.random() < 0.6, "task_type_vocab_size": 3}
    return bert(rng) | {"architectures": [f"ErnieFor{rng.choice(TASKS)}"], **own}


def mpnet(rng: random.Random) -> dict[str, Any]:
    """Positions as buckets of distances beside learned ones."""
    own = {"max_position_embeddings": 140, "relative_attention_num_buckets": rng.choice([32, 40])}
    return bert(rng) | {"architectures": [f"MPNetFor{rng.choice(TASKS)}"], **own}


def nomic_bert(rng: random.Random) -> dict[str, Any]:
    """Heads that are turned, a gated MLP, no table of positions."""
    own = {"hidden_act": rng.choice(["silu", "silu", "gelu"]), "type_vocab_size": rng.choice([1, 2])}
    return bert(rng) | {"architectures": [f"NomicBertFor{rng.choice(TASKS)}"], **own}


def albert(rng: random.Random) -> dict[str, Any]:
    """One or two layers that are gone through again and again."""
    own = {"embedding_size": rng.choice([12, 24]), "inner_group_num": rng.choice([1, 1, 2])}
    rate = rng.choice(RATES)
    return bert(rng) | {"architectures": [f"AlbertFor{rng.choice(TASKS)}"], "classifier_dropout_prob": rate, **own}


FAMILIES: dict[str, Sampler] = {
    "distilbert": distilbert,
    "electra": electra,
    "modernbert": modernbert,
    "deberta": deberta,
    "albert": albert,
    "ernie": ernie,
    "mpnet": mpnet,
    "nomic_bert": nomic_bert,
}


def config(rng: random.Random, model_type: str) -> dict[str, Any]:
    """A tiny model of a family."""
    return {"model_type": model_type} | FAMILIES[model_type](rng)


def playable(model_type: str, index: int, seed: int = 20261127) -> tuple[dict[str, Any], TrainJob]:
    """The index-th job of a family; the first of its kind that is not refused."""
    rng = random.Random(f"{model_type} {index} {seed}")
    while True:
        raw, made = config(rng, model_type), job(rng, model_type)
        try:
            played(raw, made)
        except OomphError:  # what the family does not take
            continue
        return raw, made
