"""Small GGUF files of many architectures, as llama.cpp reads them: our names and types, the gguf package's writer.

Nothing is in their tensors (the files are sparse): the engine reserves by shapes alone. That it loads a file at all
says that our names, shapes and types are the ones it looks for. `write(path, config, "q8_0")`; `CONFIGS` has one small
config.json of each architecture. Sizes show at two decimals of a MiB, rows are whole blocks of 256.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oomph.families import model_from_config
from oomph.formats import get
from oomph.formats.gguf import Gguf
from oomph.formats.gguf_convert import Converted, Row, convert
from oomph.formats.gguf_mixes import types_of
from oomph.formats.gguf_types import BY_NAME

BYTE_TOKENS = 256
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # kinds of tokens, gguf's TokenType


def _model(model_type: str, **keys: Any) -> dict[str, Any]:
    sizes = {
        "hidden_size": 512, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8,
        "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 8192,
    }  # fmt: skip
    return {"model_type": model_type, "dtype": "float16", **sizes, **keys}


_EXPERTS = {"num_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
_DELTA_NET = {
    "head_dim": 64, "linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_key_head_dim": 32,
    "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4, "num_hidden_layers": 8,
}  # fmt: skip
_LATENT = {
    "kv_lora_rank": 256, "qk_nope_head_dim": 64, "v_head_dim": 64, "qk_rope_head_dim": 32, "num_key_value_heads": 8,
    "n_routed_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
_GPT2 = {
    "model_type": "gpt2", "dtype": "float16", "n_embd": 512, "n_head": 8, "n_layer": 6, "vocab_size": 1024,
    "n_positions": 4096, "n_ctx": 4096,
}  # fmt: skip
_SSM = {"intermediate_size": 1024, "expand": 2}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _model("llama"),
    "llama-tied": _model("llama", tie_word_embeddings=True),
    "mistral": _model("mistral", sliding_window=None),
    "mixtral": _model("mixtral", num_local_experts=8, num_experts_per_tok=2),
    "qwen2": _model("qwen2"),
    "qwen3": _model("qwen3", head_dim=128),
    "qwen3moe": _model("qwen3_moe", head_dim=64, **_EXPERTS),
    "gemma2": _model("gemma2", head_dim=64, query_pre_attn_scalar=64, sliding_window=1024),
    "gemma3": _model("gemma3_text", head_dim=64, query_pre_attn_scalar=64, sliding_window=512, num_hidden_layers=7),
    "phi3": _model("phi3", sliding_window=None, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    "deepseek2": _model("deepseek_v3", q_lora_rank=256, **_LATENT),
    "deepseek2-lite": _model("deepseek_v2", q_lora_rank=None, **{**_LATENT, "num_hidden_layers": 27}),
    "gpt-oss": _model(
        "gpt_oss", num_local_experts=16, num_experts_per_tok=2, head_dim=64, sliding_window=128, intermediate_size=512
    ),
    "mamba": _model("mamba", state_size=16, **_SSM),
    "mamba2": _model("mamba2", state_size=64, head_dim=32, num_heads=32, n_groups=2, tie_word_embeddings=True, **_SSM),
    "qwen3next": _model("qwen3_next", shared_expert_intermediate_size=256, **{**_DELTA_NET, **_EXPERTS}),
    "lfm2": _model(
        "lfm2", full_attn_idxs=[2, 5], conv_L_cache=3, tie_word_embeddings=True, block_auto_adjust_ff_dim=False
    ),
    "command-r": _model("cohere", logit_scale=0.06),
    "cohere2": _model("cohere2", logit_scale=0.06, head_dim=64, sliding_window=1024, num_hidden_layers=8),
    "starcoder2": _model("starcoder2"),
    "gpt2": _GPT2,
    "olmoe": _model("olmoe", num_experts=16, num_experts_per_tok=2, num_key_value_heads=8),
    "stablelm": _model("stablelm", use_qkv_bias=True),
    "granite": _model("granite", logits_scaling=8.0),
    "glm4": _model("glm4", head_dim=64, partial_rotary_factor=0.5, attention_bias=True, pad_token_id=0),
}


_WINDOWS = (["sliding_attention"] * 2 + ["full_attention"]) * 2
_GEMMA4 = {
    "head_dim": 64, "global_head_dim": 128, "num_global_key_value_heads": 1, "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "sliding_window": 512, "layer_types": _WINDOWS,
    "pad_token_id": 0,
}  # fmt: skip
_LINEAR = (["linear_attention"] * 3 + ["full_attention"]) * 2

_NEOX = {
    "intermediate_size": 2048, "num_key_value_heads": 8, "use_parallel_residual": True, "rotary_pct": 0.25,
    "partial_rotary_factor": 0.25,
}  # fmt: skip

# Further architectures, for what costs no start of an engine.
MORE: dict[str, dict[str, Any]] = {
    "apertus": _model("apertus"),
    "arcee": _model("arcee", hidden_act="relu2"),
    "bloom": {
        "model_type": "bloom", "dtype": "float16", "hidden_size": 512, "n_head": 8, "num_attention_heads": 8,
        "n_layer": 6, "num_hidden_layers": 6, "vocab_size": 1024, "max_position_embeddings": 4096,
        "intermediate_size": 2048, "num_key_value_heads": 8,
    },
    "chatglm": _model("glm", head_dim=64, partial_rotary_factor=0.5, pad_token_id=0, attention_bias=True),
    "ernie4_5": _model("ernie4_5", head_dim=64),
    "ernie4_5-moe": _model(
        "ernie4_5_moe", moe_num_experts=16, moe_k=2, moe_intermediate_size=256, moe_num_shared_experts=1,
        moe_layer_start_index=1,
    ),
    "exaone4": _model("exaone4", sliding_window=None, layer_types=["full_attention"] * 6),
    "falcon": _model(
        "falcon", num_key_value_heads=1, intermediate_size=2048, multi_query=True, new_decoder_architecture=False,
        parallel_attn=True, bias=False,
    ),
    "falcon-new": _model(
        "falcon", intermediate_size=2048, new_decoder_architecture=True, num_kv_heads=2, parallel_attn=True, bias=False
    ),
    "gemma": _model("gemma", head_dim=64),
    "gemma4": _model("gemma4_text", **_GEMMA4),
    "gemma4-moe": _model(
        "gemma4_text", enable_moe_block=True, num_experts=16, top_k_experts=2, num_experts_per_tok=2,
        moe_intermediate_size=256, **_GEMMA4,
    ),
    "glm4moe": _model(
        "glm4_moe", head_dim=64, n_routed_experts=16, num_experts_per_tok=2, moe_intermediate_size=256,
        n_shared_experts=1, first_k_dense_replace=1, n_group=1, topk_group=1, use_qk_norm=True,
    ),
    "gptneox": _model("gpt_neox", **_NEOX),
    "gptneox-sequential": _model("gpt_neox", **{**_NEOX, "use_parallel_residual": False}),
    "granitemoe": _model("granitemoe", num_local_experts=8, num_experts_per_tok=2, logits_scaling=8.0),
    "hunyuan-dense": _model("hunyuan_v1_dense", head_dim=64),
    "lfm2moe": _model(
        "lfm2_moe", full_attn_idxs=[2, 5], conv_L_cache=3, tie_word_embeddings=True, num_dense_layers=2,
        layer_types=["conv", "conv", "full_attention"] * 2, **_EXPERTS,
    ),
    "llama4": _model(
        "llama4_text", sliding_window=8192, head_dim=64, num_local_experts=16, num_experts_per_tok=1,
        interleave_moe_layer_step=2, intermediate_size=256, intermediate_size_mlp=768, attention_chunk_size=8192,
        no_rope_layers=[1, 1, 1, 0, 1, 1], rope_scaling=None, attn_temperature_tuning=True, use_qk_norm=True,
    ),
    "minimax-m2": _model(
        "minimax_m2", head_dim=64, num_local_experts=16, num_experts_per_tok=2, intermediate_size=256, rotary_dim=32
    ),
    "nemotron": _model("nemotron"),
    "olmo": _model("olmo"),
    "olmo2": _model("olmo2"),
    "phi2": _model("phi", num_key_value_heads=8, partial_rotary_factor=0.5),
    "phimoe": _model(
        "phimoe", lm_head_bias=True, attention_bias=True, num_local_experts=8, num_experts_per_tok=2
    ),
    "qwen2moe": _model("qwen2_moe", shared_expert_intermediate_size=256, **_EXPERTS),
    "qwen2vl": _model("qwen2_vl", rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]}),
    "qwen3vl": {
        **_model("qwen3_vl", head_dim=64), "text_config": _model("qwen3_vl_text", head_dim=64),
        "vision_config": {
            "model_type": "qwen3_vl", "depth": 4, "hidden_size": 128, "num_heads": 4, "intermediate_size": 256,
            "out_hidden_size": 512, "deepstack_visual_indexes": [0, 1, 2], "patch_size": 16, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "num_position_embeddings": 16, "in_channels": 3,
        },
    },
    "qwen35": _model("qwen3_5_text", layer_types=_LINEAR, **_DELTA_NET),
    "qwen35moe": _model(
        "qwen3_5_moe_text", layer_types=_LINEAR, shared_expert_intermediate_size=256, **{**_DELTA_NET, **_EXPERTS}
    ),
    "seed_oss": _model("seed_oss", head_dim=64),
    "smollm3": _model("smollm3", pad_token_id=0),
    "starcoder": {**_GPT2, "model_type": "gpt_bigcode", "n_inner": 2048, "multi_query": True, "num_key_value_heads": 1},
}  # fmt: skip


def write(path: Path, config: dict[str, Any], stored: str = "gguf-f16") -> None:
    """Write a sparse GGUF file of a model in a format of ours ("gguf-f16", "gguf-bf16", "q8_0", "q4_k_m" ...)."""
    import gguf

    found = convert(model_from_config(config))
    writer = gguf.GGUFWriter(path, found.traits.arch)
    _metadata(writer, config, found)
    _vocabulary(writer, config["vocab_size"])
    end = 0
    for name, shape, kind in tensors(found, stored):
        n_bytes = BY_NAME[kind].tensor_bytes(shape)
        writer.add_tensor_info(name, _in_bytes(shape, kind), _numpy_type(kind), n_bytes, _raw_type(kind))
        end += aligned(n_bytes)
    finish(writer, path, end)


def aligned(n_bytes: int) -> int:
    """Return bytes rounded up to where the next tensor of a file may begin."""
    import gguf

    return -(-n_bytes // gguf.GGUF_DEFAULT_ALIGNMENT) * gguf.GGUF_DEFAULT_ALIGNMENT


def finish(writer: Any, path: Path, n_bytes: int) -> None:
    """Write the header, and room for so many bytes of tensors that has none on the disk."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(aligned(path.stat().st_size) + n_bytes)


def tensors(found: Converted, stored: str) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Yield name, shape (rows last) and ggml type of every tensor."""
    fmt = get(stored)
    assert isinstance(fmt, Gguf)
    rows = [row for rows in found.rows.values() for row in rows]
    kept = {placed: _dense(row, fmt) for row in rows for placed in row.placed()}
    types = types_of(kept, fmt.mix, found.traits) if fmt.mix else kept
    for placed in kept:
        name = placed.name if placed.layer < 0 else f"blk.{placed.layer}.{placed.name}"
        yield name, placed.shape, types[placed]
    if found.traits.arch == "gemma4":  # the converter computes it: half the head of full attention
        yield "rope_freqs.weight", (_GEMMA4["global_head_dim"] // 2,), "F32"


def _dense(row: Row, fmt: Gguf) -> str:
    if row.dense == "F32" or fmt.mix:
        return row.dense
    return {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}[fmt.rest]


def _numpy_type(kind: str) -> Any:
    import numpy as np

    return {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16)}.get(kind, np.dtype(np.uint8))


def _raw_type(kind: str) -> Any:
    import gguf

    return gguf.GGMLQuantizationType[kind]


def _in_bytes(shape: tuple[int, ...], kind: str) -> tuple[int, ...]:
    """The writer takes rows of other types in bytes."""
    if kind in ("F32", "F16"):
        return shape
    return (*shape[:-1], BY_NAME[kind].row_bytes(shape[-1]))


def _vocabulary(writer: Any, size: int) -> None:
    """Write a SentencePiece vocabulary: special tokens, bytes, and words that mean nothing."""
    assert size >= BYTE_TOKENS + len(SPECIAL_TOKENS)
    tokens = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(BYTE_TOKENS))]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * BYTE_TOKENS]
    words = size - len(tokens)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*tokens, *(f"w{number}" for number in range(words))])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([*kinds, *[NORMAL] * words])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def _metadata(writer: Any, config: dict[str, Any], found: Converted) -> None:
    """Write the keys an architecture's reader asks for; those it does not know do no harm."""
    get_ = config.get
    hidden, layers = config.get("hidden_size", get_("n_embd")), found.traits.layers
    heads = get_("num_attention_heads", get_("n_head"))
    writer.add_name("tiny")
    writer.add_context_length(get_("max_position_embeddings", get_("n_positions")))
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_feed_forward_length(get_("intermediate_size", 4 * hidden))
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_layer_norm_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    recurrent = found.traits.arch in ("mamba", "mamba2")
    writer.add_head_count(0 if recurrent else heads)
    writer.add_head_count_kv(0 if recurrent else _kv_heads(config, heads))
    if config["model_type"].startswith("deepseek"):
        _latent(writer, config)
    elif get_("head_dim") and not recurrent:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if not recurrent and "deepseek" not in config["model_type"]:
        dim = get_("head_dim", hidden // heads)
        writer.add_rope_dimension_count(int(dim * get_("partial_rotary_factor", 1.0)))
    if layers > get_("num_hidden_layers", layers):
        writer.add_nextn_predict_layers(layers - config["num_hidden_layers"])
    if get_("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if "logit_scale" in config or "logits_scaling" in config:
        writer.add_logit_scale(get_("logit_scale", get_("logits_scaling")))
    _experts(writer, config)
    _states(writer, config)
    _of_arch(writer, config, found.traits.arch)


def _kv_heads(config: dict[str, Any], heads: int) -> Any:
    if config["model_type"].startswith("deepseek"):
        return 1
    kv_heads = config.get("num_key_value_heads", heads)
    if "full_attn_idxs" in config:
        return [kv_heads if n in config["full_attn_idxs"] else 0 for n in range(config["num_hidden_layers"])]
    return kv_heads


def _latent(writer: Any, config: dict[str, Any]) -> None:
    import gguf

    rank, rope, nope = config["kv_lora_rank"], config["qk_rope_head_dim"], config["qk_nope_head_dim"]
    if config["q_lora_rank"]:
        writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(rank)
    writer.add_key_length(rank + rope)
    writer.add_value_length(rank)
    writer.add_key_length_mla(nope + rope)
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_rope_dimension_count(rope)
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_weights_scale(1.0)
    writer.add_expert_weights_norm(True)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def _experts(writer: Any, config: dict[str, Any]) -> None:
    experts = config.get("num_experts") or config.get("num_local_experts") or config.get("n_routed_experts")
    if not experts:
        return
    writer.add_expert_count(experts)
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config.get("moe_intermediate_size", config["intermediate_size"]))
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])


def _states(writer: Any, config: dict[str, Any]) -> None:
    """Write what recurrent layers are made of."""
    kind = config["model_type"]
    if kind == "lfm2":
        writer.add_shortconv_l_cache(config["conv_L_cache"])
    if kind in ("mamba", "mamba2"):
        inner = config["intermediate_size"]
        writer.add_ssm_conv_kernel(config.get("conv_kernel", 4))
        writer.add_ssm_inner_size(inner)
        writer.add_ssm_state_size(config["state_size"])
        rank = -(-config["hidden_size"] // config["state_size"])
        writer.add_ssm_time_step_rank(rank if kind == "mamba" else config["num_heads"])
        writer.add_ssm_group_count(config.get("n_groups", 0))
    if "linear_num_key_heads" in config:
        writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
        writer.add_ssm_state_size(config["linear_key_head_dim"])
        writer.add_ssm_group_count(config["linear_num_key_heads"])
        writer.add_ssm_time_step_rank(config["linear_num_value_heads"])
        writer.add_ssm_inner_size(config["linear_value_head_dim"] * config["linear_num_value_heads"])


def _of_arch(writer: Any, config: dict[str, Any], arch: str) -> None:
    """Write what only one architecture's reader asks for."""
    import gguf

    layers = config.get("num_hidden_layers", 0)
    if arch in ("glm4moe", "minimax-m2", "lfm2moe"):
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if arch in ("glm4moe", "ernie4_5-moe"):
        writer.add_leading_dense_block_count(1)
    if arch == "glm4moe":
        writer.add_expert_shared_count(1)
        writer.add_expert_weights_norm(True)
    if arch == "ernie4_5-moe":
        writer.add_expert_count(config["moe_num_experts"])
        writer.add_expert_used_count(config["moe_k"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
        writer.add_interleave_moe_layer_step(1)
        writer.add_expert_shared_feed_forward_length(config["moe_intermediate_size"])
    if arch == "lfm2moe":
        writer.add_leading_dense_block_count(config["num_dense_layers"])
        writer.add_shortconv_l_cache(config["conv_L_cache"])
    if arch == "apertus":
        for name in ("alpha_p", "alpha_n", "beta", "eps"):
            writer.add_array(f"xielu.{name}", [0.5] * layers)
    if arch == "llama4":
        writer.add_interleave_moe_layer_step(config["interleave_moe_layer_step"])
        writer.add_expert_feed_forward_length(config["intermediate_size"])
        writer.add_feed_forward_length(config["intermediate_size_mlp"])
    if arch == "gptneox":
        writer.add_parallel_residual(config["use_parallel_residual"])
    if arch == "qwen3vl":
        writer.add_uint32("qwen3vl.n_deepstack_layers", len(config["vision_config"]["deepstack_visual_indexes"]))
    if arch in ("qwen2vl", "qwen3vl", "qwen35", "qwen35moe"):
        writer.add_rope_dimension_sections([16, 24, 24, 0])
    if arch in ("qwen35", "qwen35moe"):
        writer.add_uint32(f"{arch}.full_attention_interval", 4)
    if arch == "gemma4":
        _gemma4(writer, config)


def _gemma4(writer: Any, config: dict[str, Any]) -> None:
    """Write the sizes of heads, which layers with a window have apart."""
    windowed = [kind == "sliding_attention" for kind in config["layer_types"]]
    of_all, few = config["num_key_value_heads"], config["num_global_key_value_heads"]
    writer.add_head_count_kv([of_all if each else few for each in windowed])
    for add, dim in (
        (writer.add_key_length, "global_head_dim"), (writer.add_value_length, "global_head_dim"),
        (writer.add_rope_dimension_count, "global_head_dim"), (writer.add_key_length_swa, "head_dim"),
        (writer.add_value_length_swa, "head_dim"), (writer.add_rope_dimension_count_swa, "head_dim"),
    ):  # fmt: skip
        add(config[dim])
    writer.add_sliding_window_pattern(windowed)
    for key in ("embedding_length_per_layer_input", "attention.shared_kv_layers"):
        writer.add_uint32(f"gemma4.{key}", 0)
