"""Tiny configs of GPT-like families, for jobs on which the tape must equal the trace."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from oomph.errors import OomphError
from oomph.job import InferJob, TrainJob
from tests.tape.grid import infer_job, job, played

Sampler = Callable[[random.Random], dict[str, Any]]
ACTIVATIONS = ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"]
RATES = [0.0, 0.1, 0.125]


def sizes(rng: random.Random, widths: tuple[int, ...] = (8, 16, 20, 32, 40)) -> dict[str, Any]:
    """What every family has, by the names most give it."""
    heads = rng.choice([2, 3, 4, 6])
    return {
        "vocab_size": rng.choice([64, 515, 1013]),
        "num_hidden_layers": rng.choice([1, 2, 2, 3]),
        "num_attention_heads": heads,
        "hidden_size": heads * rng.choice(widths),
        "max_position_embeddings": 128,
        "tie_word_embeddings": rng.random() < 0.5,
    }


def gpt_neox(rng: random.Random) -> dict[str, Any]:
    """Attention and MLP side by side or not, a part of each head turned."""
    return sizes(rng) | {
        "intermediate_size": rng.choice([17, 64, 331]),
        "hidden_act": rng.choice(ACTIVATIONS),
        "attention_dropout": rng.choice(RATES),
        "hidden_dropout": rng.choice(RATES),
        "use_parallel_residual": rng.random() < 0.6,
        "attention_bias": rng.random() < 0.7,
        "rotary_pct": rng.choice([0.25, 0.5, 1.0]),
    }


def phi(rng: random.Random) -> dict[str, Any]:
    """One norm for attention and MLP, heads shared or not, norms on queries and keys."""
    raw = sizes(rng)
    return raw | {
        "intermediate_size": rng.choice([17, 64, 331]),
        "num_key_value_heads": rng.choice([1, raw["num_attention_heads"]]),
        "hidden_act": rng.choice(ACTIVATIONS),
        "attention_dropout": rng.choice(RATES),
        "resid_pdrop": rng.choice(RATES),
        "embd_pdrop": rng.choice(RATES),
        "partial_rotary_factor": rng.choice([0.5, 0.5, 1.0]),
        "qk_layernorm": rng.random() < 0.4,
    }


def gpt_bigcode(rng: random.Random) -> dict[str, Any]:
    """One key/value head or all."""
    return sizes(rng) | {
        "n_inner": rng.choice([None, 331]),
        "activation_function": rng.choice(ACTIVATIONS),
        "attn_pdrop": rng.choice(RATES),
        "resid_pdrop": rng.choice(RATES),
        "embd_pdrop": rng.choice(RATES),
        "multi_query": rng.random() < 0.7,
    }


def falcon(rng: random.Random) -> dict[str, Any]:
    """Both architectures, ALiBi or rotary embedding, one norm or two."""
    raw = sizes(rng)
    heads = raw["num_attention_heads"]
    new, parallel = rng.random() < 0.4, rng.random() < 0.7
    return raw | {
        "ffn_hidden_size": rng.choice([None, 331]),
        "activation": rng.choice(["gelu", "relu"]),
        "bias": rng.random() < 0.4,
        "alibi": not new and rng.random() < 0.4,
        "new_decoder_architecture": new,
        "num_kv_heads": rng.choice([n for n in (1, 2, heads) if not heads % n]) if new else None,
        "multi_query": rng.random() < 0.6,
        "parallel_attn": new or parallel,
        "num_ln_in_parallel_attn": rng.choice([None, 1, 2]) if new else None,
        "attention_dropout": rng.choice(RATES),
        "hidden_dropout": rng.choice(RATES),
    }


def opt(rng: random.Random) -> dict[str, Any]:
    """Norms before or after, the embedding as wide as the layers or not."""
    return sizes(rng) | {
        "ffn_dim": rng.choice([17, 64, 331]),
        "activation_function": rng.choice(["relu", "gelu"]),
        "dropout": rng.choice(RATES),
        "attention_dropout": rng.choice(RATES),
        "do_layer_norm_before": rng.random() < 0.6,
        "word_embed_proj_dim": rng.choice([None, 24]),
        "enable_bias": rng.random() < 0.7,
    }


def bert(rng: random.Random) -> dict[str, Any]:
    """With a head that fills in masks, or one that tells sequences apart."""
    head = rng.choice(["BertForMaskedLM", "BertForSequenceClassification"])
    return sizes(rng) | {
        "architectures": [head],
        "tie_word_embeddings": True,
        "intermediate_size": rng.choice([17, 64, 331]),
        "hidden_act": rng.choice(["gelu", "gelu", "relu", "gelu_new"]),
        "hidden_dropout_prob": rng.choice(RATES),
        "attention_probs_dropout_prob": rng.choice(RATES),
        "classifier_dropout": rng.choice([None, 0.0, 0.1]),
        "num_labels": rng.choice([1, 2, 3]),
    }


def roberta(rng: random.Random) -> dict[str, Any]:
    """BERT with other positions and heads."""
    kind, prefix = rng.choice([("roberta", "Roberta"), ("xlm-roberta", "XLMRoberta"), ("camembert", "Camembert")])
    head = prefix + rng.choice(["ForMaskedLM", "ForSequenceClassification"])
    return bert(rng) | {"architectures": [head], "max_position_embeddings": 140, "model_type": kind}


def bloom(rng: random.Random) -> dict[str, Any]:
    """ALiBi added to the scores, sums from before or after the norms."""
    return sizes(rng) | {
        "attention_dropout": rng.choice(RATES),
        "hidden_dropout": rng.choice(RATES),
        "apply_residual_connection_post_layernorm": rng.random() < 0.3,
    }


def mpt(rng: random.Random) -> dict[str, Any]:
    """ALiBi for all positions, queries, keys and values bounded or not."""
    return sizes(rng) | {"attn_config": {"clip_qkv": rng.choice([None, 8.0])}, "max_seq_len": 128}


def gptj(rng: random.Random) -> dict[str, Any]:
    """Pairs of numbers turned, scores in fp32."""
    return sizes(rng) | {
        "n_inner": rng.choice([None, 331]),
        "rotary_dim": rng.choice([4, 8]),
        "activation_function": rng.choice(ACTIVATIONS),
        "attn_pdrop": rng.choice(RATES),
        "resid_pdrop": rng.choice(RATES),
        "embd_pdrop": rng.choice(RATES),
    }


def codegen(rng: random.Random) -> dict[str, Any]:
    """GPT-J's, heads in four parts."""
    raw = gptj(rng)
    heads = rng.choice([4, 8])
    return raw | {"num_attention_heads": heads, "hidden_size": heads * rng.choice([8, 16, 20])}


def biogpt(rng: random.Random) -> dict[str, Any]:
    """OPT's kin with norms before."""
    return sizes(rng) | {
        "intermediate_size": rng.choice([17, 64, 331]),
        "hidden_act": rng.choice(ACTIVATIONS),
        "hidden_dropout_prob": rng.choice(RATES),
        "attention_probs_dropout_prob": rng.choice(RATES),
        "activation_dropout": rng.choice(RATES),
    }


def xglm(rng: random.Random) -> dict[str, Any]:
    """OPT's kin with computed positions."""
    raw = sizes(rng)
    return raw | {
        "d_model": raw["hidden_size"],
        "num_layers": raw["num_hidden_layers"],
        "attention_heads": raw["num_attention_heads"],
        "ffn_dim": rng.choice([17, 64, 331]),
        "activation_function": rng.choice(ACTIVATIONS),
        "dropout": rng.choice(RATES),
        "attention_dropout": rng.choice(RATES),
        "activation_dropout": rng.choice(RATES),
    }


def openai_gpt(rng: random.Random) -> dict[str, Any]:
    """The first GPT: norms after the sums."""
    return sizes(rng) | {
        "afn": rng.choice(["gelu", "relu", "silu"]),
        "attn_pdrop": rng.choice(RATES),
        "resid_pdrop": rng.choice(RATES),
        "embd_pdrop": rng.choice(RATES),
    }


def gpt_neo(rng: random.Random) -> dict[str, Any]:
    """Global and local layers, scores in fp32 under a triangle of their own."""
    raw = sizes(rng)
    kinds = rng.choice([["global"], ["global", "local"]])
    raw["num_hidden_layers"] *= len(kinds)
    return raw | {
        "attention_types": [[kinds, raw["num_hidden_layers"] // len(kinds)]],
        "window_size": rng.choice([8, 256]),
        "intermediate_size": rng.choice([None, 331]),
        "activation_function": rng.choice(ACTIVATIONS),
        "attention_dropout": rng.choice(RATES),
        "resid_dropout": rng.choice(RATES),
        "embed_dropout": rng.choice(RATES),
    }


def classifier(rng: random.Random) -> dict[str, Any]:
    """Decoders that tell sequences apart: with a padding token, or one sequence at a time."""
    model_type, name = rng.choice([("llama", "Llama"), ("gpt2", "GPT2"), ("gpt_neox", "GPTNeoX"), ("opt", "OPT")])
    return sizes(rng) | {
        "model_type": model_type,
        "architectures": [f"{name}ForSequenceClassification"],
        "num_key_value_heads": None,
        "intermediate_size": 64,
        "ffn_dim": 64,
        "num_labels": rng.choice([1, 2, 3]),
        "pad_token_id": rng.choice([0, 0, 0, None]),
    }


FAMILIES: dict[str, Sampler] = {
    "gpt_neox": gpt_neox,
    "phi": phi,
    "gpt_bigcode": gpt_bigcode,
    "falcon": falcon,
    "opt": opt,
    "bert": bert,
    "roberta": roberta,
    "bloom": bloom,
    "mpt": mpt,
    "gpt_neo": gpt_neo,
    "gptj": gptj,
    "codegen": codegen,
    "biogpt": biogpt,
    "xglm": xglm,
    "openai-gpt": openai_gpt,
    "classifier": classifier,
}


def config(rng: random.Random, model_type: str) -> dict[str, Any]:
    """A tiny model of a family."""
    return {"model_type": model_type} | FAMILIES[model_type](rng)


def playable(model_type: str, index: int, seed: int = 20261126) -> tuple[dict[str, Any], TrainJob | InferJob]:
    """The index-th job of a family, every third one inference; the first of its kind that is not refused."""
    rng = random.Random(f"{model_type} {index} {seed}")
    while True:
        made: TrainJob | InferJob = infer_job(rng) if index % 3 == 2 else job(rng, model_type)
        raw = config(rng, model_type)
        try:
            played(raw, made)
        except OomphError:  # packing where no position ids are taken, decoding where there is no cache
            continue
        return raw, made
