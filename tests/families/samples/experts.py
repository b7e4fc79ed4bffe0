"""Small random configs of the mixture-of-experts and latent-attention families."""

from __future__ import annotations

import random
from typing import Any

from tests.families.samples.dense import Raw, flags, gqa


def sizes(rng: random.Random, model_type: str, head_dim: bool = True, kv_heads: bool = True) -> Raw:
    """Attention sizes; a class without a null default for key/value heads must be given them."""
    raw = {"model_type": model_type, **gqa(rng)}
    if not head_dim:
        raw.pop("head_dim", None)
    if not kv_heads and rng.random() < 0.3:
        del raw["num_key_value_heads"]
    return raw


def picks(rng: random.Random, experts: str, top_k: str = "num_experts_per_tok") -> Raw:
    """A number of experts and how many a token uses."""
    count = rng.choice([2, 4, 7])
    return {experts: count, top_k: rng.randrange(1, count + 1)}


def ffn(rng: random.Random, *keys: str) -> Raw:
    """Distinct expert widths."""
    return dict(zip(keys, rng.sample(range(10, 70), len(keys)), strict=True))


def layer_words(rng: random.Random, raw: Raw, key: str, *words: str) -> Raw:
    """A list with one word per layer, or nothing."""
    return {key: [rng.choice(words) for _ in range(raw["num_hidden_layers"])]} if rng.random() < 0.5 else {}


def mixtral(rng: random.Random) -> Raw:
    """Experts in every layer, under either name of their number."""
    return {**sizes(rng, "mixtral"), **picks(rng, rng.choice(["num_local_experts", "num_experts"]))}


def phimoe(rng: random.Random) -> Raw:
    """LayerNorms; biases of attention and head on and off."""
    raw = {**sizes(rng, "phimoe"), **picks(rng, "num_local_experts"), **flags(rng, "attention_bias", "lm_head_bias")}
    if raw.get("lm_head_bias"):
        raw["tie_word_embeddings"] = False
    return raw


def minimax_m2(rng: random.Random) -> Raw:
    """Norms over all heads; modules announced that nothing builds."""
    raw = {**sizes(rng, "minimax_m2"), **picks(rng, "num_local_experts"), "head_dim": rng.choice([8, 16])}
    return {**raw, "num_mtp_modules": rng.choice([0, 3])}


def olmoe(rng: random.Random) -> Raw:
    """Norms over all heads, sized by hidden / heads even where head_dim differs."""
    return {**sizes(rng, "olmoe", kv_heads=False), **picks(rng, "num_experts"), **flags(rng, "attention_bias")}


def flex_olmo(rng: random.Random) -> Raw:
    """Norms after the blocks."""
    raw = {**sizes(rng, "flex_olmo", kv_heads=False), **picks(rng, "num_experts"), **flags(rng, "attention_bias")}
    return {**raw, "pad_token_id": 0}  # the class's own is a row that a small table has not


def qwen2_moe(rng: random.Random) -> Raw:
    """Sparse steps, layers that are only an MLP, no experts at all, biases off."""
    raw = {**sizes(rng, "qwen2_moe"), **picks(rng, "num_experts"), **flags(rng, "qkv_bias"), **steps(rng)}
    return {**raw, **ffn(rng, "moe_intermediate_size", "shared_expert_intermediate_size")}


def qwen3_moe(rng: random.Random) -> Raw:
    """As Qwen2 without a shared expert, norms on queries and keys."""
    raw = {**sizes(rng, "qwen3_moe"), **picks(rng, "num_experts"), **flags(rng, "attention_bias"), **steps(rng)}
    return {**raw, **ffn(rng, "moe_intermediate_size")}


def steps(rng: random.Random) -> Raw:
    """Which layers have experts, as Qwen says it."""
    found: Raw = {}
    if rng.random() < 0.5:
        found["decoder_sparse_step"] = rng.choice([1, 2, 3])
    if rng.random() < 0.5:
        found["mlp_only_layers"] = rng.choice([None, [], [0], [1, 3]])
    if rng.random() < 0.1:
        found["num_experts"] = 0
    return found


def mellum(rng: random.Random) -> Raw:
    """Dense and sparse layers by list."""
    raw = {**sizes(rng, "mellum"), **picks(rng, "num_experts"), **flags(rng, "attention_bias")}
    raw["head_dim"] = rng.choice([8, 16])
    return {**raw, **ffn(rng, "moe_intermediate_size"), **layer_words(rng, raw, "mlp_layer_types", "dense", "sparse")}


def granitemoe(rng: random.Random) -> Raw:
    """Fused experts."""
    raw = {**sizes(rng, "granitemoe", kv_heads=False), **picks(rng, "num_local_experts")}
    return {**raw, **flags(rng, "attention_bias")}


def granitemoeshared(rng: random.Random) -> Raw:
    """With and without the shared MLP."""
    return {**granitemoe(rng), "model_type": "granitemoeshared", "shared_intermediate_size": rng.choice([0, 21])}


def granitemoe_swa(rng: random.Random) -> Raw:
    """With attention sinks."""
    return {**granitemoeshared(rng), "model_type": "granitemoe_swa"}


def gpt_oss(rng: random.Random) -> Raw:
    """Biases per expert and in attention, which may be switched off."""
    raw = {**sizes(rng, "gpt_oss"), **picks(rng, "num_local_experts"), **flags(rng, "attention_bias")}
    return {**raw, "head_dim": rng.choice([8, 16, 24])}


def deepseek_moe(rng: random.Random, dense_first: bool = True) -> Raw:
    """Small experts, shared ones, and how many layers at the start have none."""
    raw = {**picks(rng, "n_routed_experts"), **ffn(rng, "moe_intermediate_size")}
    raw.update(n_shared_experts=rng.choice([1, 2]))
    if dense_first:
        raw["first_k_dense_replace"] = rng.choice([0, 1, 2, 9])
    return raw


def glm4_moe(rng: random.Random) -> Raw:
    """Norms on queries and keys on and off; prediction layers, which no class builds."""
    raw = {**sizes(rng, "glm4_moe"), **deepseek_moe(rng), **flags(rng, "attention_bias", "use_qk_norm")}
    return {**raw, "num_nextn_predict_layers": rng.choice([0, 1, 2])}


def dots1(rng: random.Random) -> Raw:
    """Norms on queries and keys."""
    return {**sizes(rng, "dots1"), **deepseek_moe(rng), **flags(rng, "attention_bias")}


def solar_open(rng: random.Random) -> Raw:
    """No dense layer."""
    raw = {**sizes(rng, "solar_open"), **deepseek_moe(rng, dense_first=False), **flags(rng, "attention_bias")}
    return {**raw, "head_dim": rng.choice([8, 16])}


def exaone_moe(rng: random.Random) -> Raw:
    """Dense layers by number or by list."""
    raw = {**sizes(rng, "exaone_moe"), **picks(rng, "num_experts"), **ffn(rng, "moe_intermediate_size")}
    raw.update(num_shared_experts=rng.choice([1, 2]), first_k_dense_replace=rng.choice([0, 1, 2]))
    return {**raw, **layer_words(rng, raw, "mlp_layer_types", "dense", "sparse")}


def hy_v3(rng: random.Random) -> Raw:
    """Biases of MLPs, experts excepted."""
    raw = {**sizes(rng, "hy_v3"), **picks(rng, "num_experts"), **ffn(rng, "moe_intermediate_size")}
    raw.update(num_shared_experts=rng.choice([1, 2]), head_dim=rng.choice([8, 16]))
    raw.update(flags(rng, "attention_bias", "mlp_bias"))
    return {**raw, **layer_words(rng, raw, "mlp_layer_types", "dense", "sparse")}


def mla(rng: random.Random, model_type: str, null_rank: bool = True) -> Raw:
    """Latent attention, every size its own; an explicit null rank of the queries where the class allows it."""
    heads = rng.choice([1, 2, 4])
    sizes = rng.sample(range(5, 60), 7)
    ranks = dict(zip(("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim"), sizes, strict=False))
    raw: Raw = {
        "model_type": model_type, "hidden_size": heads * 8 * rng.choice([1, 3]), "num_attention_heads": heads,
        "num_key_value_heads": heads, "intermediate_size": rng.randrange(70, 99),
        "num_hidden_layers": rng.choice([1, 2, 5]), "vocab_size": rng.randrange(100, 300),
        "max_position_embeddings": 64, "qk_rope_head_dim": rng.choice([2, 4, 8]), **ranks,
        **flags(rng, "attention_bias"),
    }  # fmt: skip
    if null_rank and rng.random() < 0.4:
        raw["q_lora_rank"] = None
    elif rng.random() < 0.2:
        del raw["q_lora_rank"]  # not null: the class's default
    if rng.random() < 0.5:
        raw["tie_word_embeddings"] = rng.random() < 0.5
    return raw


def deepseek_v2(rng: random.Random) -> Raw:
    """Biases of MLPs, experts excepted."""
    return {**mla(rng, "deepseek_v2"), **deepseek_moe(rng), **flags(rng, "mlp_bias")}


def deepseek_v3(rng: random.Random) -> Raw:
    """The number of dense layers given or the class's own; prediction layers, which no class builds."""
    raw = {**mla(rng, "deepseek_v3"), **deepseek_moe(rng), "num_nextn_predict_layers": rng.choice([0, 1, 2])}
    if rng.random() < 0.3:
        del raw["first_k_dense_replace"]
    return raw


def deepseek_v32(rng: random.Random) -> Raw:
    """An indexer in every layer; dense layers by number or list."""
    raw = {**mla(rng, "deepseek_v32", null_rank=False), **deepseek_moe(rng), **indexer(rng)}
    return {**raw, **layer_words(rng, raw, "mlp_layer_types", "dense", "sparse")}


def glm_moe_dsa(rng: random.Random) -> Raw:
    """Indexers by list, by pattern, by period, or everywhere."""
    raw = {**deepseek_v32(rng), "model_type": "glm_moe_dsa"}
    layers = raw["num_hidden_layers"]
    way = rng.choice(["list", "pattern", "period", "none"])
    if way == "list":
        raw["indexer_types"] = [rng.choice(["full", "shared"]) for _ in range(layers)]
    elif way == "pattern":
        raw["index_topk_pattern"] = "".join(rng.choice("FS") for _ in range(layers))
    elif way == "period":
        raw.update(index_topk_freq=rng.choice([1, 2, 3]), index_skip_topk_offset=rng.choice([0, 1, 3]))
    return raw


def indexer(rng: random.Random) -> Raw:
    """The indexer's heads."""
    return {"index_n_heads": rng.choice([2, 3]), "index_head_dim": rng.choice([10, 12]), "index_topk": 4}


def glm4_moe_lite(rng: random.Random) -> Raw:
    """Dense layers by list alone."""
    raw = {**mla(rng, "glm4_moe_lite"), **deepseek_moe(rng), "num_nextn_predict_layers": rng.choice([0, 1])}
    return {**raw, **layer_words(rng, raw, "mlp_layer_types", "dense", "sparse")}


def mistral4(rng: random.Random) -> Raw:
    """No automatic class: its own by name. The rotary share of a head must be a number without rounding."""
    raw = {**mla(rng, "mistral4"), **deepseek_moe(rng), "architectures": ["Mistral4ForCausalLM"]}
    return {**raw, "qk_nope_head_dim": raw["qk_rope_head_dim"] * rng.choice([1, 3])}


def axk1(rng: random.Random) -> Raw:
    """A norm behind the mixture; dense layers by number, period or list."""
    raw = {**mla(rng, "axk1", null_rank=False), **deepseek_moe(rng), "moe_layer_freq": rng.choice([1, 2])}
    if rng.random() < 0.3:
        del raw["first_k_dense_replace"]
    return {**raw, **layer_words(rng, raw, "mlp_layer_types", "dense", "sparse")}


def youtu(rng: random.Random) -> Raw:
    """Latent attention without experts."""
    return mla(rng, "youtu")


def deepseek_v4(rng: random.Random) -> Raw:
    """Three kinds of attention by words, ratios or rule; experts by hash or score; older and newer rates."""
    raw: Raw = {
        "model_type": "deepseek_v4", "hidden_size": rng.choice([24, 40]), "moe_intermediate_size": 19,
        "num_hidden_layers": rng.choice([1, 3, 6]), "num_attention_heads": rng.choice([2, 4]), "head_dim": 16,
        "q_lora_rank": 11, "n_routed_experts": 4, "num_experts_per_tok": 3, "vocab_size": rng.randrange(50, 99),
        "hc_mult": rng.choice([2, 3]), "o_groups": 2, "o_lora_rank": 7, "index_n_heads": 3, "index_head_dim": 6,
        "qk_rope_head_dim": 4, "num_nextn_predict_layers": rng.choice([0, 1, 2]), **flags(rng, "mlp_bias"),
    }  # fmt: skip
    layers = raw["num_hidden_layers"]
    way = rng.choice(["words", "ratios", "rule"])
    words = ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"]
    if way == "words":
        raw["layer_types"] = [rng.choice(words) for _ in range(layers)]
    elif way == "ratios":
        raw["compress_ratios"] = [rng.choice([0, 4, 128]) for _ in range(layers + 1)]
    if rng.random() < 0.5:
        raw["compress_rates"] = {words[1]: 2, words[2]: 8}
    elif rng.random() < 0.5:
        raw.update(compress_rate_csa=3, compress_rate_hca=9)
    if rng.random() < 0.5:
        raw["num_hash_layers"] = rng.choice([0, 2])
    return {**raw, **layer_words(rng, raw, "mlp_layer_types", "hash_moe", "moe")}


def ernie4_5_moe(rng: random.Random) -> Raw:
    """Experts from one layer to another, every n-th; no shared ones; one switch for all biases."""
    raw = {**sizes(rng, "ernie4_5_moe"), **picks(rng, "moe_num_experts", "moe_k"), **ffn(rng, "moe_intermediate_size")}
    raw.update(
        moe_num_shared_experts=rng.choice([0, 1, 3]),
        moe_layer_start_index=rng.choice([0, 1, 2]),
        moe_layer_end_index=rng.choice([-1, 2, 9]),
        moe_layer_interval=rng.choice([1, 2]),
        num_nextn_predict_layers=rng.choice([0, 1]),
        **flags(rng, "use_bias"),
    )
    return raw


def hunyuan_v1_moe(rng: random.Random) -> Raw:
    """One number of experts per token, or a list."""
    raw = {**sizes(rng, "hunyuan_v1_moe", kv_heads=False), **picks(rng, "num_experts", "moe_topk")}
    if rng.random() < 0.5:
        raw["moe_topk"] = [rng.choice([1, 2]) for _ in range(raw["num_hidden_layers"])]
    if rng.random() < 0.5 or raw.get("head_dim", 0) is None:
        raw["head_dim"] = 16
    if "head_dim" not in raw:
        raw["head_dim"] = raw["hidden_size"] // raw["num_attention_heads"]  # the class's own null does not build
    return {**raw, **flags(rng, "attention_bias")}


def mimo_v2_flash(rng: random.Random) -> Raw:
    """Two kinds of attention and of MLP by lists or by rule."""
    raw = {**sizes(rng, "mimo_v2_flash"), **picks(rng, "n_routed_experts"), **ffn(rng, "moe_intermediate_size")}
    kv = raw["num_key_value_heads"]
    raw.update(num_attention_heads=kv * 4, head_dim=rng.choice([12, 20]), v_head_dim=rng.choice([8, 14]))
    raw.update(layer_words(rng, raw, "layer_types", "full_attention", "sliding_attention"))
    raw.update(layer_words(rng, raw, "mlp_layer_types", "dense", "sparse"))
    return {**raw, **flags(rng, "attention_bias"), "num_nextn_predict_layers": rng.choice([0, 3])}


def llama4_text(rng: random.Random) -> Raw:
    """Mixtures by step or by list."""
    raw = {**sizes(rng, "llama4_text"), **picks(rng, "num_local_experts"), **ffn(rng, "intermediate_size_mlp")}
    raw.update(flags(rng, "attention_bias"), head_dim=rng.choice([8, 16]))
    if rng.random() < 0.5:
        raw["interleave_moe_layer_step"] = rng.choice([1, 2, 3])
    elif rng.random() < 0.5:
        raw["moe_layers"] = rng.choice([[], [0], [1, 2]])
    return raw


def minimax_m3_vl_text(rng: random.Random) -> Raw:
    """Indexed layers and mixtures by words, by the published config's older lists, or by rule."""
    raw = {**sizes(rng, "minimax_m3_vl_text"), **picks(rng, "num_local_experts"), "head_dim": rng.choice([8, 16])}
    raw.update(ffn(rng, "dense_intermediate_size", "shared_intermediate_size"))
    if rng.random() < 0.5:
        raw.update(index_n_heads=3, index_head_dim=10)
    raw.update(layer_words(rng, raw, "layer_types", "minimax_m3_sparse", "full_attention"))
    raw.update(layer_words(rng, raw, "mlp_layer_types", "dense", "sparse"))
    if rng.random() < 0.5:
        older: dict[str, Any] = {"sparse_num_index_heads": 2, "sparse_index_dim": 6}
        if rng.random() < 0.5:
            older["sparse_attention_freq"] = [rng.choice([0, 1]) for _ in range(raw["num_hidden_layers"])]
        raw["sparse_attention_config"] = older
    if rng.random() < 0.5:
        raw["moe_layer_freq"] = [rng.choice([0, 1]) for _ in range(raw["num_hidden_layers"])]
    return raw


def dbrx(rng: random.Random) -> Raw:
    """Nested sizes, given or absent."""
    heads = rng.choice([2, 4])
    raw: Raw = {
        "model_type": "dbrx", "d_model": heads * 8, "n_heads": heads, "n_layers": rng.choice([1, 3]),
        "vocab_size": rng.randrange(50, 99), "max_seq_len": 32,
        "ffn_config": {"ffn_hidden_size": 21, **picks(rng, "moe_num_experts", "moe_top_k")},
    }  # fmt: skip
    raw["attn_config"] = {"rope_theta": 10000.0}  # without which the class does not build
    if rng.random() < 0.5:
        raw["attn_config"]["kv_n_heads"] = 2
    return raw


def jetmoe(rng: random.Random) -> Raw:
    """Mixtures of attention maps and of MLPs."""
    raw = {"model_type": "jetmoe", **gqa(rng), **picks(rng, "num_local_experts"), "kv_channels": rng.choice([6, 10])}
    for key in ("head_dim", "num_attention_heads"):
        raw.pop(key, None)
    return raw


def afmoe(rng: random.Random) -> Raw:
    """Dense layers at the start, gated attention."""
    raw = {**sizes(rng, "afmoe", kv_heads=False), **picks(rng, "num_experts"), **ffn(rng, "moe_intermediate_size")}
    raw.update(num_dense_layers=rng.choice([0, 1, 9]), num_shared_experts=rng.choice([1, 2]))
    return {**raw, "head_dim": rng.choice([8, 16]), **flags(rng, "attention_bias")}


def step3p5(rng: random.Random) -> Raw:
    """Two kinds of attention and of MLP, lists that go on for prediction layers; the bare text model."""
    raw = {**sizes(rng, "step3p5"), **picks(rng, "n_routed_experts"), "head_dim": rng.choice([8, 16])}
    raw.update(ffn(rng, "moe_intermediate_size", "share_expert_dim"), architectures=["Step3p7TextModel"])
    raw.update(flags(rng, "attention_bias", "mlp_bias"))
    times = rng.choice([0, 2])
    if times:
        raw["num_nextn_predict_layers"] = times
    if rng.random() < 0.6:
        words = rng.choices(["full_attention", "sliding_attention"], k=raw["num_hidden_layers"] + times)
        raw.update(layer_types=words, sliding_window=8)
    if rng.random() < 0.5:
        raw["attention_other_setting"] = {"num_attention_heads": raw["num_attention_heads"] * 2}
    elif rng.random() < 0.5:
        raw["num_sliding_attention_heads"] = raw["num_attention_heads"] * 3
    if rng.random() < 0.5:
        raw["gating"] = rng.choice([True, "per-head", "per-element"])
    which = rng.choice(["words", "text", "list", "rule"])
    if which == "words":
        raw["mlp_layer_types"] = rng.choices(["dense", "sparse"], k=raw["num_hidden_layers"] + times)
    elif which != "rule":
        raw["moe_layers_enum"] = "1, 2,4" if which == "text" else [0, 3]
    return raw


def laguna(rng: random.Random) -> Raw:
    """Heads, attention and MLP of each layer's own; one gate for a head, or one for each of its channels."""
    raw = {**sizes(rng, "laguna"), **picks(rng, "num_experts"), "head_dim": rng.choice([8, 16])}
    raw.update(ffn(rng, "moe_intermediate_size", "shared_expert_intermediate_size"), sliding_window=8)
    raw.update(flags(rng, "attention_bias"))
    raw.update(layer_words(rng, raw, "layer_types", "full_attention", "sliding_attention"))
    raw.update(layer_words(rng, raw, "mlp_layer_types", "dense", "sparse"))
    if rng.random() < 0.5:
        few = raw["num_key_value_heads"]
        raw["num_attention_heads_per_layer"] = [few * rng.choice([1, 3]) for _ in range(raw["num_hidden_layers"])]
    if rng.random() < 0.5:
        raw["gating"] = rng.choice([True, "per-head", "per-element"])
    return raw


def longcat_flash(rng: random.Random) -> Raw:
    """Two of everything per layer. No do-nothing experts: the class allocates weights for them, checkpoints none."""
    raw = {**mla(rng, "longcat_flash", null_rank=False), **picks(rng, "n_routed_experts", "moe_topk")}
    raw["num_layers"] = raw.pop("num_hidden_layers")
    raw["ffn_hidden_size"] = raw.pop("intermediate_size")
    raw.update(expert_ffn_hidden_size=13, zero_expert_num=0)
    return {**raw, **flags(rng, "router_bias")}


SAMPLES = {
    sample.__name__: sample
    for sample in (
        mixtral, phimoe, minimax_m2, olmoe, flex_olmo, qwen2_moe, qwen3_moe, mellum, granitemoe, granitemoeshared,
        granitemoe_swa, gpt_oss, glm4_moe, dots1, solar_open, exaone_moe, hy_v3, deepseek_v2, deepseek_v3,
        deepseek_v32, glm_moe_dsa, glm4_moe_lite, mistral4, axk1, youtu, deepseek_v4, ernie4_5_moe, hunyuan_v1_moe,
        mimo_v2_flash, llama4_text, minimax_m3_vl_text, dbrx, jetmoe, afmoe, step3p5, laguna,
        longcat_flash,
    )
}  # fmt: skip
