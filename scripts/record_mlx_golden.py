"""Record what MLX stores of quantised models, and what mlx-lm's caches hold after a prompt and some tokens.

    pip install mlx[cpu] mlx-lm
    python scripts/record_mlx_golden.py

Tiny models of mlx-lm's own classes with random weights, on the CPU: shapes are those of any device. Writes
tests/engines/mlx_golden.json; tests/engines/test_mlx.py and tests/formats/test_mlx.py hold oomph against it.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "engines" / "mlx_golden.json"

LLAMA = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "max_position_embeddings": 32768, "tie_word_embeddings": False,
}  # fmt: skip
QWEN3 = {**LLAMA, "model_type": "qwen3", "tie_word_embeddings": True, "head_dim": 128}
QWEN3_MOE = {
    **QWEN3, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128,
    "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
}  # fmt: skip
GEMMA3 = {
    **LLAMA, "model_type": "gemma3_text", "num_hidden_layers": 7, "sliding_window": 300, "sliding_window_pattern": 6,
    "query_pre_attn_scalar": 64, "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000.0, "tie_word_embeddings": True,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
}  # fmt: skip
GEMMA2 = {
    **LLAMA, "model_type": "gemma2", "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    "query_pre_attn_scalar": 64, "sliding_window": 300, "tie_word_embeddings": True,
}  # fmt: skip
DEEPSEEK = {
    **LLAMA, "model_type": "deepseek_v3", "num_key_value_heads": 4, "q_lora_rank": 96, "kv_lora_rank": 64,
    "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64, "n_routed_experts": 4, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "moe_intermediate_size": 128, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "n_group": 1, "topk_group": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True,
    "routed_scaling_factor": 1.0, "rope_scaling": None, "attention_bias": False,
}  # fmt: skip
QWEN3_NEXT = {
    **QWEN3_MOE, "model_type": "qwen3_next", "full_attention_interval": 4, "linear_num_value_heads": 4,
    "linear_num_key_heads": 2, "linear_key_head_dim": 32, "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4,
    "shared_expert_intermediate_size": 128, "partial_rotary_factor": 0.25, "tie_word_embeddings": False,
}  # fmt: skip
MAMBA = {
    "model_type": "mamba", "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "state_size": 16,
    "num_hidden_layers": 2, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True, "time_step_rank": 16,
    "tie_word_embeddings": True,
}  # fmt: skip
MAMBA2 = {
    "model_type": "mamba2", "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "state_size": 16,
    "num_hidden_layers": 2, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True, "num_heads": 8, "head_dim": 64,
    "n_groups": 1, "tie_word_embeddings": True, "layer_norm_epsilon": 1e-5, "rms_norm": True, "expand": 2,
    "time_step_limit": [0.0, 1e9], "time_step_rank": 16, "chunk_size": 64,
}  # fmt: skip
LFM2 = {
    **LLAMA, "model_type": "lfm2", "norm_eps": 1e-5, "conv_bias": False, "conv_L_cache": 3, "block_dim": 256,
    "block_ff_dim": 384, "block_multiple_of": 64, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False,
    "full_attn_idxs": [1, 3], "layer_types": ["conv", "full_attention", "conv", "full_attention"],
}  # fmt: skip
QUANTISED = [
    *((QWEN3, bits, group, "affine") for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)),
    *((LLAMA, bits, group, mode) for mode, bits, group in (("mxfp4", 4, 32), ("nvfp4", 4, 16), ("mxfp8", 8, 32))),
    (LLAMA, 4, 64, "affine"), (QWEN3_MOE, 4, 64, "affine"), (QWEN3_MOE, 8, 32, "affine"), (DEEPSEEK, 4, 32, "affine"),
    (GEMMA3, 4, 64, "affine"), (QWEN3_NEXT, 4, 64, "affine"),
]  # fmt: skip
RECIPES = ["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"]
# Prompt, tokens written, step of the prefill, bits of the cache, where it starts to be quantised.
RUNS = [
    (1, 1, 2048, None, 0), (256, 1, 2048, None, 0), (257, 1, 2048, None, 0), (700, 40, 256, None, 0),
    (700, 90, 512, None, 0), (250, 300, 2048, None, 0),
]  # fmt: skip
QUANTISED_RUNS = [(700, 40, 256, 8, 0), (700, 40, 256, 4, 512), (300, 2, 256, 4, 5000), (600, 300, 512, 8, 400)]


def dtype_of(config: dict[str, Any]) -> str:
    """Return the dtype a model is run in: bf16, but MLX's CPU code multiplies by experts in fp32 only."""
    return "float32" if "num_experts_per_tok" in config else "bfloat16"


def made(config: dict[str, Any], dtype: str = "bfloat16") -> Any:
    """Return a model of mlx-lm's class with random weights."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import _get_classes

    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    model.update(tree_map(lambda x: x.astype(getattr(mx, dtype)), model.parameters()))
    if hasattr(model, "tie_word_embeddings"):
        model.sanitize({})  # Gemma 3's class ties the head once it has seen a checkpoint without one
    return model


def stored(model: Any) -> int:
    """Return the bytes of all that a checkpoint of the model holds."""
    from mlx.utils import tree_flatten

    return sum(array.nbytes for _, array in tree_flatten(model.parameters()))


def quantised(config: dict[str, Any], bits: int, group: int, mode: str, recipe: str = "") -> dict[str, Any]:
    """Return a row: a model as mlx-lm's convert quantises it, and what it writes into its config."""
    from mlx_lm.convert import mixed_quant_predicate_builder
    from mlx_lm.utils import quantize_model

    model = made(config)
    predicate = mixed_quant_predicate_builder(recipe, model, group) if recipe else None
    model, written = quantize_model(model, dict(config), group, bits, mode=mode, quant_predicate=predicate)
    found = {"bits": bits, "group": group, "mode": mode, "recipe": recipe, "bytes": stored(model)}
    return {"config": config, **found, "quantization": written["quantization"]}


def cached(config: dict[str, Any], prompt: int, tokens: int, step: int, bits: int | None, start: int) -> dict[str, Any]:
    """Return a row: what the caches hold when the last token is written; that token itself is not read again."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import make_prompt_cache

    model = made(config, dtype_of(config))
    caches = make_prompt_cache(model)
    read = mx.array([1] * prompt)
    options = {"prefill_step_size": step, "kv_bits": bits, "quantized_kv_start": start}
    for _ in generate_step(read, model, max_tokens=tokens, prompt_cache=caches, **options):
        pass
    return {
        "model_type": config["model_type"], "dtype": dtype_of(config),
        "prompt": prompt, "tokens": tokens, "step": step, "kv_bits": bits,
        "start": start, "classes": sorted({type(each).__name__ for each in caches}),
        "bytes": [each.nbytes for each in caches],
    }  # fmt: skip


def main() -> None:
    """Write the golden file."""
    rows = [quantised(*case) for case in QUANTISED] + [quantised(LLAMA, 4, 64, "affine", name) for name in RECIPES]
    models = (QWEN3, GEMMA3, GEMMA2, DEEPSEEK, QWEN3_NEXT, MAMBA, MAMBA2, LFM2)
    runs = [cached(config, *run) for config in models for run in RUNS]
    runs += [cached(QWEN3, *run) for run in QUANTISED_RUNS]
    configs = {config["model_type"]: config for config in models}
    found = {
        "recipe": "python scripts/record_mlx_golden.py",
        "versions": {name: version(name) for name in ("mlx", "mlx-lm")},
        "configs": configs, "quantised": rows, "cached": runs,
    }  # fmt: skip
    GOLDEN.write_text(json.dumps(found, separators=(",", ":")) + "\n")
    print(f"{len(rows)} quantised models and {len(runs)} caches", file=sys.stderr)


if __name__ == "__main__":
    main()
