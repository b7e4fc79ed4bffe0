"""Small random configs of the dense decoder families."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

Raw = dict[str, Any]


def gqa(rng: random.Random) -> Raw:
    """Sizes every Llama-like config has; head_dim sometimes explicit, sometimes absent, sometimes null."""
    kv = rng.choice([1, 2, 3])
    heads = kv * rng.choice([1, 2, 4])
    raw: Raw = {
        "hidden_size": heads * 8 * rng.choice([1, 3]),
        "intermediate_size": rng.randrange(16, 99),
        "num_hidden_layers": rng.choice([1, 2, 5]),
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": rng.randrange(32, 300),
        "max_position_embeddings": rng.randrange(16, 64),
    }
    if rng.random() < 0.5:
        raw["head_dim"] = rng.choice([8, 16, 24])
    if rng.random() < 0.5:
        raw["tie_word_embeddings"] = rng.random() < 0.5
    return raw


def mha(rng: random.Random, hidden: str, heads: str, layers: str, positions: str = "") -> Raw:
    """Sizes of a multi-head model under its own key names."""
    n = rng.choice([1, 2, 4])
    raw: Raw = {
        hidden: n * rng.choice([8, 24]),
        heads: n,
        layers: rng.choice([1, 2, 5]),
        "vocab_size": rng.randrange(32, 300),
    }
    if positions:
        raw[positions] = rng.randrange(16, 64)
    if rng.random() < 0.5:
        raw["tie_word_embeddings"] = rng.random() < 0.5
    return raw


def flags(rng: random.Random, *keys: str) -> Raw:
    """Each key true, false or absent."""
    return {key: rng.random() < 0.5 for key in keys if rng.random() < 0.7}


def llama_like(rng: random.Random, model_type: str, *switches: str, kv_heads: str = "optional", **more: Any) -> Raw:
    """Llama's sizes and the type's own switches; a head may be a classifier, or absent in the bare class."""
    raw = {"model_type": model_type, **gqa(rng), **flags(rng, *switches), **more}
    if kv_heads == "optional" and rng.random() < 0.2:
        del raw["num_key_value_heads"]
        raw["num_attention_heads"] = 4  # every class default of key/value heads that is not 4 or fewer is null
        raw["hidden_size"] = 96
    return raw


def headed(sample: Callable[[random.Random], Raw], stem: str) -> Callable[[random.Random], Raw]:
    """The same with a classifier or no head now and then, as `architectures` says."""

    def drawn(rng: random.Random) -> Raw:
        raw = sample(rng)
        ending = rng.choice(["", "", "ForCausalLM", "Model", "ForSequenceClassification"])
        if ending:
            raw["architectures"] = [stem + ending]
        if ending == "ForSequenceClassification":
            raw["pad_token_id"] = 0
            if rng.random() < 0.5:
                raw["id2label"] = {str(i): str(i) for i in range(3)}
        return raw

    return drawn


def square(rng: random.Random, model_type: str) -> Raw:
    """Helium: heads times head_dim is the hidden size."""
    raw = llama_like(rng, model_type, "attention_bias", "mlp_bias", kv_heads="given")
    raw["head_dim"] = raw["hidden_size"] // raw["num_attention_heads"]
    return raw


def internlm3(rng: random.Random) -> Raw:
    """One bias for all, under old and new names."""
    raw, bias = llama_like(rng, "internlm3", kv_heads="given"), rng.random() < 0.5
    names = rng.choice([("qkv_bias", "bias"), ("attention_bias", "mlp_bias")])
    return {**raw, **dict.fromkeys(names, bias)}


def stablelm(rng: random.Random) -> Raw:
    """Every switch; no head_dim of its own."""
    switches = ("use_qkv_bias", "qk_layernorm", "use_parallel_residual")
    return llama_like(rng, "stablelm", *switches, kv_heads="given")


def apertus(rng: random.Random) -> Raw:
    """The activation that learns, and one that does not."""
    raw = llama_like(rng, "apertus", "attention_bias", rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    if rng.random() < 0.3:
        raw["hidden_act"] = "relu2"
    return raw


def gpt(rng: random.Random, model_type: str, *switches: str) -> Raw:
    """GPT's key names; n_inner given, null or absent."""
    raw = {"model_type": model_type, **mha(rng, "n_embd", "n_head", "n_layer", "n_positions"), **flags(rng, *switches)}
    if rng.random() < 0.5:
        raw["n_inner"] = rng.choice([None, 40])
    if model_type in ("gptj", "codegen"):
        raw["rotary_dim"] = 4
    return raw


def gpt_neo(rng: random.Random) -> Raw:
    """Global and local layers; intermediate_size given, null or absent."""
    raw = {"model_type": "gpt_neo", **mha(rng, "hidden_size", "num_heads", "num_layers", "max_position_embeddings")}
    raw["attention_types"] = [[["global"], raw["num_layers"]]]
    if rng.random() < 0.5:
        raw["intermediate_size"] = rng.choice([None, 40])
    return raw


def gpt_neox(rng: random.Random) -> Raw:
    """Parallel or not; biases on and off."""
    raw = mha(rng, "hidden_size", "num_attention_heads", "num_hidden_layers", "max_position_embeddings")
    raw |= {"model_type": "gpt_neox", "intermediate_size": rng.randrange(16, 99)}
    return raw | flags(rng, "attention_bias", "use_parallel_residual")


def bloom(rng: random.Random) -> Raw:
    """The old and the new name of the hidden size."""
    return {"model_type": "bloom", **mha(rng, rng.choice(["n_embed", "hidden_size"]), "n_head", "n_layer")}


def mpt(rng: random.Random) -> Raw:
    """An expansion ratio and a bias switch that the class does not read."""
    raw = {"model_type": "mpt", **mha(rng, "d_model", "n_heads", "n_layers", "max_seq_len")}
    return raw | {"expansion_ratio": rng.choice([2, 4])} | flags(rng, "no_bias")


def falcon(rng: random.Random) -> Raw:
    """Every architecture; any number of key/value heads and norms."""
    raw = mha(rng, "hidden_size", "num_attention_heads", "num_hidden_layers", "max_position_embeddings")
    raw |= flags(rng, "bias", "alibi", "multi_query", "new_decoder_architecture", "parallel_attn")
    if rng.random() < 0.5:
        raw["num_kv_heads"] = rng.choice([1, raw["num_attention_heads"]])
    if rng.random() < 0.5:
        raw["num_ln_in_parallel_attn"] = rng.choice([None, 1, 2])
    if rng.random() < 0.5:
        raw["ffn_hidden_size"] = rng.choice([None, 40])
    return {"model_type": "falcon", **raw}


def opt(rng: random.Random) -> Raw:
    """Narrow embeddings, post-norm, no biases, norms without weights."""
    raw = mha(rng, "hidden_size", "num_attention_heads", "num_hidden_layers", "max_position_embeddings")
    raw |= {"model_type": "opt", "ffn_dim": rng.randrange(16, 99), "pad_token_id": 1}
    raw |= flags(
        rng, "do_layer_norm_before", "enable_bias", "layer_norm_elementwise_affine", "_remove_final_layer_norm"
    )
    if rng.random() < 0.5:
        raw["word_embed_proj_dim"] = rng.choice([None, 20])
    return raw


def xglm(rng: random.Random) -> Raw:
    """fairseq's key names."""
    raw = mha(rng, "d_model", "attention_heads", "num_layers", "max_position_embeddings")
    return {"model_type": "xglm", **raw, "ffn_dim": rng.randrange(16, 99)}


def biogpt(rng: random.Random) -> Raw:
    """BERT's key names."""
    raw = mha(rng, "hidden_size", "num_attention_heads", "num_hidden_layers", "max_position_embeddings")
    return {"model_type": "biogpt", **raw, "intermediate_size": rng.randrange(16, 99)}


def like(model_type: str, *switches: str, **more: Any) -> Callable[[random.Random], Raw]:
    """The sample of a type that has Llama's keys."""
    return partial(_like, model_type=model_type, switches=switches, more=more)


def _like(rng: random.Random, model_type: str, switches: tuple[str, ...], more: Raw) -> Raw:
    return llama_like(rng, model_type, *switches, **more)


GIVEN: Raw = {"kv_heads": "given"}  # the class's default key/value heads would not divide four heads
NO_PAD: Raw = {"pad_token_id": None}  # the class's default padding token is beyond a small vocabulary
SAMPLES: dict[str, Callable[[random.Random], Raw]] = {
    "apertus": apertus,
    "arcee": like("arcee", "attention_bias", "mlp_bias"),
    "biogpt": biogpt,
    "bitnet": like("bitnet", "attention_bias", **GIVEN),
    "bloom": headed(bloom, "Bloom"),
    "codegen": partial(gpt, model_type="codegen"),
    "cohere": like("cohere", "attention_bias", "use_qk_norm"),
    "cohere2": like("cohere2", "attention_bias"),
    "cwm": like("cwm", "mlp_bias", **GIVEN, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
    "ernie4_5": like("ernie4_5", "use_bias"),
    "exaone4": like("exaone4", **GIVEN),
    "falcon": headed(falcon, "Falcon"),
    "gemma": headed(like("gemma", "attention_bias", **GIVEN), "Gemma"),
    "gemma2": headed(like("gemma2", "attention_bias"), "Gemma2"),
    "gemma3_text": like("gemma3_text", "attention_bias"),
    "glm": like("glm", "attention_bias", **NO_PAD),
    "glm4": like("glm4", "attention_bias", **NO_PAD),
    "gpt2": partial(gpt, model_type="gpt2"),
    "gpt_bigcode": partial(gpt, model_type="gpt_bigcode"),
    "gpt_neo": gpt_neo,
    "gpt_neox": headed(gpt_neox, "GPTNeoX"),
    "gptj": partial(gpt, model_type="gptj"),
    "granite": like("granite", "attention_bias", "mlp_bias"),
    "granite_swa": like("granite_swa", "attention_bias", "mlp_bias"),
    "helium": partial(square, model_type="helium"),
    "hunyuan_v1_dense": like("hunyuan_v1_dense", "attention_bias", head_dim=16),
    "hyperclovax": like("hyperclovax", "attention_bias", "mlp_bias", "use_post_norm"),
    "internlm3": internlm3,
    "iquestcoder": like("iquestcoder", "attention_bias", "mlp_bias", **GIVEN),
    "jais2": like("jais2", "attention_bias", "mlp_bias"),
    "llama": headed(like("llama", "attention_bias", "mlp_bias"), "Llama"),
    "ministral": like("ministral", **GIVEN, head_dim=16),
    "ministral3": like("ministral3", **GIVEN, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
    "mistral": headed(like("mistral", "attention_bias", **GIVEN), "Mistral"),
    "mpt": headed(mpt, "Mpt"),
    "nanochat": like("nanochat", "attention_bias"),
    "nemotron": like("nemotron", "attention_bias", "mlp_bias", **GIVEN),
    "olmo": like("olmo", "attention_bias"),
    "olmo2": like("olmo2", "attention_bias"),
    "olmo3": like("olmo3", "attention_bias"),
    "openai-gpt": partial(gpt, model_type="openai-gpt"),
    "opt": headed(opt, "OPT"),
    "phi": headed(like("phi", "qk_layernorm"), "Phi"),
    "phi3": like("phi3", "attention_bias", **NO_PAD),
    "qwen2": headed(like("qwen2", "attention_bias", **GIVEN), "Qwen2"),
    "qwen3": headed(like("qwen3", "attention_bias", **GIVEN), "Qwen3"),
    "seed_oss": like("seed_oss", "attention_bias", "attention_out_bias", "mlp_bias", **GIVEN),
    "smollm3": like("smollm3", "attention_bias", "mlp_bias", **NO_PAD),
    "stablelm": stablelm,
    "starcoder2": like("starcoder2", "use_bias"),
    "vaultgemma": like("vaultgemma", "attention_bias"),
    "xglm": xglm,
}
